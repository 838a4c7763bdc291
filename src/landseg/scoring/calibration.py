"""Calibration: whether a model is right as often as its confidence says.

The expected calibration error (ECE) of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equations 3
and 5: pixels are sorted into bins of equal width by their confidence, the probability of the class that was chosen. Of
each bin, accuracy and mean confidence are compared; the ECE is the mean of the absolute differences, weighted by
pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
"""As in Guo et al.; bin m holds confidences above (m - 1) / 15 up to m / 15."""
_UNITS = 65535
"""Confidences are counted in whole units of 1/65535, a multiple of 15 bins: sums are exact in any order."""

ReliabilityCounts = NDArray[np.int64]
"""(3, B) int64, by bin: pixels; pixels that are right; the sum of their confidences in units of 1/65535."""


def reliability_counts(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> ReliabilityCounts:
    """Count pixels by confidence.

    Args:
        confidence: (n,) float32 in 0-1, the probability of the class that was chosen.
        right: (n,) bool: whether it is the true one.
    """
    units = np.rint(np.clip(confidence, 0, 1) * np.float32(_UNITS)).astype(np.int64)
    bins = np.maximum(units - 1, 0) // (_UNITS // NUM_BINS)
    counts = [np.bincount(bins, weights, NUM_BINS) for weights in (None, right, units)]
    return np.stack([np.rint(one).astype(np.int64) for one in counts])


def reliability(counts: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean confidence and accuracy of each bin, (B,) float64 in 0-1; NaN where it holds no pixel."""
    pixels, right, units = counts.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return units / _UNITS / pixels, right / pixels


def calibration_error(counts: NDArray[np.integer[Any]]) -> float | None:
    """The expected calibration error, 0-1; None where no pixel was counted."""
    pixels, right, units = counts.astype(np.float64)
    return float(np.abs(right - units / _UNITS).sum() / pixels.sum()) if pixels.sum() else None


def mean_confidence(counts: NDArray[np.integer[Any]]) -> float | None:
    """The mean confidence, 0-1; None where no pixel was counted."""
    return float(counts[2].sum() / _UNITS / counts[0].sum()) if counts[0].sum() else None


def accuracy(counts: NDArray[np.integer[Any]]) -> float | None:
    """The share of pixels that are right, 0-1; None where no pixel was counted."""
    return float(counts[1].sum() / counts[0].sum()) if counts[0].sum() else None
