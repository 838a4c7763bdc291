"""Label values and colours that mean nothing: one error for all of them, with what to write into `dataset.yaml`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import yaml

from landseg.contracts.errors import DataError
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.labels.mapping import IGNORE
from landseg.raw.labels.near_colours import main_colours
from landseg.raw.labels.near_values import centres_of
from landseg.raw.labels.rule import UnknownLabels

_SHOWN = 40
_MOST_CLASSES = 64
"""With more unknown values than this, no map is proposed: they are no classes."""
NAME = "NAME"
"""Stands in a proposed map for what only the user knows; no class is likely to be called so."""
_BLACK, _WHITE = 0, 0xFFFFFF
V = TypeVar("V", int, str)
NAME_MEANS = f"a class or {IGNORE} in place of each {NAME}"


class UnknownLabelsError(DataError):
    """A label holds values or colours that mean nothing.

    Attributes:
        labels: these values.
    """

    labels: UnknownLabels | None = None

    def __reduce__(self) -> tuple[Callable[..., DataError], tuple[object, ...]]:
        """Pickle with the values: errors cross process boundaries."""
        return _rebuilt, (self.where, self.problem, self.hint, self.labels)


def _rebuilt(where: str, problem: str, hint: str, labels: UnknownLabels | None) -> UnknownLabelsError:
    error = UnknownLabelsError(where, problem, hint)
    error.labels = labels
    return error


@dataclass
class LabelCensus:
    """Unknown values or colours of one or several labels.

    Attributes:
        unknown: pixels by value, or by colour (0xRRGGBB).
        known: pixels of the others, by staged value.
        files: the files of each unknown value: how many, and the first.
    """

    unknown: dict[int, int] = field(default_factory=dict)
    known: dict[int, int] = field(default_factory=dict)
    files: dict[int, tuple[int, str]] = field(default_factory=dict)

    def add(self, labels: UnknownLabels, where: str) -> None:
        """Count a label."""
        for value, number in labels.unknown:
            self.unknown[value] = self.unknown.get(value, 0) + number
            num_files, first = self.files.get(value, (0, where))
            self.files[value] = (num_files + 1, first)
        for value, number in labels.known:
            self.known[value] = self.known.get(value, 0) + number


def unknown_labels_error(labels: UnknownLabels, where: str, config: DatasetConfig) -> UnknownLabelsError:
    """The error of one label."""
    census = LabelCensus()
    census.add(labels, where)
    return _rebuilt(where, *_describe(labels.kind == "colours", census, config, ""), labels)


def dataset_label_errors(
    errors: Sequence[tuple[UnknownLabels, str]], known: Mapping[int, int], config: DatasetConfig, source_uri: str
) -> list[DataError]:
    """One error for all unknown values of a dataset, and one for all unknown colours.

    Args:
        errors: the unknown values of each label, and its file.
        known: pixels by staged value in the labels without unknown values.
        config: `dataset.yaml`.
        source_uri: the dataset.
    """
    result: list[DataError] = []
    for kind in ("values", "colours"):
        census = LabelCensus(known=dict(known))
        files = [where for labels, where in errors if labels.kind == kind]
        for labels, where in errors:
            if labels.kind == kind:
                census.add(labels, where)
        if files:
            where = files[0] if len(files) == 1 else source_uri
            source_uri = source_uri if len(files) > 1 else ""
            result.append(DataError(where, *_describe(kind == "colours", census, config, source_uri)))
    return result


def _describe(is_colour: bool, census: LabelCensus, config: DatasetConfig, source_uri: str) -> tuple[str, str]:
    """What is wrong and what to do."""
    if is_colour:
        problem, hint = _about_colours(census, config, source_uri)
    else:
        problem, hint = _about_values(census, config, source_uri)
    return problem, hint


def _listed(census: LabelCensus, source_uri: str, name: Callable[[int], str], values: Sequence[int]) -> str:
    """Values with their pixels; files, where there are several, of the first."""
    parts = []
    for position, value in enumerate(values[:_SHOWN]):
        num_files, first = census.files[value]
        files = ""
        if source_uri and position == 0:
            first = first.removeprefix(f"{source_uri}/")
            files = f" in {first}" if num_files == 1 else f" in {num_files} files, the first {first}"
        parts.append(f"{name(value)} ({census.unknown[value]} px{files})")
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(parts) + more


def _about_values(census: LabelCensus, config: DatasetConfig, source_uri: str) -> tuple[str, str]:
    unknown = sorted(census.unknown)
    listed = _listed(census, source_uri, str, unknown)
    if config.label_values is not None:
        hint = f"add {_entries(_grouped(unknown))} to label_values, with {NAME_MEANS}"
        known = ", ".join(_range_text(first, last) for first, last, _ in config.label_values[:_SHOWN])
        problem = f"label values that label_values does not map: {listed}; expected {known}"
        return problem, _not_classes() if len(unknown) > _MOST_CLASSES else hint
    problem = (
        f"label values outside the class list: {listed}; expected {config.label_offset}-{config.last_label} for the "
        f"{len(config.classes)} classes, or {config.ignore_index} (ignored)"
    )
    smoothed = _about_smoothed(Counter(census.unknown) + Counter(census.known), config)
    return problem, smoothed or _hint(unknown, set(census.known), config)


def _about_smoothed(counts: Mapping[int, int], config: DatasetConfig) -> str:
    """The map of values that lie around a few, as smoothing and lossy compression leave them; "" of others."""
    centres = centres_of(counts, len(config.classes))
    if not centres:
        return ""
    limits = [0, *((low + high) // 2 + 1 for low, high in itertools.pairwise(centres)), 256]
    ranges = [f"{low}-{high - 1}" for low, high in itertools.pairwise(limits)]
    names = config.classes if len(centres) == len(config.classes) else [NAME] * len(centres)
    entries = flow_map(dict(zip(ranges, names, strict=True)))
    said = f", with {NAME_MEANS}" if NAME in names else ""
    around = ", ".join(map(str, centres))
    place = "in place of label_offset, write" if config.label_offset else "in dataset.yaml, write"
    return (
        f"values around {around}, as smoothing or lossy compression leaves them: {place} label_values: {entries}{said}"
    )


def _hint(unknown: Sequence[int], known: set[int], config: DatasetConfig) -> str:
    """What to do about unknown values, guessed from all that occur."""
    offset, num_classes = config.label_offset, len(config.classes)
    has_ignored = config.ignore_index in known
    chose_ignored = "ignore_index" in config.model_fields_set
    codes = sorted({*unknown, *known} - {config.ignore_index})
    # Of a mask of two values none is ignored: one class alone cannot be learnt.
    is_mask = len(codes) == 2 and codes[0] == 0 and codes[1] >= 255
    if len(unknown) == 1 and not 0 <= unknown[0] < 255 and not (chose_ignored or has_ignored or is_mask):
        return f"if {unknown[0]} means unlabelled, set ignore_index: {unknown[0]}"
    if offset == 0 and codes[0] >= 1 and codes[-1] == num_classes:
        return f"values seem to run 1-{num_classes}: set label_offset: 1"
    if offset == 0 and codes[0] == 0 and codes[-1] == num_classes and not has_ignored and not chose_ignored:
        return f"if classes run 1-{num_classes} and 0 is unlabelled: set label_offset: 1 and ignore_index: 0"
    if offset > 0 and codes[0] >= 0 and codes[-1] <= num_classes - 1 and config.ignore_index >= num_classes:
        return f"values seem to run 0-{num_classes - 1}: set label_offset: 0"
    if len(unknown) > _MOST_CLASSES:
        return _not_classes()
    if is_mask and num_classes > len(codes):
        proposed = f"label_values: {flow_map(mask_map(codes, ()))}, with {NAME_MEANS}"
        return f"this looks like a 0/{codes[1]} mask: in dataset.yaml, write {proposed}"
    return _proposed_map(codes, has_ignored or chose_ignored, config)


def _proposed_map(codes: Sequence[int], has_ignored: bool, config: DatasetConfig) -> str:
    """A map that takes the codes in the classes' order where their number fits, and otherwise leaves names open."""
    ignored = {config.ignore_index: IGNORE} if has_ignored else {}
    outsiders = [code for code in codes if code <= 0 or code >= 255]
    place = f"in place of label_offset: {config.label_offset}" if config.label_offset else "in dataset.yaml"
    if len(codes) == len(config.classes):
        entries = dict(zip(codes, config.classes, strict=True)) | ignored
    elif len(codes) == len(config.classes) + 1 and len(outsiders) == 1 and config.ignore_index not in codes:
        inner = [code for code in codes if code not in outsiders]
        entries = {outsiders[0]: IGNORE} | dict(zip(inner, config.classes, strict=True))
    else:
        # Classes keep the values that they have; without a 0 among them, they more likely run from 1.
        first = 1 if config.label_offset == 0 and codes[0] > 0 else config.label_offset
        named = {first + index: name for index, name in enumerate(config.classes)}
        rest = [code for code in codes if code not in named and code != config.ignore_index]
        entries = {key: name for key, name in named.items() if key != config.ignore_index} | ignored
        proposed: dict[int | str, str] = dict(entries.items())
        return f"{place}, write label_values: {flow_map(proposed | _grouped(rest))}, with {NAME_MEANS}"
    return f"if these are class codes in the order of classes: {place}, write label_values: {flow_map(entries)}"


def _not_classes() -> str:
    return "so many values look like an image or like measurements, not like classes: write labels of class values"


def _about_colours(census: LabelCensus, config: DatasetConfig, source_uri: str) -> tuple[str, str]:
    meanings = colour_meanings(config)

    def name(colour: int) -> str:
        if not meanings:
            return hex_colour(colour)
        nearest = min(meanings, key=lambda known: (_distance(known, colour), known))
        return f"{hex_colour(colour)}, nearest to {meanings[nearest]} {hex_colour(nearest)}"

    unknown = sorted(census.unknown, key=lambda colour: (-census.unknown[colour], colour))
    listed = _listed(census, source_uri, name, unknown)
    if config.label_colours is not None:
        problem = f"label colours that label_colours does not map: {listed}"
    elif config.palette is not None:
        problem = f"label colours outside the palette: {listed}"
    else:
        problem = f"labels hold colours, and dataset.yaml does not say what they mean: {listed}"
    main, tolerance = main_colours(census.unknown, meanings)
    if len(main) > _MOST_CLASSES:
        hint = "so many colours come from smoothing or from lossy compression: write the labels again without them"
        return problem, hint
    near = f"colour_tolerance: {tolerance} for colours that are near to these"
    added = {hex_colour(colour): NAME for colour in main}
    if config.label_colours is not None:
        said = [f"{_entries(added)} to label_colours, with {NAME_MEANS}"] if added else []
        return problem, f"add {' and '.join([*said, *([near] if tolerance else [])])}"
    near = f", and {near}" if tolerance else ""
    place = colour_map_place(config)
    by_value = {hex_colour(colour): _name_of_grey(colour, config) for colour in sorted(unknown)}
    if sorted(unknown) == [_BLACK, _WHITE] and not config.says_what_is_ignored:
        entries = mask_map(map(hex_colour, (_BLACK, _WHITE)), config.classes)
        named = f", with {NAME_MEANS}" if NAME in entries.values() else ""
        return (
            problem,
            f"if this is a mask of black and white: {place}, write label_colours: {flow_map(entries)}{named}",
        )
    if NAME not in by_value.values():
        return (
            problem,
            f"if all three channels hold the class value: {place}, write label_colours: {flow_map(by_value)}",
        )
    entries = {hex_colour(colour): name for colour, name in meanings.items()} | added
    named = f", with {NAME_MEANS}" if added else ""
    return problem, f"{place}, write label_colours: {flow_map(entries)}{named}{near}"


def colour_map_place(config: DatasetConfig) -> str:
    """Where `label_colours` goes: it does not go together with what says the same of values."""
    others = [f"label_offset: {config.label_offset}"] if config.label_offset else []
    if config.ignore_index != 255 and config.label_values is None:
        others.append(f"ignore_index: {config.ignore_index}")
    return f"in place of {' and '.join(others)}" if others else "in dataset.yaml"


def _name_of_grey(colour: int, config: DatasetConfig) -> str:
    """What the value means that a grey has in all channels; NAME for other colours and values."""
    value = colour & 255
    if colour != value * 0x010101:
        return NAME
    if config.label_values is not None:
        named = {name or IGNORE for first, last, name in config.label_values if first <= value <= last}
        return named.pop() if named else NAME
    if value == config.ignore_index:
        return IGNORE
    position = value - config.label_offset
    return config.classes[position] if 0 <= position < len(config.classes) else NAME


def colour_meanings(config: DatasetConfig) -> dict[int, str]:
    """What colours (0xRRGGBB) mean: those of `label_colours`, else those of `palette`."""
    if config.label_colours is not None:
        return {int(colour[1:], 16): name or IGNORE for colour, name in config.label_colours}
    named = zip(config.palette or (), config.classes, strict=bool(config.palette))
    return {red << 16 | green << 8 | blue: name for (red, green, blue), name in named}


def _distance(first: int, second: int) -> int:
    return sum((((first >> shift) & 255) - ((second >> shift) & 255)) ** 2 for shift in (0, 8, 16))


def hex_colour(colour: int) -> str:
    """0xRRGGBB as `#rrggbb`."""
    return f"#{colour:06x}"


def _grouped(values: Iterable[int]) -> dict[int | str, str]:
    """Values without a meaning, neighbours as ranges."""
    ranges: list[list[int]] = []
    for value in sorted(values):
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])
    return {first if first == last else _range_text(first, last): NAME for first, last in ranges}


def _range_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}" if first >= 0 else f"{first}..{last}"


def mask_map(values: Iterable[V], classes: Sequence[str]) -> dict[V, str]:
    """The map of a mask's two values, whose names are open unless there are two classes."""
    return dict(zip(values, classes if len(classes) == 2 else (NAME, NAME), strict=True))


def flow_map(entries: Mapping[int, str] | Mapping[str, str] | Mapping[int | str, str]) -> str:
    """A map on one line of YAML."""
    return str(
        yaml.safe_dump(dict(entries), default_flow_style=True, sort_keys=False, width=1 << 20, allow_unicode=True)
    ).strip()


def _entries(entries: Mapping[int | str, str] | Mapping[str, str]) -> str:
    return flow_map(entries)[1:-1]
