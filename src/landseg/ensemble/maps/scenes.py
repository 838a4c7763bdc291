"""Maps of scenes, as files: which there are, which are finished, and how a share of them is written."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import Split
from landseg.contracts.documents import MAX_DOCUMENT_BYTES
from landseg.contracts.errors import ConfigError
from landseg.contracts.labels import SceneMap
from landseg.ensemble.averaging import Labels
from landseg.ensemble.maps.geotiff import BLOCK_PX, MapStyle, encode_names, write_map
from landseg.ensemble.maps.stitched_scene import SceneResult, Stitching, ahead
from landseg.ensemble.maps.stitching import Scene, scenes_of
from landseg.ensemble.members import affordable_tiles_ahead
from landseg.ensemble.shard_averaging import Ensemble
from landseg.storage.records import finished_record, read_record, write_record

ScenePlace = tuple[Split, str]
"""A scene: split and id."""
MAP_ENTRY_BYTES = 220
"""What a scene's map takes in the manifest of the label maps, at most, besides the scene's id, which is there twice."""


def check_num_scenes(scene_ids: Sequence[str], num_kinds: int) -> None:
    """Refuse, before anything is averaged, more scenes than the manifest of the label maps can list.

    Args:
        scene_ids: of all splits.
        num_kinds: how many maps there will be of each: its labels, and the layers.

    Raises:
        ConfigError: there are more.
    """
    size = num_kinds * sum(MAP_ENTRY_BYTES + 2 * len(scene_id.encode()) for scene_id in scene_ids)
    if size > MAX_DOCUMENT_BYTES:
        raise ConfigError(
            "the manifest of the label maps",
            f"expected at most {MAX_DOCUMENT_BYTES} bytes, as much as is read, found {len(scene_ids)} scenes with "
            f"{num_kinds} maps each, which take {size}",
            f"average at most {len(scene_ids) * MAX_DOCUMENT_BYTES // size} of them at once: stage them as several "
            "datasets" + (", or ask for fewer --layers" if num_kinds > 1 else ""),
        )


class Scenes:
    """The scenes of an ensemble's tiles, and their results. They need probabilities alone, so workers share them.

    Args:
        ensemble: the ensemble.

    Attributes:
        places: every scene, by split and id.

    Raises:
        ConfigError: there are more than the manifest of the label maps can list.
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
        check_num_scenes([scene_id for _, scene_id in self.places], 1 + len(ensemble.layers))

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
        """Write the maps of scenes, apart from those that are finished.

        Scenes take turns: memory holds a row of tiles across a whole scene, of every model.

        Args:
            places: the scenes.
            parts: see :meth:`Ensemble.parts`.
            num_threads: threads that read tiles ahead, at most.
        """
        if not places:
            return
        num_ahead = affordable_tiles_ahead(self._ensemble.members, num_threads)
        with Progress("stitching", len(places), "scenes") as progress, ThreadPoolExecutor(num_ahead, "tiles") as pool:
            for place in places:
                if not self.is_finished(place, parts):
                    _write(self._ensemble, place[0], self._scene(place), pool, num_ahead)
                progress.advance()

    def _scene(self, place: ScenePlace) -> Scene:
        tiles = self._ensemble.tiles[place[0]]
        (scene,) = scenes_of(tiles.find(tiles.table.id(position)) for position in self._positions[place])
        return scene

    def is_recorded(self, place: ScenePlace, parts: Mapping[str, int]) -> bool:
        """Whether a scene's record is among `parts`."""
        return _record(*place) in parts

    def is_finished(self, place: ScenePlace, parts: Mapping[str, int]) -> bool:
        """Whether a scene's record is among `parts` (:meth:`Ensemble.parts`), and so are the maps that it lists."""
        if _record(*place) not in parts:
            return False
        result = read_record(SceneResult, storage.join(self._ensemble.folder, _record(*place)))
        return result is not None and all(
            parts.get(written.path) == written.size_bytes for written in (result.labels, *result.layers.values())
        )

    def results(self) -> dict[Split, tuple[SceneResult, ...]]:
        """The results of all scenes, which are known to be finished.

        Raises:
            DamagedObjectError: one is gone, or not what was written.
        """

        def read(place: ScenePlace) -> tuple[ScenePlace, SceneResult]:
            return place, finished_record(SceneResult, storage.join(self._ensemble.folder, _record(*place)))

        found = dict(storage.parallel(read, self.places))
        by_split: dict[Split, list[SceneResult]] = {}
        for place in self.places:
            by_split.setdefault(place[0], []).append(found[place])
        return {split: tuple(results) for split, results in by_split.items()}


def _write(ensemble: Ensemble, split: Split, scene: Scene, pool: ThreadPoolExecutor, num_ahead: int) -> None:
    maps = ensemble.tile_maps
    spools = {layer: ensemble.scratch / f"scene-{layer}.raw" for layer in ensemble.layers}
    stitching = Stitching(ensemble, split, scene, spools, ahead(pool, num_ahead))
    try:
        style = maps.label_style(scene.id)
        labels = _put(ensemble, f"scenes/{split}", scene, stitching, style)
        storage.put_bytes(storage.join(ensemble.folder, f"{labels.path}.aux.xml"), encode_names(style))
        layers = {
            layer: _put(
                ensemble, f"scenes/{split}-{layer}", scene, _read_rows(path, scene), maps.value_style(scene.id, layer)
            )
            for layer, path in spools.items()
        }
    finally:
        for path in spools.values():
            path.unlink(missing_ok=True)
    write_record(storage.join(ensemble.folder, _record(split, scene.id)), stitching.result(labels, layers))


def _put(ensemble: Ensemble, folder: str, scene: Scene, rows: Iterable[Labels], style: MapStyle) -> SceneMap:
    """Write a map of a scene and put it into object storage."""
    path = ensemble.scratch / "scene.tif"
    try:
        write_map(path, rows, (scene.height, scene.width), style, scene.location, ensemble.dataset.manifest.crs)
        written = SceneMap(
            path=f"{folder}/{scene.id}.tif",
            size_bytes=path.stat().st_size,
            sha256=storage.file_sha256(path),
            scene=scene.id,
        )
        storage.put_file(storage.join(ensemble.folder, written.path), path)
    finally:
        path.unlink(missing_ok=True)
    return written


def _read_rows(path: Path, scene: Scene) -> Iterator[Labels]:
    """The rows of a map that was written to a local file."""
    values = np.memmap(path, np.uint8, "r", shape=(scene.height, scene.width))
    for start in range(0, scene.height, BLOCK_PX):
        yield np.asarray(values[start : start + BLOCK_PX])


def _record(split: Split, scene_id: str) -> str:
    return f"parts/scene-{split}-{scene_id}.json"
