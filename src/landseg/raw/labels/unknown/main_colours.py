"""Coloured masks that were saved as JPEG once, or smoothed: which colours were drawn, and how far others are off."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_MOST_TOLERANCE = 48
"""Colours further apart than this are proposed as classes of their own."""
_TRACE = 0.05
"""Of a colour's pixels: a colour near to it with more is one of its own."""


def main_colours(pixels: Mapping[int, int], listed: Collection[int]) -> tuple[list[int], int]:
    """The colours that stand for those near to them, where masks hold a few colours and traces around them.

    Args:
        pixels: pixels by colour that means nothing yet.
        listed: colours that do.

    Returns:
        The unlisted colours that are no traces, most pixels first, and the tolerance that takes all traces; 0 without
        any.
    """
    main = dict.fromkeys(listed, 0)
    tolerance = 0
    added = []
    for colour in sorted(pixels, key=lambda colour: (-pixels[colour], colour)):
        nearest = min(main, key=lambda other: _distance(colour, other), default=None)
        distance = _MOST_TOLERANCE + 1 if nearest is None else _distance(colour, nearest)
        is_rare = nearest is not None and (nearest in listed or pixels[colour] <= main[nearest] * _TRACE)
        if distance <= _MOST_TOLERANCE and is_rare:
            tolerance = max(tolerance, distance)
        else:
            main[colour] = pixels[colour]
            added.append(colour)
    return added, tolerance


def _distance(first: int, second: int) -> int:
    """The largest difference of a channel."""
    return max(abs(((first >> shift) & 255) - ((second >> shift) & 255)) for shift in (16, 8, 0))
