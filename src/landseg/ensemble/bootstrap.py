"""How sure scores are: bootstrap intervals over tiles.

Pixels of one tile are alike, so tiles are drawn, not pixels: B times as many tiles as there are, with replacement, and
the scores of each draw. The same draws serve all ensembles, so their differences have intervals of their own, far
narrower than those of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 1000
_SEED = 0
_MIN_TILES = 2
_BLOCK = 1 << 21
"""Draws times tiles at a time, and"""
_TILES = 1 << 13
"""tiles at a time: they bound memory at any number of tiles."""


def resample(areas: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Sums of areas over drawn tiles.

    Args:
        areas: (T, ..., 3, C) per tile: pixels that are right, of the truth, of the prediction, by class.

    Returns:
        (B, ..., 3, C) whole numbers; None of fewer than two tiles, which say nothing about others.
    """
    num_tiles = len(areas)
    if num_tiles < _MIN_TILES:
        return None
    flat = areas.reshape(num_tiles, -1)
    rng = np.random.default_rng(_SEED)
    sums = np.zeros((RESAMPLES, flat.shape[1]))
    draws = max(1, min(RESAMPLES, _BLOCK // num_tiles))
    for first in range(0, RESAMPLES, draws):
        block = sums[first : first + draws]
        times = rng.multinomial(num_tiles, np.full(num_tiles, 1 / num_tiles), len(block))
        for start in range(0, num_tiles, _TILES):
            tiles = slice(start, start + _TILES)
            # Whole numbers below 2^53: exact in any order.
            block += times[:, tiles].astype(np.float64) @ flat[tiles].astype(np.float64)
    return sums.reshape(RESAMPLES, *areas.shape[1:])


def area_scores(areas: NDArray[np.float64], classes: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """As :func:`landseg.ensemble.metrics.scores`, for many sums of areas at once; NaN where there is no score.

    Args:
        areas: (..., 3, C).
        classes: the C names.

    Returns:
        By the name of the score: (...).
    """
    right, truth, pred = areas[..., 0, :], areas[..., 1, :], areas[..., 2, :]
    with np.errstate(invalid="ignore"):
        iou, acc = right / (truth + pred - right), right / truth
        all_acc = right.sum(axis=-1) / truth.sum(axis=-1)
    return {
        "mIoU": _mean(iou),
        "mAcc": _mean(acc),
        "aAcc": all_acc,
        **{f"IoU.{name}": iou[..., i] for i, name in enumerate(classes)},
    }


def interval(values: NDArray[np.float64]) -> Interval | None:
    """The percentile interval of a score's draws, those without a score left out; None where none has one."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1)
    return mean
