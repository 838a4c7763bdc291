"""Label maps of scenes: the argmax of the blended probabilities of a scene's overlapping tiles, and its scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import Split, Tile
from landseg.contracts.documents import Count, Model
from landseg.contracts.labels import SceneLabels
from landseg.contracts.probabilities import Tta
from landseg.ensemble.averaging import Labels, subsets
from landseg.ensemble.geotiff_maps import write_labels
from landseg.ensemble.shard_results import Ensemble, NestedCounts, nested
from landseg.ensemble.stitching import Scene, blend, join, scenes_of
from landseg.scoring.confusion import class_areas, confusion_matrix
from landseg.storage.records import read_record, write_record


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


def write_scenes(ensemble: Ensemble) -> dict[Split, tuple[SceneResult, ...]]:
    """Write the label maps of all scenes, apart from those that an earlier, killed run finished.

    Scenes take turns: memory holds a row of tiles across a whole scene, of every model.
    """
    written = {}
    for split, tiles in ensemble.tiles.items():
        by_scene: dict[str, list[str]] = {}
        for tile in tiles:
            if tile.scene:
                by_scene.setdefault(tile.scene.id, []).append(tile.id)
        if by_scene:
            with Progress(f"stitching {split}", len(by_scene), "scenes") as progress:
                results = []
                for _, ids in sorted(by_scene.items()):
                    (scene,) = scenes_of(map(tiles.find, ids))
                    results.append(_finished(ensemble, split, scene) or _write(ensemble, split, scene))
                    progress.advance()
            written[split] = tuple(results)
    return written


def _finished(ensemble: Ensemble, split: Split, scene: Scene) -> SceneResult | None:
    result = read_record(SceneResult, storage.join(ensemble.folder, _record(split, scene)))
    if result is None:
        return None
    found = storage.stat(storage.join(ensemble.folder, result.labels.path))
    return result if found is not None and found.size_bytes == result.labels.size_bytes else None


class _Stitching:
    """A scene's label maps, from top to bottom, and what is counted on the way.

    Args:
        ensemble: the ensemble.
        split: the split.
        scene: the scene.

    Attributes:
        matrices: (E, C, C) int64: the matrices of every ensemble of :func:`landseg.ensemble.averaging.subsets`, then of
            those with fewer views; of the whole ensemble alone where the scene has no labels, and then all 0.
        pixels: (C,) int64: pixels of each class in the whole ensemble's map.
    """

    def __init__(self, ensemble: Ensemble, split: Split, scene: Scene) -> None:
        self._ensemble, self._split, self._scene = ensemble, split, scene
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
        truths = join(self._scene, self._truth) if self.is_labelled else None
        for rows in blend(self._scene, self._values):
            labels = self._labels(rows)
            self.pixels += np.bincount(labels[whole].ravel(), minlength=len(self.pixels))
            if truths is not None:
                truth, schema = next(truths), self._ensemble.dataset.schema
                for matrix, one in zip(self.matrices, labels, strict=True):
                    matrix += confusion_matrix(truth, one, schema.num_classes, schema.ignore_index)
            yield labels[whole]

    def _values(self, tile: Tile) -> NDArray[Any]:
        """(N, H, W): the classes of every model, then those of every view that is scored, model by model."""
        members, average = self._ensemble.members, self._ensemble.average
        values = average.prepare([member.reader.read_tile(self._split, tile.id) for member in members])
        if self._fewer:
            most = self._fewer[-1]
            views = [
                [member.reader.read_tile(self._split, tile.id, view) for view in range(most.num_views)]
                for member in members
            ]
            values += most.prepare(views)
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


def _write(ensemble: Ensemble, split: Split, scene: Scene) -> SceneResult:
    schema = ensemble.dataset.schema
    offset = np.uint8(schema.label_offset)
    path = ensemble.scratch / "scene.tif"
    stitching = _Stitching(ensemble, split, scene)
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
    write_record(storage.join(ensemble.folder, _record(split, scene)), result)
    return result


def _record(split: Split, scene: Scene) -> str:
    return f"parts/scene-{split}-{scene.id}.json"
