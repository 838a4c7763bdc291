"""A local folder for the maps of an average: what it will hold, whether that has room among other files, filling it."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.errors import ContractError
from landseg.contracts.labels import LabelsManifest, LayerName, SceneMap
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.maps.files import check_unclaimed, extract_maps, list_maps, remove_maps
from landseg.ensemble.maps.geotiff import MapStyle, encode_names, label_style
from landseg.ensemble.maps.mosaic import MOSAIC_FILES, write_mosaic
from landseg.ensemble.maps.polygons import POLYGONS, write_polygons
from landseg.ensemble.maps.tiles import map_name
from landseg.ensemble.maps.together import check_together
from landseg.stages.shared.options import check_writable, writing

_SHIFT_PX = 0.01
"""Less is rounding."""

_log = logging.getLogger(__name__)


class _Kind(NamedTuple):
    """The maps of one kind of a split: of a layer, or of the labels (None)."""

    split: Split
    layer: LayerName | None


@dataclass(frozen=True)
class MapFolder:
    """A local folder that an average's maps go to.

    Label maps of tiles go to `<split>/`, layers to `<split>-<layer>/`, label maps of scenes to `<split>-scenes/`, their
    layers to `<split>-scenes-<layer>/`. Next to a GeoTIFF of labels lies its `.aux.xml` with the class names.

    Attributes:
        option: what gave the folder, for error lines.
        path: the folder.
        is_flat: for a dataset of one split: label maps of tiles and of scenes go to the folder itself, layers to
            `<layer>/`; tiles that were cut from a scene have no map but the scene's.
        mosaic: also write all label maps with a transform as one, :func:`write_mosaic`.
        polygons: also write them as polygons, :func:`write_polygons`.
    """

    option: str
    path: Path
    is_flat: bool = False
    mosaic: bool = False
    polygons: bool = False

    def clear(self) -> None:
        """Make the folder, and remove the maps of an earlier average from it; files of others stay.

        Raises:
            ConfigError: it cannot be written.
            ContractError: the list of the maps in it is damaged.
        """
        check_writable(self.option, self.path)
        remove_maps(self.path)

    def check(self, dataset: StagedDataset, splits: Sequence[Split], layers: Sequence[LayerName]) -> None:
        """Refuse, before anything is computed, what could not be written in the end.

        Args:
            dataset: what the maps will be of.
            splits: those of it that are averaged.
            layers: the maps to write in addition to the labels.

        Raises:
            ConfigError: the folder holds another file where a map goes, a folder in it cannot be written, or the maps
                cannot be put together as was asked.
        """
        check_together(dataset, splits, mosaic=self.mosaic, polygons=self.polygons)
        for kind in _kinds(splits, layers):
            for folder in {self.path / self._folder(kind), self.path / self._folder(kind, of_scenes=True)}:
                if os.path.lexists(folder):
                    check_writable(self.option, folder)
        check_unclaimed(self.path, self._planned(dataset, splits, layers))

    def write(self, labels: storage.Loaded[LabelsManifest], dataset: StagedDataset, scratch: Path) -> None:
        """Write the maps, in place of those that another run may have written meanwhile.

        Args:
            labels: the manifest of the maps.
            dataset: what they are of.
            scratch: for archives.

        Raises:
            ConfigError: the folder holds another file where a map goes, or cannot be written: the disk is full, mostly.
            ContractError: a tile has no map.
            StorageError: a map cannot be read.
        """
        document = labels.document
        splits, layers = list(document.splits), list(document.layers)
        with writing(self.option, self.path):
            remove_maps(self.path)
            planned = [*self._planned(dataset, splits, layers)]
            check_unclaimed(self.path, planned)
            list_maps(self.path, planned)
            for kind in _kinds(splits, layers):
                self._extract(labels, kind, dataset.index(kind.split), scratch)
                for one in _scenes(document, kind):
                    target = self.path / self._folder(kind, of_scenes=True) / f"{one.scene}.tif"
                    storage.get_file(storage.join(storage.parent(labels.uri), one.path), target, sha256=one.sha256)
            style = label_style(document.class_schema, {})
            label_maps = [path for kind in _kinds(splits, ()) for path in self._maps(dataset, kind)]
            for path in label_maps:
                if sidecar := _sidecar(path):
                    (self.path / sidecar).write_bytes(encode_names(style))
            self._put_together(label_maps, style)

    def _folder(self, kind: _Kind, *, of_scenes: bool = False) -> str:
        """How the paths of a kind's maps begin: with the folder in the folder, and a slash."""
        if self.is_flat:
            return f"{kind.layer}/" if kind.layer else ""
        return "-".join([kind.split, *["scenes"] * of_scenes, *filter(None, [kind.layer])]) + "/"

    def _maps(self, dataset: StagedDataset, kind: _Kind) -> Iterator[str]:
        """The paths in the folder of a kind's maps: those of tiles, then those of scenes."""
        tiles, scene_ids = dataset.index(kind.split), set()
        for tile in tiles:
            if tile.scene:
                scene_ids.add(tile.scene.id)
            if not (tile.scene and self.is_flat):
                yield f"{self._folder(kind)}{map_name(tile)}"
        for scene_id in sorted(scene_ids):
            yield f"{self._folder(kind, of_scenes=True)}{scene_id}.tif"

    def _planned(self, dataset: StagedDataset, splits: Sequence[Split], layers: Sequence[LayerName]) -> Iterator[str]:
        """The paths in the folder of everything that goes there."""
        for kind in _kinds(splits, layers):
            for path in self._maps(dataset, kind):
                yield path
                if kind.layer is None and (sidecar := _sidecar(path)):
                    yield sidecar
        yield from MOSAIC_FILES if self.mosaic else ()
        yield from [POLYGONS] if self.polygons else ()

    def _extract(self, labels: storage.Loaded[LabelsManifest], kind: _Kind, tiles: TileIndex, scratch: Path) -> None:
        """Copy the maps of tiles out of their archives."""
        left = {map_name(tile) for tile in tiles}
        unwanted = {tile.id for tile in tiles if self.is_flat and tile.scene}
        for archive in labels.document.archives(*kind):
            path, uri = scratch / "maps.tar", storage.join(storage.parent(labels.uri), archive.path)
            storage.get_file(uri, path, sha256=archive.sha256)
            with path.open("rb") as file:
                left -= extract_maps(file, uri, left, self.path / self._folder(kind), skip=unwanted)
            path.unlink()
        if left:
            problem = f"expected a map of every tile, found none of {len(left)}, {min(left)} among them"
            raise ContractError(labels.uri, problem, "run the stage again")

    def _put_together(self, label_maps: Sequence[str], style: MapStyle) -> None:
        """Write mosaic and polygons of label maps, which lie in the folder."""
        with_place = [path for path in label_maps if path.endswith(".tif")]
        num_without = len(label_maps) - len(with_place)
        if self.mosaic:
            num_left_out, shift_px = write_mosaic(self.path, with_place, style)
            if shift_px > _SHIFT_PX:
                _log.warning("the mosaic moves maps by up to %.2f px: their grids are not one", shift_px)
            if num_left_out + num_without:
                _log.warning("%d maps are not in the mosaic: no transform, or turned", num_left_out + num_without)
        if self.polygons and (num_left_out := num_without + write_polygons(self.path, with_place, style)):
            _log.warning("%d maps are not among the polygons: no transform", num_left_out)


def _kinds(splits: Iterable[Split], layers: Iterable[LayerName]) -> list[_Kind]:
    return [_Kind(split, layer) for layer, split in itertools.product((None, *layers), splits)]


def _scenes(document: LabelsManifest, kind: _Kind) -> Sequence[SceneMap]:
    by_split = document.scenes if kind.layer is None else document.scene_layers.get(kind.layer, {})
    return by_split.get(kind.split, ())


def _sidecar(label_map: str) -> str:
    """The file with a label map's class names; empty where it is a PNG."""
    return f"{label_map}.aux.xml" if label_map.endswith(".tif") else ""
