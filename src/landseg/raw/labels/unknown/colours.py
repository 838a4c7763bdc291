"""Label colours that mean nothing: what is wrong, and what to do."""

from __future__ import annotations

from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.labels.mapping import IGNORE
from landseg.raw.labels.unknown.census import LabelCensus
from landseg.raw.labels.unknown.main_colours import main_colours
from landseg.raw.labels.unknown.proposals import MOST_CLASSES, NAME, NAME_MEANS, entries_of, flow_map, mask_map

_BLACK, _WHITE = 0, 0xFFFFFF


def about_colours(census: LabelCensus, config: DatasetConfig, source_uri: str) -> tuple[str, str]:
    """What is wrong with colours, and what to do; `source_uri` is the dataset, or "" of an error about one file."""
    meanings = colour_meanings(config)

    def name(colour: int) -> str:
        if not meanings:
            return hex_colour(colour)
        nearest = min(meanings, key=lambda known: (_distance(known, colour), known))
        return f"{hex_colour(colour)}, nearest to {meanings[nearest]} {hex_colour(nearest)}"

    unknown = sorted(census.unknown, key=lambda colour: (-census.unknown[colour], colour))
    listed = census.listed(source_uri, name, unknown)
    if config.label_colours is not None:
        problem = f"label colours that label_colours does not map: {listed}"
    elif config.palette is not None:
        problem = f"label colours outside the palette: {listed}"
    else:
        problem = f"labels hold colours, and dataset.yaml does not say what they mean: {listed}"
    main, tolerance = main_colours(census.unknown, meanings)
    if len(main) > MOST_CLASSES:
        hint = "so many colours come from smoothing or from lossy compression: write the labels again without them"
        return problem, hint
    near = f"colour_tolerance: {tolerance} for colours that are near to these"
    added = {hex_colour(colour): NAME for colour in main}
    if config.label_colours is not None:
        said = [f"{entries_of(added)} to label_colours, with {NAME_MEANS}"] if added else []
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
