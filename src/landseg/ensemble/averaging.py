"""The arithmetic of an ensemble on one tile: weighted sums, labels, uncertainty.

Models are summed in one fixed order, in float32 or, where stored integers allow it, exactly, and each pixel on its own.
So the result does not depend on how tiles are divided among threads, shares or runs.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landseg.probabilities.codec import Dtype, Probs, Stored

Labels = NDArray[np.uint8]
"""(H, W) uint8, class ids."""
Subset = tuple[int, ...]
"""Positions of models, ascending."""

_MOST_MODELS_IN_ALL_SUBSETS = 5


def subsets(num_models: int) -> list[Subset]:
    """The ensembles that are scored, the whole one last.

    Up to five models, all subsets; beyond, each model alone, all models but one, and all of them.
    """
    everyone = tuple(range(num_models))
    sizes = range(1, num_models + 1)
    if num_models > _MOST_MODELS_IN_ALL_SUBSETS:
        sizes = range(0)
        kept = [*((i,) for i in everyone), *itertools.combinations(everyone, num_models - 1), everyone]
        return [tuple(subset) for subset in kept]
    return [subset for size in sizes for subset in itertools.combinations(everyone, size)]


@dataclass(frozen=True)
class Average:
    """A weighted average of models, up to a factor that is the same for all classes.

    Attributes:
        dtypes: how each model's probabilities are stored.
        weights: of each model; only their proportions count. An ensemble whose weights are all 0 is averaged with equal
            ones.
        temperatures: of each model: its probabilities are raised to 1 / temperature and normalised to a sum of 1, as if
            its logits had been divided by the temperature. 1 leaves them as they are.
    """

    dtypes: tuple[Dtype, ...]
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]

    def prepare(self, stored: Sequence[Stored]) -> list[Stored]:
        """Apply the temperatures.

        Args:
            stored: (C, H, W) of each model, as stored.

        Returns:
            The same array where the temperature is 1, else (C, H, W) float32.
        """
        parts = zip(stored, self.dtypes, self.temperatures, strict=True)
        return [values if t == 1 else _tempered(values, dtype, t) for values, dtype, t in parts]

    def labels(self, prepared: Sequence[Stored], wanted: Sequence[Subset]) -> list[Labels]:
        """The most probable class of each pixel; of equally probable ones, the first.

        Args:
            prepared: (C, H, W) of each model, as :meth:`prepare` returns it, or a blend of such tiles, in float32.
            wanted: the ensembles to compute.

        Returns:
            One label map per wanted ensemble.
        """
        num_classes, *size = prepared[0].shape
        integers = all(values.dtype.kind == "u" for values in prepared)
        sums = [self._sum(subset, integers) for subset in wanted]
        best = [np.empty(size, one.accumulator) for one in sums]
        labels = [np.zeros(size, np.uint8) for _ in sums]
        # Class by class, so that a class's plane stays in the processor's cache while all ensembles use it.
        for class_id in range(num_classes):
            planes = [values[class_id] for values in prepared]
            for one, top, label in zip(sums, best, labels, strict=True):
                total = one(planes)
                if class_id == 0:
                    top[...] = total
                else:
                    # Class ids rise, so the last class that won has the largest: three times as fast as assigning.
                    won = (total > top).view(np.uint8)
                    won *= np.uint8(class_id)
                    np.maximum(label, won, out=label)
                    np.maximum(top, total, out=top)
        return labels

    def mean(self, prepared: Sequence[Stored]) -> Probs:
        """The weighted mean of models' probabilities.

        Args:
            prepared: (C, H, W) of each model, as :meth:`prepare` returns it.

        Returns:
            (C, H, W) float32.
        """
        total: Probs = np.zeros(prepared[0].shape, np.float32)
        for share, unit, values in zip(_proportions(self.weights), self._units, prepared, strict=True):
            total += np.float32(share * unit) * values.astype(np.float32)
        return total

    def confidences(self, prepared: Sequence[Stored]) -> list[Probs]:
        """How probable each model takes the class to be that it chooses: (H, W) float32 each.

        Args:
            prepared: (C, H, W) of each model, as :meth:`prepare` returns it.
        """
        pairs = zip(self._units, prepared, strict=True)
        return [values.max(axis=0).astype(np.float32) * np.float32(unit) for unit, values in pairs]

    @functools.cached_property
    def _units(self) -> tuple[float, ...]:
        """The probability that a prepared value of 1 stands for, for each model."""
        return tuple(d.unit if t == 1 else 1.0 for d, t in zip(self.dtypes, self.temperatures, strict=True))

    @functools.cache  # noqa: B019  (a handful of subsets; an Average lives as long as its stage)
    def _sum(self, subset: Subset, integers: bool) -> _Sum:
        shares = _proportions([self.weights[model] for model in subset])
        factors = [share * self._units[model] for share, model in zip(shares, subset, strict=True)]
        levels = [self.dtypes[model].levels if self.temperatures[model] == 1 else 0 for model in subset]
        alike = len(set(factors)) == 1
        if alike and integers and all(levels):
            # No sum of integers is rounded.
            return _Sum(subset, None, np.dtype(np.uint16 if sum(levels) < 2**16 else np.uint32))
        return _Sum(subset, None if alike else tuple(map(np.float32, factors)), np.dtype(np.float32))


def _proportions(weights: Sequence[float]) -> list[float]:
    """Weights that sum to 1, in float64 at any magnitude; equal ones where all are 0."""
    largest = max(weights)
    if not largest:
        return [1 / len(weights)] * len(weights)
    scaled = [weight / largest for weight in weights]  # neither overflows nor vanishes when summed
    return [weight / math.fsum(scaled) for weight in scaled]


class _Sum(NamedTuple):
    """How an ensemble's planes are summed: the factors that bring them to one scale, or None if they share one."""

    subset: Subset
    factors: tuple[np.float32, ...] | None
    accumulator: np.dtype[Any]

    def __call__(self, planes: Sequence[Stored]) -> NDArray[Any]:
        terms = [planes[model].astype(self.accumulator, copy=False) for model in self.subset]
        if self.factors is not None:
            terms = [term * factor for term, factor in zip(terms, self.factors, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def _tempered(stored: Stored, dtype: Dtype, temperature: float) -> Probs:
    power = np.float32(1 / temperature)
    if dtype.levels:
        table = (np.arange(dtype.levels + 1, dtype=np.float32) * np.float32(dtype.unit)) ** power
        raised: Probs = np.take(table, stored)
    else:
        raised = stored.astype(np.float32) ** power
    raised /= np.maximum(raised.sum(axis=0), np.finfo(np.float32).tiny)
    return raised


def entropy(mean: Probs) -> Probs:
    """How undecided an ensemble is: entropy over the classes, normalised to 1 where all are equally probable.

    Args:
        mean: (C, H, W) float32, mean probabilities.

    Returns:
        (H, W) float32 in 0-1.
    """
    total = np.maximum(mean.sum(axis=0), np.finfo(np.float32).tiny)
    share = mean / total  # rounding may have moved a pixel's sum slightly away from 1
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    result: Probs = -(share * logs).sum(axis=0) / np.float32(np.log(len(mean)))
    return np.clip(result, 0, 1)  # only rounding can leave that range


def confidence(mean: Probs) -> Probs:
    """How probable an ensemble takes the class to be that it chooses.

    Args:
        mean: (C, H, W) float32, mean probabilities, in any unit.

    Returns:
        (H, W) float32 in 0-1.
    """
    total = np.maximum(mean.sum(axis=0), np.finfo(np.float32).tiny)
    result: Probs = mean.max(axis=0) / total
    return np.clip(result, 0, 1)  # only rounding can leave that range


def disagreement(stored: Sequence[Stored]) -> Probs:
    """How far apart models are: the probability mass on which not all of them agree.

    It is 1 minus the sum over classes of the least probability that any model gives the class; for two models, their
    total variation distance.

    Args:
        stored: (C, H, W) of each model, in any unit, tempered or not.

    Returns:
        (H, W) float32 in 0-1.
    """
    totals = [np.maximum(one.sum(axis=0, dtype=np.float32), np.finfo(np.float32).tiny) for one in stored]
    common = np.zeros(stored[0].shape[1:], np.float32)
    for planes in zip(*stored, strict=True):
        common += np.minimum.reduce([plane / total for plane, total in zip(planes, totals, strict=True)])
    return np.clip(1 - common, 0, 1)  # only rounding can leave that range
