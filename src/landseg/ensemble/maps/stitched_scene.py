"""Stitching a scene: the blended probabilities of its overlapping tiles become its maps, and scores are counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from landseg.contracts.dataset import Split
from landseg.contracts.documents import Count, Model
from landseg.contracts.labels import LayerName, SceneMap
from landseg.contracts.probabilities import Tta
from landseg.contracts.tile import Tile
from landseg.ensemble.averaging import Labels, subsets
from landseg.ensemble.maps.stitching import Scene, blend, join
from landseg.ensemble.maps.tiles import layer_values, stored_labels, stored_values
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.shard_results import NestedCounts, nested
from landseg.probabilities.open_shards import OpenShards
from landseg.scoring.confusion import class_areas, confusion_matrix

Ahead = Callable[[Sequence[Tile], Callable[[Tile], NDArray[Any]]], Iterator[NDArray[Any]]]
"""Calls a function for every tile in several threads, and yields what it returns in order."""


class SceneResult(Model):
    """What stitching a scene yields.

    Attributes:
        labels: the label map.
        layers: the other maps.
        pixels: per class, pixels of the label map that have data.
        areas, confusions: as those of :class:`~landseg.ensemble.shard_results.ShardResult`, of the stitched maps: each
            pixel counts once; None where the scene has no labels.
        view_areas: likewise, with fewer views.
    """

    labels: SceneMap
    layers: dict[LayerName, SceneMap] = Field(default_factory=dict)
    pixels: tuple[Count, ...]
    areas: tuple[NestedCounts, ...] | None
    view_areas: dict[Tta, tuple[NestedCounts, ...]]
    confusions: tuple[NestedCounts, ...] | None


class Stitching:
    """A scene's label maps, from top to bottom, and what is counted on the way.

    Args:
        ensemble: the ensemble.
        split: the split.
        scene: the scene.
        spools: files for the other maps, (H, W) uint8, which come row by row together with the labels.
        ahead: what reads the scene's tiles.

    Attributes:
        matrices: (E, C, C) int64: the matrices of every ensemble of :func:`landseg.ensemble.averaging.subsets`, then of
            those with fewer views; of the whole ensemble alone where the scene has no labels, and then all 0.
        pixels: (C,) int64: pixels of each class in the whole ensemble's map, among those that have data.
    """

    def __init__(
        self, ensemble: Ensemble, split: Split, scene: Scene, spools: Mapping[LayerName, Path], ahead: Ahead
    ) -> None:
        self._ensemble, self._split, self._scene, self._spools, self._ahead = ensemble, split, scene, spools, ahead
        self.is_labelled = all(tile.label is not None for tile in scene.tiles)
        self._is_fitted_on = any(ensemble.is_fitted_on(split, tile) for tile in scene.tiles)
        num_models, num_classes = len(ensemble.members), ensemble.dataset.schema.num_classes
        self._wanted = subsets(num_models) if self.is_labelled else [tuple(range(num_models))]
        self._fewer = ensemble.fewer_views if self.is_labelled else ()
        num_maps = len(self._wanted) + len(self._fewer) * (num_models + 1)
        self.matrices = np.zeros((num_maps, num_classes, num_classes), np.int64)
        self.pixels = np.zeros(num_classes, np.int64)

    def __iter__(self) -> Iterator[Labels]:
        """(rows, width) uint8: the whole ensemble's map, as it is stored."""
        whole, average = len(self._wanted) - 1, self._ensemble.average
        schema, tiles = self._ensemble.dataset.schema, self._scene.tiles
        with ExitStack() as stack:
            views = range(self._fewer[-1].num_views) if self._fewer else ()
            shards = [
                [
                    stack.enter_context(OpenShards(member.reader, self._split, view))
                    for view in cast(tuple[int | None, ...], (None, *views))
                ]
                for member in self._ensemble.members
            ]
            spools = {layer: stack.enter_context(path.open("wb")) for layer, path in self._spools.items()}
            values = self._ahead(tiles, lambda tile: self._values(tile, shards))
            truths = self._joined(self._truth) if self.is_labelled else None
            masks = self._joined(self._valid) if any(tile.validity for tile in tiles) else None
            for rows in blend(self._scene, lambda tile: next(values)):
                planes = list(rows.reshape(-1, len(self.pixels), *rows.shape[1:]))
                labels = self._labels(planes)
                valid = None if masks is None else next(masks) > 0
                counted = labels[whole] if valid is None else labels[whole][valid]
                self.pixels += np.bincount(counted.ravel(), minlength=len(self.pixels))
                if truths is not None:
                    truth = next(truths)
                    for matrix, one in zip(self.matrices, labels, strict=True):
                        matrix += confusion_matrix(truth, one, schema.num_classes, schema.ignore_index)
                for layer, spool in spools.items():
                    shown = layer_values(layer, average, planes[: len(self._ensemble.members)])
                    spool.write(stored_values(shown, valid).data)
                yield stored_labels(labels[whole], schema, valid)

    def _joined(self, read: Callable[[Tile], Labels]) -> Iterator[Labels]:
        """What is read of tiles, joined, the same rows at a time as those of the blend."""
        found = self._ahead(self._scene.tiles, read)
        return join(self._scene, lambda tile: next(found))

    def _values(self, tile: Tile, shards: Sequence[Sequence[OpenShards]]) -> NDArray[Any]:
        """(N, H, W): the classes of every model, then those of every view that is scored, model by model."""
        stored = [[one.read(tile.id) for one in each] for each in shards]
        values = self._ensemble.average.prepare([mean for mean, *_ in stored])
        if self._fewer:
            values += self._fewer[-1].prepare([views for _, *views in stored])
        return np.concatenate(values)

    def _labels(self, planes: Sequence[NDArray[np.float32]]) -> list[Labels]:
        """A label map for each of :attr:`matrices`; `planes` are (C, rows, width) each, as :meth:`_values` has them."""
        num_models = len(self._ensemble.members)
        labels = self._ensemble.average.labels(planes[:num_models], self._wanted)
        views = planes[num_models:]
        for fewer in self._fewer:
            most = self._fewer[-1].num_views
            own = [view for start in range(0, len(views), most) for view in views[start : start + fewer.num_views]]
            labels += fewer.labels(own)
        return labels

    def _truth(self, tile: Tile) -> Labels:
        if self._is_fitted_on:
            return np.full((tile.height, tile.width), self._ensemble.dataset.schema.ignore_index, np.uint8)
        return self._ensemble.dataset.read_label(self._split, tile)

    def _valid(self, tile: Tile) -> Labels:
        valid = self._ensemble.dataset.read_valid(self._split, tile)
        return np.ones((tile.height, tile.width), np.uint8) if valid is None else valid.astype(np.uint8)

    def result(self, labels: SceneMap, layers: dict[LayerName, SceneMap]) -> SceneResult:
        """What was counted; :meth:`__iter__` has ended."""
        pixels = nested(self.pixels)
        if not self.is_labelled:
            return SceneResult(labels=labels, layers=layers, pixels=pixels, areas=None, view_areas={}, confusions=None)
        areas = [nested(class_areas(matrix)) for matrix in self.matrices]
        num_models, num_subsets = len(self._ensemble.members), len(self._wanted)
        starts = range(num_subsets, len(areas), num_models + 1)
        single = [self._wanted.index((model,)) for model in range(num_models)]
        return SceneResult(
            labels=labels,
            layers=layers,
            pixels=pixels,
            areas=tuple(areas[:num_subsets]),
            view_areas={
                fewer.tta: tuple(areas[start : start + num_models + 1])
                for fewer, start in zip(self._fewer, starts, strict=True)
            },
            confusions=nested(self.matrices[[*single, num_subsets - 1]]),
        )


def ahead(pool: ThreadPoolExecutor, most: int) -> Ahead:
    """See :data:`Ahead`; at most `most` tiles are being read, or wait to be used."""

    def results(tiles: Sequence[Tile], work: Callable[[Tile], NDArray[Any]]) -> Iterator[NDArray[Any]]:
        coming = (pool.submit(work, tile) for tile in tiles)
        waiting = deque(islice(coming, most))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(islice(coming, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
            wait(waiting)

    return results
