"""Which of many things are alike, by a number of each: the first of them, and the others."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_PARTS = 4
"""Keys are copied and sorted in so many parts, which takes so much less memory."""


class FirstOfAlike:
    """Numbers of things in order, some of which are like an earlier one. Takes 8 bytes of memory for each."""

    def __init__(self) -> None:
        self._keys = array("q")
        self._without = array("I")

    def add(self, key: int | None) -> None:
        """Add a thing; those with the same key are alike, one without is like no other."""
        if key is None:
            self._without.append(len(self._keys))
        self._keys.append(key or 0)

    def pairs(self, excluded: NDArray[np.int64] | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Those that are like an earlier one.

        Args:
            excluded: positions that are passed over.

        Returns:
            (P,) their positions, ascending; (P,) for each the position of the first one like it.
        """
        keys = np.frombuffer(self._keys, np.int64)
        counts = np.ones(len(keys), np.bool_)
        counts[np.frombuffer(self._without, np.uint32)] = False
        if excluded is not None:
            counts[excluded] = False
        # Mostly all differ, which sorting the keys alone tells: positions are looked at of those that occur twice.
        twice = np.concatenate([_that_occur_twice(keys[counts & part]) for part in _parts(keys)])
        positions = np.flatnonzero(counts & np.isin(keys, twice)) if len(twice) else np.empty(0, np.int64)
        _, first, which = np.unique(keys[positions], return_index=True, return_inverse=True)
        firsts = positions[first][which]
        later = firsts != positions
        return positions[later], firsts[later]


def _parts(keys: NDArray[np.int64]) -> Iterator[NDArray[np.bool_]]:
    """Which keys belong to each part: equal ones to the same."""
    part = np.bitwise_and(keys, _PARTS - 1, out=np.empty(len(keys), np.uint8), casting="unsafe")
    return (part == number for number in range(_PARTS))


def _that_occur_twice(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    keys.sort()
    return np.unique(keys[1:][keys[1:] == keys[:-1]])
