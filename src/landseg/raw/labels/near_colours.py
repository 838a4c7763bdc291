"""Colours that are not quite those of `label_colours`: those of masks that were saved as JPEG once, or smoothed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 14
_SHIFTS = np.array([16, 8, 0])


class NearColours:
    """Finds the listed colour that a colour is near to.

    Args:
        staged: what listed colours (0xRRGGBB) are staged as.
        tolerance: how far each channel may be from the listed colour.

    Attributes:
        tolerance: the same.
    """

    def __init__(self, staged: Mapping[int, int], tolerance: int) -> None:
        self.tolerance = tolerance
        self._listed = _channels(np.array(sorted(staged), np.int64))
        self._staged = np.array([staged[colour] for colour in sorted(staged)], np.uint8)

    def assign(self, values: NDArray[Any], staged: NDArray[np.uint8], is_known: NDArray[np.bool_]) -> int:
        """Stage pixels of unknown colours as the nearest listed colour within the tolerance, if all nearest agree.

        Args:
            values: (H, W) colours, as 0xRRGGBB.
            staged: (H, W), written where a colour is near to a listed one.
            is_known: (H, W), set there.

        Returns:
            The number of these pixels.
        """
        if not len(self._listed):
            return 0
        colours, inverse = np.unique(values[~is_known], return_inverse=True)
        found = np.zeros(len(colours), np.bool_)
        meant = np.zeros(len(colours), np.uint8)
        for start in range(0, len(colours), _CHUNK):
            part = np.s_[start : start + _CHUNK]
            found[part], meant[part] = self._nearest(colours[part].astype(np.int64))
        near = found[inverse]
        where = np.nonzero(~is_known)
        rows, columns = where[0][near], where[1][near]
        staged[rows, columns] = meant[inverse[near]]
        is_known[rows, columns] = True
        return int(near.sum())

    def _nearest(self, colours: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        """Whether each colour is near to a listed one, and what it is then staged as."""
        distances = np.abs(_channels(colours)[:, np.newaxis] - self._listed).max(axis=2)
        nearest = distances.min(axis=1)
        ties = distances == nearest[:, np.newaxis]
        first = self._staged[ties.argmax(axis=1)]
        is_clear = (np.where(ties, self._staged, first[:, np.newaxis]) == first[:, np.newaxis]).all(axis=1)
        return (nearest <= self.tolerance) & is_clear, first


def _channels(colours: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, 3) red, green and blue."""
    channels: NDArray[np.int64] = (colours[:, np.newaxis] >> _SHIFTS) & 255
    return channels
