"""Tiles worth showing: where the models disagree, where the ensemble fails, where it does well."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import Split
from landseg.ensemble.averaging import Labels, disagreement
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.split_results import SplitResult
from landseg.ensemble.split_scores import Scoring
from landseg.ensemble.tile_counts import differing_share
from landseg.probabilities.codec import Probs
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import scores

Place = tuple[Split, str]
"""A tile: split and id."""


@dataclass(frozen=True, eq=False)
class GalleryTile:
    """Everything a gallery shows of a tile.

    Attributes:
        split, tile_id: which tile.
        image: (H, W, 3) uint8: the first three bands, or one band three times.
        truth: (H, W) uint8 class ids and `ignore_index`; None where the tile has no label.
        models: each model's label map.
        ensemble: the ensemble's label map.
        disagreement: (H, W) float32 in 0-1.
        differing: share of the pixels where the models' label maps are not all the same.
        miou: by model and `ensemble`, the tile's own mIoU; empty where nothing is scored.
    """

    split: Split
    tile_id: str
    image: NDArray[np.uint8]
    truth: Labels | None
    models: tuple[Labels, ...]
    ensemble: Labels
    disagreement: Probs
    differing: float
    miou: dict[str, float]


def most_disagreeing(results: Sequence[SplitResult], count: int) -> list[Place]:
    """The tiles on which the models disagree most, in falling order of disagreement."""
    tiles = ((-value, r.split, tile) for r in results for tile, value in zip(r.tile_ids, r.differing, strict=True))
    return [(split, tile) for _, split, tile in heapq.nsmallest(count, tiles)]


def worst_and_best(results: Sequence[SplitResult], scoring: Scoring | None, count: int) -> tuple[list[Place], ...]:
    """The tiles of the scored split with the lowest (rising) and the highest (falling) mIoU of the ensemble."""
    result = next((result for result in results if scoring is not None and result.split == scoring.split), None)
    if result is None or result.areas is None:
        return [], []
    miou = result.areas.tile_miou[:, -1]
    order = np.argsort(miou, kind="stable")
    order = order[~np.isnan(miou[order])]
    return [(result.split, result.tile_ids[i]) for i in order[:count]], [
        (result.split, result.tile_ids[i]) for i in order[::-1][:count]
    ]


def read_tile(ensemble: Ensemble, place: Place) -> GalleryTile:
    """Read a tile and average it again."""
    split, tile_id = place
    tile, schema = ensemble.tiles[split].find(tile_id), ensemble.dataset.schema
    stored = ensemble.average.prepare([member.reader.read_tile(split, tile_id) for member in ensemble.members])
    alone = [(model,) for model in range(len(stored))]
    *models, together = ensemble.average.labels(stored, [*alone, tuple(range(len(stored)))])
    image = ensemble.dataset.read_image(split, tile)
    truth = None if tile.label is None else ensemble.dataset.read_label(split, tile)
    miou: dict[str, float] = {}
    if truth is not None:
        names = [*(member.name for member in ensemble.members), "ensemble"]
        for name, labels in zip(names, [*models, together], strict=True):
            found = scores(confusion_matrix(truth, labels, schema.num_classes, schema.ignore_index), schema.classes)
            miou |= {name: found["mIoU"]} if found else {}
    return GalleryTile(
        split=split,
        tile_id=tile_id,
        image=np.repeat(image[:, :, :1], 3, axis=2) if image.shape[2] < 3 else image[:, :, :3],
        truth=truth,
        models=tuple(models),
        ensemble=together,
        disagreement=disagreement(stored),
        differing=differing_share(models),
        miou=miou,
    )
