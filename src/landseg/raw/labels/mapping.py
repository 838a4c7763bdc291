"""`label_values` and `label_colours` of `dataset.yaml`: which stored values and colours mean which class."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from PIL import ImageColor

from landseg.contracts.dataset import MappedColour, MappedRange
from landseg.contracts.documents import short_repr

IGNORE = "ignore"
"""What a value or colour is mapped to that is neither trained on nor scored."""
_RANGE = re.compile(r"([+-]?\d+)(?:\s*(?:-|–|\.\.|…|\bto\b)\s*([+-]?\d+))?")
_HEX = re.compile(r"#?([0-9a-fA-F]{6})(?:ff|FF)?|#([0-9a-fA-F]{3})")
_TRIPLE = re.compile(r"(?:rgb)?[(\[]?\s*(\d{1,3})(?:\s*,\s*|\s+)(\d{1,3})(?:\s*,\s*|\s+)(\d{1,3})\s*[)\]]?")
_VALUE_EXAMPLE = '{10: tree, "20-30": shrub, 0: ignore}'
_COLOUR_EXAMPLE = '{"#ff0000": building, "0,255,0": tree, "#000000": ignore}'

T = TypeVar("T")


def parse_values(given: Any) -> tuple[MappedRange, ...]:
    """Ranges of stored values, sorted; those that touch and mean the same are one.

    Args:
        given: value, range (`"20-30"`) or list of them → class name or `ignore`; or class name → values.

    Raises:
        ValueError: something else, or one value with two meanings.
    """
    entries = sorted(
        ((first, last, name) for key, name in _entries(given, _ranges, _VALUE_EXAMPLE) for first, last in key),
        key=lambda entry: entry[:2],
    )
    merged: list[MappedRange] = []
    for first, last, name in entries:
        before = merged[-1] if merged else None
        if before is not None and first <= before[1] and name != before[2]:
            raise ValueError(f"value {first} has two meanings: {before[2] or IGNORE} and {name or IGNORE}")
        if before is not None and first <= before[1] + 1 and name == before[2]:
            merged[-1] = (before[0], max(last, before[1]), name)
        else:
            merged.append((first, last, name))
    return tuple(merged)


def parse_colours(given: Any) -> tuple[MappedColour, ...]:
    """Colours as `#rrggbb`, sorted.

    Args:
        given: colour (`"#ff0000"`, `"255,0,0"`, `[255, 0, 0]`, `red`) or list of them → class name or `ignore`; or
            class name → colours.

    Raises:
        ValueError: something else, or one colour with two meanings.
    """
    found: dict[str, str | None] = {}
    for colours, name in _entries(given, _colours, _COLOUR_EXAMPLE):
        for colour in colours:
            if found.get(colour, name) != name:
                raise ValueError(f"colour {colour} has two meanings: {found[colour] or IGNORE} and {name or IGNORE}")
            found[colour] = name
    return tuple(sorted(found.items()))


def parse_colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue of one colour as people write it.

    Raises:
        ValueError: something else.
    """
    red, green, blue = bytes.fromhex(_colours(text)[0][1:])
    return red, green, blue


def _entries(given: Any, parse: Callable[[Any], list[T]], example: str) -> Iterator[tuple[list[T], str | None]]:
    """Parsed keys and class names; the other way round where the classes were written first."""
    if not isinstance(given, dict) or not given:
        quotes = " (YAML takes # without quotes for the start of a comment)" if parse is _colours else ""
        raise ValueError(f"expected a map such as {example}{quotes}")
    if all(isinstance(key, str) for key in given) and not any(_parses(parse, key) for key in given):
        given_by_class = all(_parses(parse, value) for value in given.values())
        pairs = [(value, key) for key, value in given.items()] if given_by_class else list(given.items())
    else:
        pairs = list(given.items())
    for key, name in pairs:
        if not isinstance(name, str):
            quotes = "; YAML reads no and off as false, yes and on as true: write them in quotes"
            raise ValueError(
                f"expected a class name or {IGNORE} for {key}, found {name}{quotes * isinstance(name, bool)}"
            )
        yield parse(key), None if name == IGNORE else name


def _parses(parse: Callable[[Any], object], given: Any) -> bool:
    try:
        parse(given)
    except ValueError:
        return False
    return True


def _ranges(given: Any) -> list[tuple[int, int]]:
    """First and last stored value of each range."""
    if isinstance(given, tuple | list) and given:
        return list(itertools.chain.from_iterable(_ranges(item) for item in given))
    if isinstance(given, int | float) and not isinstance(given, bool) and given == int(given):
        return [(int(given), int(given))]
    parts = given.split(",") if isinstance(given, str) else [""]
    matches = [_RANGE.fullmatch(part.strip()) for part in parts]
    ranges = [(int(match[1]), int(match[2] or match[1])) for match in matches if match]
    if len(ranges) != len(parts) or any(first > last for first, last in ranges):
        raise ValueError(f"expected stored values such as 20, [20, 30] or 20-30, found {short_repr(given)}")
    return ranges


def _colours(given: Any) -> list[str]:
    if isinstance(given, tuple | list) and given:
        if len(given) == 3 and all(isinstance(part, int) and not isinstance(part, bool) for part in given):
            return [_hex_colour(given)]
        return list(itertools.chain.from_iterable(_colours(item) for item in given))
    if isinstance(given, int | float):
        raise ValueError(f"expected a colour, found the number {given}: write it in quotes, such as '#ff0000'")
    text = given.strip() if isinstance(given, str) else ""
    if match := _HEX.fullmatch(text):
        digits = match[1] or "".join(2 * digit for digit in match[2])
        return [f"#{digits.lower()}"]
    if match := _TRIPLE.fullmatch(text):
        return [_hex_colour([int(part) for part in match.groups()])]
    if text.lower() in ImageColor.colormap:
        return [_hex_colour(ImageColor.getrgb(text)[:3])]
    raise ValueError(f"expected a colour such as '#ff0000', '255,0,0' or [255, 0, 0], found {short_repr(given)}")


def _hex_colour(parts: Sequence[int]) -> str:
    if not all(0 <= part <= 255 for part in parts):
        raise ValueError(f"expected a colour of three values from 0 to 255, found {','.join(map(str, parts))}")
    return "#" + "".join(f"{part:02x}" for part in parts)
