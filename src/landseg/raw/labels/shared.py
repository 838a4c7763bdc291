"""One file with the labels of all images: put onto local disk once, then cut or drawn for each image."""

from __future__ import annotations

import functools
import itertools
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.documents import digest
from landseg.contracts.errors import DataError
from landseg.contracts.label_source import VECTOR_SUFFIXES
from landseg.raw.commands import python_command
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.georeference.crs import keys_of
from landseg.raw.georeference.tags import Georeference
from landseg.raw.images import gdal
from landseg.raw.images.raster import has_own_mask, lossy_compression, palette_of
from landseg.raw.labels.files import LOSSLESS_HINT
from landseg.raw.labels.grid import on_grid
from landseg.raw.labels.polygons.annotated import Annotations, read_annotated
from landseg.raw.labels.polygons.annotations import is_annotations
from landseg.raw.labels.polygons.vector import Polygons, read_polygons
from landseg.raw.labels.rule import LabelRule, StagedLabel
from landseg.raw.labels.shared_files import VRT_NAME, matching_files, raster_files, vector_files
from landseg.raw.labels.stored_label import joined_masks, stored_label
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile
from landseg.raw.tile_files import READS_AT_ONCE

_PLAIN_DRIVERS = ("GTiff", "PNG", "HFA", "AAIGrid")
_DRIVERS = (*_PLAIN_DRIVERS, "VRT")
_OTHER_VECTORS = (".kml", ".gml", ".gdb", ".tab", ".mif", ".dxf", ".gpx", ".sqlite")
"""Of polygons that GDAL reads, and landseg does not: their readers follow what a file refers to."""


@dataclass(frozen=True)
class SharedLabels:
    """The labels of all images. Cheap to send to other processes.

    Attributes:
        where: the file, for error lines.
        sha256: of the file, and of those that it refers to.
        raster: the local file of a raster.
        polygons: those of a file of polygons.
        annotations: polygons in pixels, of LabelMe and COCO.
        nearest: whether a raster is resampled.
    """

    where: str
    sha256: str
    raster: Path | None = None
    polygons: Polygons | None = None
    annotations: Annotations | None = None
    nearest: bool = False

    def of_image(
        self, path: str, image: Georeference, size: tuple[int, int], rule: LabelRule, where: str
    ) -> StagedLabel:
        """The label of an image.

        Args:
            path: of the image in the source.
            image: where the image lies.
            size: (height, width) of the image.
            rule: what labels are staged as.
            where: the image, for the error line.

        Raises:
            DataError: the image does not say where it lies, or the labels are elsewhere or on another grid.
        """
        if self.annotations is not None:
            return self.annotations.draw(path, size, where)
        if self.polygons is not None:
            return self.polygons.draw(image, size, where)
        assert self.raster is not None, "a raster, or polygons"
        opened = _opened(self.raster, self.where)
        name = posixpath.basename(self.where)
        values, outside = on_grid(
            opened.read, opened.size, opened.georeference, image, size, where, name=name, nearest=self.nearest
        )
        if opened.has_mask:
            values, mask = values[..., :-1], values[..., -1]
            outside = joined_masks(outside, mask == 0)
        label = stored_label(values, self.where, opened.palette, has_alpha=opened.has_alpha, outside=outside)
        return replace(rule.stage(label, self.where), nodata=opened.nodata)


def open_shared_labels(
    source: Source, config: DatasetConfig, tiles: Mapping[str, Iterable[SourceTile]], scratch: Path
) -> SharedLabels | None:
    """The labels that `dataset.yaml` names for all images; None where each image has its own.

    Args:
        source: the dataset.
        config: `dataset.yaml`.
        tiles: the images by split.
        scratch: local folder for what is not a local file.

    Raises:
        DataError: there is no such file, or it holds no labels.
    """
    if config.labels is None or config.labels.file is None:
        return None
    path = config.labels.file
    files = matching_files(source, path)
    where = source.where(path)
    _check_vector_format(path, where)
    if not files:
        raise DataError(
            where,
            "expected the labels that dataset.yaml names, found no such file",
            "add it, or write the name of the file that has them",
        )
    folder = scratch / "labels"
    folder.mkdir(exist_ok=True)
    if config.labels.is_vector:
        parts = _vector_files(source, files, folder)
        paths = [(part[0], source.where(file.path)) for part, file in zip(parts, files, strict=True)]
        local = list(itertools.chain.from_iterable(parts))
        if any(is_annotations(path) for path, _ in paths):
            named = [(path, file.path, shown) for (path, shown), file in zip(paths, files, strict=True)]
            annotations = read_annotated(named, config.labels, config, tiles, scratch, where)
            return SharedLabels(where, _digest(local), annotations=annotations)
        polygons = read_polygons(paths, config.labels, config, scratch)
        return SharedLabels(where, _digest(local), polygons=polygons)
    local = raster_files(source, files[0], where, folder)
    for one in local:
        _check_raster(one, where)
    return SharedLabels(where, _digest(local), local[0], nearest=config.resamples_labels)


def _vector_files(source: Source, files: Sequence[SourceFile], folder: Path) -> list[list[Path]]:
    """The local files of each file of polygons, fetched several at once from far away: there may be thousands."""

    def fetched(number: int) -> tuple[int, list[Path]]:
        return number, vector_files(source, files[number], folder / f"labels-{number}")

    if not source.is_remote:
        return [fetched(number)[1] for number in range(len(files))]
    found = dict(storage.parallel(fetched, range(len(files)), workers=READS_AT_ONCE))
    return [found[number] for number in range(len(files))]


def _check_vector_format(path: str, where: str) -> None:
    """Refuse polygons in other formats, with the command that writes them anew."""
    if not path.lower().endswith(_OTHER_VECTORS):
        return
    name = posixpath.basename(path)
    write = 'write(sys.argv[2], g, f, m["fields"], crs=m["crs"], geometry_type=m["geometry_type"])'
    code = f"import sys; from pyogrio.raw import read, write; m, _, g, f = read(sys.argv[1], force_2d=True); {write}"
    command = python_command(code, name, f"{name.rpartition('.')[0]}.gpkg")
    problem = f"expected polygons as {', '.join(VECTOR_SUFFIXES)}, found {posixpath.splitext(path)[1]}"
    raise DataError(where, problem, f"write them as one, and name it in dataset.yaml: {command}")


def _digest(files: list[Path]) -> str:
    sums = [storage.file_sha256(file) for file in files]
    return sums[0] if len(sums) == 1 else digest({"files": sums})


def _check_raster(file: Path, where: str) -> None:
    gdal.check_file(file, where)
    # Only what `raster_files` has written anew may refer to other files, whatever the others contain.
    drivers = _DRIVERS if file.name == VRT_NAME else _PLAIN_DRIVERS
    with gdal.opened_file(file, drivers, where) as dataset:
        compression = lossy_compression(dataset)
    if compression:
        problem = f"expected labels with the values that were drawn, found a raster compressed as {compression}"
        raise DataError(where, f"{problem}, which changes them", LOSSLESS_HINT)


@dataclass(frozen=True, eq=False)
class _Opened:
    """What is known of a raster; the file itself is opened for each window."""

    path: Path
    where: str
    size: tuple[int, int]
    georeference: Georeference
    palette: NDArray[np.uint8] | None
    has_alpha: bool
    has_mask: bool
    nodata: float | None

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        """(H, W, B) values of a window; of a file with a mask, that is one more band, 0 where there is no label."""
        window = (top, bottom), (left, right)
        with gdal.opened_file(self.path, _DRIVERS, self.where) as dataset:
            values: NDArray[Any] = dataset.read(window=window)
            if self.has_mask:
                has_label = dataset.read_masks(1, window=window) > 0
                values = np.concatenate([values, has_label[np.newaxis].astype(values.dtype)])
        return values.transpose(1, 2, 0)


@functools.lru_cache(2)
def _opened(path: Path, where: str) -> _Opened:
    with gdal.opened_file(path, _DRIVERS, where) as dataset:
        if len(set(dataset.dtypes)) > 1 or dataset.count > 4:
            problem = f"expected one band of class values, or RGB, found {dataset.count} bands"
            raise DataError(where, problem, "store one class value per pixel")
        a, b, c, d, e, f = tuple(dataset.transform)[:6]
        transform = None if dataset.transform.is_identity else (a, b, c, d, e, f)
        crs = keys_of(dataset.crs) if dataset.crs else None
        interpretation = [colour.name for colour in dataset.colorinterp]
        palette = palette_of(dataset)
        return _Opened(
            path,
            where,
            (dataset.height, dataset.width),
            Georeference(transform, crs),
            palette,
            "alpha" in interpretation,
            has_own_mask(dataset),
            dataset.nodata,
        )
