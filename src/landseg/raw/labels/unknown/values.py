"""Label values that mean nothing: what is wrong, and what to do, as guessed from all values that occur."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.labels.mapping import IGNORE
from landseg.raw.labels.unknown.census import MOST_LISTED, LabelCensus
from landseg.raw.labels.unknown.near_values import centres_of
from landseg.raw.labels.unknown.proposals import MOST_CLASSES, NAME, NAME_MEANS, entries_of, flow_map, mask_map


def about_values(census: LabelCensus, config: DatasetConfig, source_uri: str) -> tuple[str, str]:
    """What is wrong with values, and what to do; `source_uri` is the dataset, or "" of an error about one file."""
    unknown = sorted(census.unknown)
    listed = census.listed(source_uri, str, unknown)
    if config.label_values is not None:
        hint = f"add {entries_of(_grouped(unknown))} to label_values, with {NAME_MEANS}"
        known = ", ".join(_range_text(first, last) for first, last, _ in config.label_values[:MOST_LISTED])
        problem = f"label values that label_values does not map: {listed}; expected {known}"
        return problem, _not_classes() if len(unknown) > MOST_CLASSES else hint
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
    if len(unknown) > MOST_CLASSES:
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
