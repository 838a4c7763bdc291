"""How certain scores are: intervals over tiles, or over the scenes that tiles were cut from.

Pixels of one tile resemble each other, and so do tiles of one scene. So neither is resampled but units, which are
scenes and tiles that were not cut from one: B times, as many units as there are, with replacement, and each resample is
scored. All ensembles are scored on the same resamples, so their differences have intervals of their own, far narrower
than those of the scores.

An interval is the score, plus and minus its bootstrap standard error times a quantile of Student's t distribution:
percentiles of the resamples would be too narrow where units are few (`python -m benchmarks intervals`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist
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
_GROUP_BLOCKS = 128
_GROUPS_HELD = 4
_T_QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060)
"""Of Student's t with 1 to 8 degrees of freedom, for a confidence of 95 %."""


class Resampling:
    """Sums of areas over drawn units, added up block by block, so that the units are never all in memory.

    First it is drawn how many of a resample's units fall into each group of neighbouring blocks; then, with the group's
    own seed, how many into each of its blocks; then, with the block's own, which of the block's units they are. So
    blocks may come in any order, and memory holds the draws of a few groups: those of all blocks would take as many
    megabytes as there are hundreds of blocks.

    Args:
        sizes: the number of units in each block.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        total = sum(sizes)
        self._sizes = np.array(sizes, np.int64)
        groups = np.add.reduceat(self._sizes, np.arange(0, len(sizes), _GROUP_BLOCKS))
        self._groups = np.random.default_rng((_SEED, 0, 2)).multinomial(total, groups / max(total, 1), RESAMPLES)
        self._drawn = functools.lru_cache(_GROUPS_HELD)(self._draw)
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
        group, place = divmod(block, _GROUP_BLOCKS)
        times = rng.multinomial(self._drawn(group)[:, place], np.full(len(areas), 1 / len(areas)))
        # Whole numbers below 2^53: exact in any order.
        flat = times.astype(np.float64) @ areas.reshape(len(areas), -1).astype(np.float64)
        self._sums += flat.reshape(RESAMPLES, *areas.shape[1:])

    def _draw(self, group: int) -> NDArray[np.int64]:
        """(B, G): how many of each resample's units fall into each block of a group."""
        sizes = self._sizes[group * _GROUP_BLOCKS : (group + 1) * _GROUP_BLOCKS]
        rng = np.random.default_rng((_SEED, group, 1))
        return rng.multinomial(self._groups[:, group], sizes / max(int(sizes.sum()), 1))

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


def interval(
    value: float, draws: NDArray[np.float64], num_units: int, limits: Interval = (0.0, 1.0)
) -> Interval | None:
    """The interval of a score.

    With n units, a bootstrap's standard error is too small by the factor sqrt((n - 1) / n), and the score's distance
    from the true one is spread as Student's t with n - 1 degrees of freedom rather than as a normal variable:
    Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), section 3.2.

    Args:
        value: the score.
        draws: (B,) the scores of the resamples; NaN where there is none.
        num_units: how many scenes and tiles were resampled; of a class's score, those that hold it.
        limits: the least and the largest value that there can be.

    Returns:
        None of fewer than two units, and where fewer than two resamples have a score.
    """
    known = draws[~np.isnan(draws)]
    if num_units < MIN_UNITS or len(known) < 2:
        return None
    reach = t_quantile(num_units - 1) * math.sqrt(num_units / (num_units - 1)) * float(known.std(ddof=1))
    return max(limits[0], value - reach), min(limits[1], value + reach)


def t_quantile(degrees: int) -> float:
    """How far Student's t reaches to either side of 0 with the probability :data:`CONFIDENCE`.

    From a table, beyond it by the expansion 26.7.5 of Abramowitz and Stegun, Handbook of Mathematical Functions, 1964.
    """
    if degrees <= len(_T_QUANTILES):
        return _T_QUANTILES[degrees - 1]
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / degrees**power for power, term in enumerate(terms, 1))


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1)
    return mean
