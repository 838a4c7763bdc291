"""How certain scores are: bootstrap intervals over tiles, or over the scenes that tiles were cut from.

Pixels of one tile resemble each other, and so do tiles of one scene. So neither is resampled but units, which are
scenes and tiles that were not cut from one: B times, as many units as there are, with replacement, and each resample is
scored. All ensembles are scored on the same resamples, so their differences have intervals of their own, far narrower
than those of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
"""Low and high end."""

CONFIDENCE = 0.95
RESAMPLES = 1000
_SEED = 0
MIN_UNITS = 2
"""Of fewer scenes or tiles, nothing can be inferred about others."""
_BLOCK_UNITS = 256


class Resampling:
    """Sums of areas over drawn units, added up block by block, so that the units are never all in memory.

    First it is drawn how many of a resample's units fall into each block; then, with the block's own seed, which of the
    block's units they are. So blocks may come in any order.

    Args:
        sizes: the number of units in each block.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        total = sum(sizes)
        shares = np.array(sizes, np.float64) / max(total, 1)
        self._drawn = np.random.default_rng(_SEED).multinomial(total, shares, RESAMPLES)
        self._sums: Any = 0
        self._is_enough = total >= MIN_UNITS

    def add(self, block: int, areas: NDArray[np.integer[Any]]) -> None:
        """Add a block.

        Args:
            block: its position in `sizes`.
            areas: (U, ..., 3, C) per unit, by class: pixels that are right, of the truth, of the prediction.
        """
        if not self._is_enough or not len(areas):
            return
        rng = np.random.default_rng((_SEED, block))
        times = rng.multinomial(self._drawn[:, block], np.full(len(areas), 1 / len(areas)))
        # Whole numbers below 2^53: exact in any order.
        flat = times.astype(np.float64) @ areas.reshape(len(areas), -1).astype(np.float64)
        self._sums += flat.reshape(RESAMPLES, *areas.shape[1:])

    @property
    def sums(self) -> NDArray[np.float64] | None:
        """(B, ..., 3, C) whole numbers; None for fewer than two units, from which nothing can be inferred."""
        return self._sums if self._is_enough else None


def resample(areas: NDArray[np.integer[Any]]) -> NDArray[np.float64] | None:
    """:class:`Resampling` of (U, ..., 3, C) areas that are in memory."""
    blocks = [areas[start : start + _BLOCK_UNITS] for start in range(0, len(areas), _BLOCK_UNITS)]
    resampling = Resampling([len(block) for block in blocks])
    for number, block in enumerate(blocks):
        resampling.add(number, block)
    return resampling.sums


def area_scores(areas: NDArray[np.float64], classes: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """As :func:`landseg.scoring.scores.scores`, for many sums of areas at once; NaN where there is no score.

    Args:
        areas: (..., 3, C).
        classes: the C names.

    Returns:
        By the name of the score: (...).
    """
    right, truth, pred = areas[..., 0, :], areas[..., 1, :], areas[..., 2, :]
    with np.errstate(invalid="ignore"):
        iou = np.where(truth > 0, right / (truth + pred - right), np.nan)
        acc = right / truth
        all_acc = right.sum(axis=-1) / truth.sum(axis=-1)
    return {
        "mIoU": _mean(iou),
        "mAcc": _mean(acc),
        "aAcc": all_acc,
        **{f"IoU.{name}": iou[..., i] for i, name in enumerate(classes)},
    }


def interval(values: NDArray[np.float64]) -> Interval | None:
    """The percentile interval of a score over its draws, leaving out those without a score; None where none has one."""
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
