"""What averaging a shard leaves in object storage, as documents."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from landseg.contracts.documents import Blob, Count, Model
from landseg.contracts.labels import LayerName
from landseg.contracts.names import TileId
from landseg.contracts.probabilities import Tta

LABELS = "labels"
LAYERS: tuple[LayerName, ...] = get_args(LayerName)

NestedCounts = tuple[tuple[Count, ...], ...]


class TileResult(Model):
    """What averaging a tile yields in addition to its label map.

    Attributes:
        id: the tile.
        scene: the scene that it was cut from, which is scored in its place.
        spans: (offset, length) of its block in each of the result's archives.
        pixels: per class, pixels of the ensemble's label map that have data.
        disagreement: mean over the tile's pixels that have data (:func:`landseg.ensemble.averaging.disagreement`); 0
            for a single model.
        entropy: mean likewise (:func:`landseg.ensemble.averaging.entropy`).
        differing: share of the tile's pixels where the models' own labels are not all the same.
        areas: for each ensemble of :func:`landseg.ensemble.averaging.subsets`, by class: pixels that are right, pixels
            of the truth, pixels of the prediction, among those that are scored (none, in a tile that weights were
            fitted to); None where the tile has no label.
        view_areas: likewise for each model, then for the ensemble, with fewer views
            (:mod:`landseg.ensemble.fewer_views`).
    """

    id: TileId
    scene: TileId | None = None
    spans: dict[str, tuple[Count, Count]]
    pixels: tuple[Count, ...]
    disagreement: Annotated[float, Field(ge=0, le=1)]
    entropy: Annotated[float, Field(ge=0, le=1)]
    differing: Annotated[float, Field(ge=0, le=1)]
    areas: tuple[NestedCounts, ...] | None
    view_areas: dict[Tta, tuple[NestedCounts, ...]]


class ShardResult(Model):
    """What averaging a shard left.

    Attributes:
        archives: the label maps (:data:`LABELS`) and the layers.
        tiles: in the shard's order.
        confusions: the (C, C) matrices of each model, then of the ensemble, summed over the tiles that were not cut
            from scenes; None where the split has no labels.
    """

    archives: dict[str, Blob]
    tiles: tuple[TileResult, ...]
    confusions: tuple[NestedCounts, ...] | None


def nested(array: NDArray[np.int64]) -> Any:
    """An array as nested tuples, as records hold it."""
    return tuple(map(nested, array)) if array.ndim > 1 else tuple(array.tolist())
