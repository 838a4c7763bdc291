"""What is counted of a tile: pixels of each class, uncertainty, scores, calibration, and how well outlines are met.

Calibration and outlines are counted on a grid of a tile's pixels: neighbours resemble each other, and all pixels would
cost as much as averaging itself. Tiles that were cut from a scene count as they are, not stitched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landseg.ensemble.averaging import Average, Labels
from landseg.probabilities.codec import Probs, Stored
from landseg.scoring.boundary import boundary_areas, boundary_distance_px, near_outline
from landseg.scoring.calibration import NUM_BINS, reliability_counts

BOUNDARY_SAMPLES = 128
"""Boundaries are counted on a grid of at least this many pixels of a tile in both directions."""


def tile_reliability(
    average: Average, prepared: Sequence[Stored], mean: Probs, predictions: Sequence[Labels], truth: Labels
) -> NDArray[np.int64]:
    """(N + 1, 3, B) int64: :func:`landseg.scoring.calibration.reliability_counts` of each model, then of the ensemble.

    Args:
        average: the arithmetic.
        prepared: (C, H, W) of each of N models, as :meth:`Average.prepare` returns it.
        mean: (C, H, W) float32: their mean.
        predictions: (H, W) labels of each model, then of the ensemble.
        truth: (H, W) uint8; pixels that are not scored have a value of at least C.
    """
    scored = truth < len(mean)
    if not scored.any():
        return np.zeros((len(predictions), 3, NUM_BINS), np.int64)
    known = truth[scored]
    confidences = [*average.confidences(prepared), mean.max(axis=0)]
    pairs = zip(confidences, predictions, strict=True)
    return np.stack([reliability_counts(sure[scored], labels[scored] == known) for sure, labels in pairs])


def tile_boundaries(predictions: Sequence[Labels], truth: Labels, num_classes: int) -> NDArray[np.int64]:
    """(P, 3, C) int64: :func:`landseg.scoring.boundary.boundary_areas` of P predictions.

    Args:
        predictions: (H, W) labels each.
        truth: (H, W) uint8; pixels that are not scored have a value of at least C.
        num_classes: C.
    """
    if not (truth < num_classes).any():
        return np.zeros((len(predictions), 3, num_classes), np.int64)
    distance_px, every = boundary_distance_px(*truth.shape), max(1, min(truth.shape) // BOUNDARY_SAMPLES)
    near_truth, sampled = near_outline(truth, num_classes, distance_px, every), truth[::every, ::every]
    return np.stack(
        [
            boundary_areas(
                (sampled, near_truth),
                (labels[::every, ::every], near_outline(labels, num_classes, distance_px, every)),
                num_classes,
            )
            for labels in predictions
        ]
    )


class TileResult(NamedTuple):
    """What a tile adds to :class:`~landseg.ensemble.shard_results.ShardResult`.

    Attributes:
        pixels, uncertainty: its rows.
        areas: (E, 3, C) int64; E is 0 where it has no label.
        counts: confusion matrices, :func:`tile_reliability` and :func:`tile_boundaries`; empty where it has no label.
    """

    pixels: list[int]
    uncertainty: tuple[float, float, float]
    areas: NDArray[np.int64]
    counts: list[NDArray[np.int64]]


def summed(found: Sequence[TileResult], is_cut: NDArray[np.bool_], num_classes: int) -> list[NDArray[np.int64]]:
    """What is counted of a shard's models, of no model where it has no labels."""
    if not found[0].counts:
        return [np.zeros((0, *shape), np.int64) for shape in ((num_classes, num_classes), (3, 0), (3, num_classes))]
    sums = [np.zeros_like(counts) for counts in found[0].counts]
    for one, cut in zip(found, is_cut.tolist(), strict=True):
        confusions, *others = one.counts
        if not cut:  # scenes are scored stitched, in place of their tiles
            sums[0] += confusions
        for total, counts in zip(sums[1:], others, strict=True):
            total += counts
    return sums


def differing_share(labels: Sequence[Labels], valid: NDArray[np.bool_] | None = None) -> float:
    """Share of the pixels, those with data where `valid` is given, where not all label maps are the same."""
    same = np.logical_and.reduce([one == labels[0] for one in labels])
    return 1 - mean_with_data(same, valid) if valid is None or valid.any() else 0.0


def mean_with_data(values: NDArray[Any], valid: NDArray[np.bool_] | None) -> float:
    """The mean over the pixels that have data; 0 without any."""
    if valid is not None:
        values = values[valid]
    return float(values.mean(dtype=np.float64)) if values.size else 0.0
