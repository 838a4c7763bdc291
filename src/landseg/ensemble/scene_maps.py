"""Label maps of scenes: the argmax of the blended probabilities of a scene's overlapping tiles, and its scores."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import accumulate, islice, pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import Split, Tile
from landseg.contracts.documents import Count, Model
from landseg.contracts.errors import DamagedObjectError
from landseg.contracts.labels import SceneLabels
from landseg.contracts.probabilities import Tta
from landseg.ensemble.averaging import Labels, subsets
from landseg.ensemble.geotiff_maps import write_labels
from landseg.ensemble.shard_results import Ensemble, NestedCounts, nested
from landseg.ensemble.stitching import Scene, blend, join, scenes_of
from landseg.probabilities.open_shards import OpenShards
from landseg.scoring.confusion import class_areas, confusion_matrix
from landseg.storage.records import read_record, write_record

_Ahead = Callable[[Sequence[Tile], Callable[[Tile], NDArray[Any]]], Iterator[NDArray[Any]]]


class SceneResult(Model):
    """What stitching a scene yields.

    Attributes:
        labels: the label map.
        pixels: per class, pixels of the label map.
        areas, view_areas, confusions: as those of :class:`~landseg.ensemble.shard_results.TileResult` and
            :class:`~landseg.ensemble.shard_results.ShardResult`, of the stitched maps: each pixel counts once.
    """

    labels: SceneLabels
    pixels: tuple[Count, ...]
    areas: tuple[NestedCounts, ...] | None
    view_areas: dict[Tta, tuple[NestedCounts, ...]]
    confusions: tuple[NestedCounts, ...] | None


ScenePlace = tuple[Split, str]
"""A scene: split and id."""


class Scenes:
    """The scenes of an ensemble's tiles, and their results. They need probabilities alone, so workers share them.

    Args:
        ensemble: the ensemble.

    Attributes:
        places: every scene, by split and id.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._positions: dict[ScenePlace, array[int]] = {}
        for split, tiles in ensemble.tiles.items():
            found: dict[str, array[int]] = {}
            for position, tile in enumerate(tiles):
                if tile.scene:
                    found.setdefault(tile.scene.id, array("I")).append(position)
            self._positions |= {(split, scene_id): found[scene_id] for scene_id in sorted(found)}
        self.places = list(self._positions)

    def share(self, share: int, num_shares: int) -> list[ScenePlace]:
        """The scenes of a share (counted from 0, of `num_shares`): neighbours, with about an equal number of tiles."""
        ends = list(accumulate((len(self._positions[place]) for place in self.places), initial=0))
        middles = [(before + after) / 2 for before, after in pairwise(ends)]
        return [
            place
            for place, middle in zip(self.places, middles, strict=True)
            if int(middle * num_shares / ends[-1]) == share
        ]

    def write(self, places: Sequence[ScenePlace], parts: Mapping[str, int], num_threads: int) -> None:
        """Write the label maps of scenes, apart from those that are finished.

        Scenes take turns: memory holds a row of tiles across a whole scene, of every model.

        Args:
            places: the scenes.
            parts: see :meth:`Ensemble.parts`.
            num_threads: threads that read tiles ahead.
        """
        if not places:
            return
        with Progress("stitching", len(places), "scenes") as progress, ThreadPoolExecutor(num_threads, "tiles") as pool:
            for place in places:
                if not self.is_finished(place, parts):
                    _write(self._ensemble, place[0], self._scene(place), pool, num_threads)
                progress.advance()

    def _scene(self, place: ScenePlace) -> Scene:
        tiles = self._ensemble.tiles[place[0]]
        (scene,) = scenes_of(tiles.find(tiles.table.id(position)) for position in self._positions[place])
        return scene

    def is_finished(self, place: ScenePlace, parts: Mapping[str, int]) -> bool:
        """Whether a scene's record is among `parts` (:meth:`Ensemble.parts`), and so is the map that it lists."""
        if _record(*place) not in parts:
            return False
        result = read_record(SceneResult, storage.join(self._ensemble.folder, _record(*place)))
        return result is not None and parts.get(result.labels.path) == result.labels.size_bytes

    def results(self) -> dict[Split, tuple[SceneResult, ...]]:
        """The results of all scenes, which are known to be finished.

        Raises:
            DamagedObjectError: one is gone, or not what was written.
        """

        def read(place: ScenePlace) -> tuple[ScenePlace, SceneResult]:
            uri = storage.join(self._ensemble.folder, _record(*place))
            result = read_record(SceneResult, uri)
            if result is None:
                problem = "expected the record of a finished scene, found none"
                raise DamagedObjectError(uri, problem, "run the stage again")
            return place, result

        found = dict(storage.parallel(read, self.places))
        by_split: dict[Split, tuple[SceneResult, ...]] = {}
        for place in self.places:
            by_split[place[0]] = (*by_split.get(place[0], ()), found[place])
        return by_split


class _Stitching:
    """A scene's label maps, from top to bottom, and what is counted on the way.

    Args:
        ensemble: the ensemble.
        split: the split.
        scene: the scene.
        ahead: calls a function for every tile of the scene in several threads, and yields what it returns in order.

    Attributes:
        matrices: (E, C, C) int64: the matrices of every ensemble of :func:`landseg.ensemble.averaging.subsets`, then of
            those with fewer views; of the whole ensemble alone where the scene has no labels, and then all 0.
        pixels: (C,) int64: pixels of each class in the whole ensemble's map.
    """

    def __init__(self, ensemble: Ensemble, split: Split, scene: Scene, ahead: _Ahead) -> None:
        self._ensemble, self._split, self._scene, self._ahead = ensemble, split, scene, ahead
        self.is_labelled = all(tile.label is not None for tile in scene.tiles)
        self._is_fitted_on = any(ensemble.is_fitted_on(split, tile) for tile in scene.tiles)
        num_models, num_classes = len(ensemble.members), ensemble.dataset.schema.num_classes
        self._wanted = subsets(num_models) if self.is_labelled else [tuple(range(num_models))]
        self._fewer = ensemble.fewer_views if self.is_labelled else ()
        num_maps = len(self._wanted) + len(self._fewer) * (num_models + 1)
        self.matrices = np.zeros((num_maps, num_classes, num_classes), np.int64)
        self.pixels = np.zeros(num_classes, np.int64)

    def __iter__(self) -> Iterator[Labels]:
        """(rows, width) uint8 class ids of the whole ensemble's map."""
        whole = len(self._wanted) - 1
        with ExitStack() as stack:
            views = range(self._fewer[-1].num_views) if self._fewer else ()
            shards = [
                [
                    stack.enter_context(OpenShards(member.reader, self._split, view))
                    for view in cast(tuple[int | None, ...], (None, *views))
                ]
                for member in self._ensemble.members
            ]
            values = self._ahead(self._scene.tiles, lambda tile: self._values(tile, shards))
            labelled = self._ahead(self._scene.tiles, self._truth) if self.is_labelled else iter(())
            truths = join(self._scene, lambda tile: next(labelled)) if self.is_labelled else None
            for rows in blend(self._scene, lambda tile: next(values)):
                labels = self._labels(rows)
                self.pixels += np.bincount(labels[whole].ravel(), minlength=len(self.pixels))
                if truths is not None:
                    truth, schema = next(truths), self._ensemble.dataset.schema
                    for matrix, one in zip(self.matrices, labels, strict=True):
                        matrix += confusion_matrix(truth, one, schema.num_classes, schema.ignore_index)
                yield labels[whole]

    def _values(self, tile: Tile, shards: Sequence[Sequence[OpenShards]]) -> NDArray[Any]:
        """(N, H, W): the classes of every model, then those of every view that is scored, model by model."""
        stored = [[one.read(tile.id) for one in each] for each in shards]
        values = self._ensemble.average.prepare([mean for mean, *_ in stored])
        if self._fewer:
            values += self._fewer[-1].prepare([views for _, *views in stored])
        return np.concatenate(values)

    def _labels(self, rows: NDArray[np.float32]) -> list[Labels]:
        """A label map for each of :attr:`matrices`."""
        planes = list(rows.reshape(-1, len(self.pixels), *rows.shape[1:]))
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

    def result(self, labels: SceneLabels) -> SceneResult:
        """What was counted; :meth:`__iter__` has ended."""
        if not self.is_labelled:
            return SceneResult(labels=labels, pixels=nested(self.pixels), areas=None, view_areas={}, confusions=None)
        areas = [nested(class_areas(matrix)) for matrix in self.matrices]
        num_models, num_subsets = len(self._ensemble.members), len(self._wanted)
        starts = range(num_subsets, len(areas), num_models + 1)
        single = [self._wanted.index((model,)) for model in range(num_models)]
        return SceneResult(
            labels=labels,
            pixels=nested(self.pixels),
            areas=tuple(areas[:num_subsets]),
            view_areas={
                fewer.tta: tuple(areas[start : start + num_models + 1])
                for fewer, start in zip(self._fewer, starts, strict=True)
            },
            confusions=nested(self.matrices[[*single, num_subsets - 1]]),
        )


def _ahead(pool: ThreadPoolExecutor, most: int) -> _Ahead:
    """See :class:`_Stitching`; at most `most` tiles are being read, or wait to be used."""

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


def _write(ensemble: Ensemble, split: Split, scene: Scene, pool: ThreadPoolExecutor, num_threads: int) -> None:
    schema = ensemble.dataset.schema
    offset = np.uint8(schema.label_offset)
    path = ensemble.scratch / "scene.tif"
    stitching = _Stitching(ensemble, split, scene, _ahead(pool, num_threads))
    write_labels(
        path,
        (rows + offset for rows in stitching),
        (scene.height, scene.width),
        ((0, 0, 0),) * schema.label_offset + schema.palette,
        scene.geo,
        ensemble.dataset.manifest.crs,
    )
    labels = SceneLabels(
        path=f"scenes/{split}/{scene.id}.tif",
        size_bytes=path.stat().st_size,
        sha256=storage.file_sha256(path),
        scene=scene.id,
    )
    storage.put_file(storage.join(ensemble.folder, labels.path), path)
    path.unlink()
    result = stitching.result(labels)
    write_record(storage.join(ensemble.folder, _record(split, scene.id)), result)


def _record(split: Split, scene_id: str) -> str:
    return f"parts/scene-{split}-{scene_id}.json"
