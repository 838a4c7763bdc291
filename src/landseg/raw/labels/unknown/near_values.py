"""Grey masks whose values are not pure any more, as after smoothing or lossy compression: which values were drawn."""

from __future__ import annotations

from collections.abc import Mapping

_LEVELS = 256
_NEAR = (16, 8, 4)
"""How far values may be from the one that was drawn. The first that explains most pixels counts."""
_LEAST_SHARE = 0.9
"""Of pixels that are near to a value that was drawn; edges may have any."""
_LEAST_SHARE_OF_ENDS = 0.7
"""Of pixels that are black or white: nothing else than a mask has so many."""
_CROWD = 3
"""Values near to one end, of which at most one was drawn."""
_MOST_EXPLAINED = _LEVELS // 2
"""Levels that are near to any: with more, anything would be explained, an image too."""
_MOST_CODES = 64
"""With more different values, they are no class codes."""


def centres_of(counts: Mapping[int, int], num_classes: int) -> list[int]:
    """The values that were drawn, in order; empty where the values are no smoothed mask.

    Args:
        counts: pixels by value.
        num_classes: of the dataset.
    """
    if not counts or min(counts) < 0 or max(counts) >= _LEVELS or len(counts) <= 2 * (num_classes + 1):
        return []
    if ends := _black_and_white(counts):
        return ends
    for near in _NEAR if len(counts) > _MOST_CODES else ():
        found = _centres(counts, near)
        if len(found) > 1 and len(found) * (2 * near + 1) <= _MOST_EXPLAINED:
            return sorted(found)
    return []


def _black_and_white(counts: Mapping[int, int]) -> list[int]:
    """The most frequent values near to both ends, where most pixels are; class codes do not crowd there."""
    low = {value: count for value, count in counts.items() if value <= _NEAR[0]}
    high = {value: count for value, count in counts.items() if value >= _LEVELS - 1 - _NEAR[0]}
    share = (sum(low.values()) + sum(high.values())) / sum(counts.values())
    if share < _LEAST_SHARE_OF_ENDS or min(len(low), len(high)) < _CROWD:
        return []
    return [max(some, key=some.__getitem__) for some in (low, high)]


def _centres(counts: Mapping[int, int], near: int) -> list[int]:
    """The most frequent value, then that of the values that are not near to it, until most pixels are near to one."""
    left, found = dict(counts), []
    enough = (1 - _LEAST_SHARE) * sum(counts.values())
    while sum(left.values()) > enough:
        centre = max(left, key=lambda value: (left[value], -value))
        found.append(centre)
        left = {value: count for value, count in left.items() if abs(value - centre) > near}
    return found
