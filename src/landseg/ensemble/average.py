"""The arithmetic of an ensemble on one tile: weighted sums, labels, uncertainty.

Models are summed in one fixed order, in float32 or, where stored integers allow it, exactly; each pixel on its own. So
the result does not depend on how tiles are shared among threads, workers or runs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.ensemble.codec import Dtype, Probs, Stored

Labels = NDArray[np.uint8]
"""(H, W) uint8, class ids."""
Subset = tuple[int, ...]
"""Positions of models, ascending."""

_MOST_MODELS_IN_ALL_SUBSETS = 5


def subsets(num_models: int) -> list[Subset]:
    """The ensembles that are scored, the whole one last.

    All subsets up to five models; of more, each model alone, all but each one, and all.
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
        weights: of each model.
    """

    dtypes: tuple[Dtype, ...]
    weights: tuple[float, ...]

    def labels(self, stored: Sequence[Stored], wanted: Sequence[Subset]) -> list[Labels]:
        """The most probable class of each pixel; of equal ones, the first.

        Args:
            stored: (C, H, W) of each model.
            wanted: the ensembles to compute.

        Returns:
            One label map per wanted ensemble.
        """
        num_classes, *size = stored[0].shape
        best = [np.empty(size, self._accumulator) for _ in wanted]
        labels = [np.zeros(size, np.uint8) for _ in wanted]
        # Class by class: a class's plane stays in the processor's cache while all ensembles use it.
        for class_id in range(num_classes):
            planes = [self._plane(model, values[class_id]) for model, values in enumerate(stored)]
            for subset, top, label in zip(wanted, best, labels, strict=True):
                total = planes[subset[0]]
                for model in subset[1:]:
                    total = total + planes[model]
                if class_id == 0:
                    top[...] = total
                else:
                    # Class ids rise, so the latest class that won has the largest: three times as fast as assigning.
                    won = (total > top).view(np.uint8)
                    won *= np.uint8(class_id)
                    np.maximum(label, won, out=label)
                    np.maximum(top, total, out=top)
        return labels

    def mean(self, probs: Sequence[Probs]) -> Probs:
        """The weighted mean of models' probabilities.

        Args:
            probs: (C, H, W) float32 of each model.

        Returns:
            (C, H, W) float32.
        """
        shares = [np.float32(weight / sum(self.weights)) for weight in self.weights]
        total: Probs = np.zeros_like(probs[0])
        for share, values in zip(shares, probs, strict=True):
            total += share * values
        return total

    @functools.cached_property
    def _factors(self) -> list[np.float32] | None:
        """What brings the models' stored values to one scale; None where they are on one already."""
        factors = [weight * dtype.unit for weight, dtype in zip(self.weights, self.dtypes, strict=True)]
        return None if len(set(factors)) == 1 else [np.float32(factor) for factor in factors]

    @functools.cached_property
    def _accumulator(self) -> np.dtype[Any]:
        """The type of a sum: no model's stored value is rounded in it, and no sum of integers is."""
        if self._factors is not None or not all(dtype.levels for dtype in self.dtypes):
            return np.dtype(np.float32)
        return np.dtype(np.uint16 if sum(dtype.levels for dtype in self.dtypes) < 2**16 else np.uint32)

    def _plane(self, model: int, values: Stored) -> NDArray[Any]:
        plane = values.astype(self._accumulator, copy=False)
        return plane if self._factors is None else plane * self._factors[model]


def entropy(mean: Probs) -> Probs:
    """How undecided an ensemble is: entropy over the classes, 1 where all are equally probable.

    Args:
        mean: (C, H, W) float32, mean probabilities.

    Returns:
        (H, W) float32 in 0-1.
    """
    total = np.maximum(mean.sum(axis=0), np.finfo(np.float32).tiny)
    share = mean / total  # rounding may have left a pixel a little off a sum of 1
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    result: Probs = -(share * logs).sum(axis=0) / np.float32(np.log(len(mean)))
    return np.clip(result, 0, 1)  # only rounding can leave it


def disagreement(stored: Sequence[Stored]) -> Probs:
    """How far models are apart: the probability mass on which not all of them agree.

    It is 1 - sum over classes of the least probability that any model gives the class; of two models, their total
    variation distance.

    Args:
        stored: (C, H, W) of each model, in any unit.

    Returns:
        (H, W) float32 in 0-1.
    """
    totals = [np.maximum(one.sum(axis=0, dtype=np.float32), np.finfo(np.float32).tiny) for one in stored]
    common = np.zeros(stored[0].shape[1:], np.float32)
    for planes in zip(*stored, strict=True):
        common += np.minimum.reduce([plane / total for plane, total in zip(planes, totals, strict=True)])
    return np.clip(1 - common, 0, 1)  # only rounding can leave it
