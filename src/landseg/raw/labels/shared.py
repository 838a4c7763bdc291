"""One file with the labels of all images: put onto local disk once, then cut or drawn for each image."""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.documents import digest
from landseg.contracts.errors import DataError
from landseg.contracts.label_source import VECTOR_SUFFIXES
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.georeference.crs import keys_of
from landseg.raw.georeference.sidecars import MAX_SIDECAR_BYTES
from landseg.raw.georeference.tags import Georeference
from landseg.raw.images import gdal
from landseg.raw.images.raster import has_own_mask, lossy_compression, palette_of
from landseg.raw.images.vrt import referenced_files, rewritten
from landseg.raw.labels.files import LOSSLESS_HINT
from landseg.raw.labels.grid import on_grid
from landseg.raw.labels.headed import with_its_header
from landseg.raw.labels.polygons.annotated import Annotations, read_annotated
from landseg.raw.labels.polygons.annotations import is_annotations
from landseg.raw.labels.polygons.vector import Polygons, read_polygons
from landseg.raw.labels.rule import LabelRule, StagedLabel
from landseg.raw.labels.stored_label import joined_masks, stored_label
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.layout.suffixes import header_names
from landseg.raw.sources.source import PrefixSource, Source
from landseg.raw.sources.source_file import SourceFile

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_PLAIN_DRIVERS = ("GTiff", "PNG", "HFA", "AAIGrid")
_DRIVERS = (*_PLAIN_DRIVERS, "VRT")
_VRT_NAME = "labels.vrt"
_OTHER_VECTORS = (".kml", ".gml", ".gdb", ".tab", ".mif", ".dxf", ".gpx", ".sqlite")
"""Of polygons that GDAL reads, and landseg does not: their readers follow what a file refers to."""
_SIDECARS = (".dbf", ".shx", ".prj", ".cpg")


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


def belonging_files(source: Source, config: DatasetConfig) -> set[str]:
    """The paths of the labels that `dataset.yaml` names for all images, and of what belongs to them."""
    path = config.shared_labels
    if "*" in path:
        return {beside.path for file in _matching(source, path) for beside in (file, *_beside(source, file.path))}
    file = source.file(path) if path else None
    if file is None:
        return {path}
    found = {path} | {other.path for other in _beside(source, path)}
    if path.lower().endswith(".vrt"):
        found |= _members(source, file, source.where(path)).keys()
    return found


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
    files = _matching(source, path)
    where = source.where(path)
    if path.lower().endswith(_OTHER_VECTORS):
        name = posixpath.basename(path)
        write = f"write('{name.rpartition('.')[0]}.gpkg',g,f,m['fields'],crs=m['crs'],geometry_type=m['geometry_type'])"
        command = f"python -c \"from pyogrio.raw import read, write; m,_,g,f=read('{name}',force_2d=True); {write}\""
        problem = f"expected polygons as {', '.join(VECTOR_SUFFIXES)}, found {posixpath.splitext(path)[1]}"
        raise DataError(where, problem, f"write them as one, and name it in dataset.yaml: {command}")
    if not files:
        raise DataError(
            where,
            "expected the labels that dataset.yaml names, found no such file",
            "add it, or write the name of the file that has them",
        )
    folder = scratch / "labels"
    folder.mkdir(exist_ok=True)
    if config.labels.is_vector:
        local: list[Path] = []
        paths: list[tuple[Path, str]] = []
        for number, file in enumerate(files):
            parts = [file, *_beside(source, file.path)]
            names = [f"labels-{number}{posixpath.splitext(part.path)[1].lower()}" for part in parts]
            of_file = [_local(source, part, folder / name) for part, name in zip(parts, names, strict=True)]
            paths.append((of_file[0], source.where(file.path)))
            local += of_file
        if any(is_annotations(path) for path, _ in paths):
            named = [(path, file.path, shown) for (path, shown), file in zip(paths, files, strict=True)]
            annotations = read_annotated(named, config.labels, config, tiles, scratch, where)
            return SharedLabels(where, _digest(local), annotations=annotations)
        polygons = read_polygons(paths, config.labels, config, scratch)
        return SharedLabels(where, _digest(local), polygons=polygons)
    file = files[0]
    local = _raster_files(source, file, where, folder)
    for one in local:
        # Only what `_raster_files` has written anew may refer to other files, whatever the others contain.
        gdal.check_file(one, where)
        drivers = _DRIVERS if one == folder / _VRT_NAME else _PLAIN_DRIVERS
        with gdal.opened_file(one, drivers, where) as dataset:
            _check_raster(dataset, where)
    return SharedLabels(where, _digest(local), local[0], nearest=config.resamples_labels)


def _matching(source: Source, path: str) -> list[SourceFile]:
    """The file at a path, or the files that a pattern is for, in which `*` stands for any part of a name."""
    if "*" not in path:
        return [file for file in [source.file(path)] if file is not None]
    pattern = re.compile("[^/]*".join(map(re.escape, path.split("*"))))
    return [file for file in source.files() if pattern.fullmatch(file.path)]


def _beside(source: Source, path: str) -> list[SourceFile]:
    """The other files of a Shapefile."""
    stem, suffix = posixpath.splitext(path)
    if suffix.lower() != ".shp":
        return []
    names = [stem + (other.upper() if suffix.isupper() else other) for other in _SIDECARS]
    return [file for file in map(source.file, names) if file is not None]


def _local(source: Source, file: SourceFile, target: Path) -> Path:
    """A file of the source on local disk, under a name that tells its format: a copy, unless it lies in a folder."""
    path = Path(source.uri) / file.path
    if not source.is_remote and path.is_file():
        target.unlink(missing_ok=True)
        target.symlink_to(path.resolve())
    elif isinstance(source, PrefixSource):
        storage.get_file(source.where(file.path), target)
    else:
        target.write_bytes(source.read(file))
    return target


def _members(source: Source, file: SourceFile, where: str) -> dict[str, SourceFile]:
    """The files that a virtual raster refers to, directly or through others, by path."""
    found: dict[str, SourceFile] = {}

    def read(path: str) -> bytes:
        member = source.file(path)
        if member is None:
            raise DataError(where, f"refers to {path}, which is not in the dataset", "add the file, or build it again")
        found[path] = member
        # Only virtual ones are looked into; the others may be large.
        return source.read(member) if path.lower().endswith(".vrt") else b""

    referenced_files(source.read(file), file.path, where, read)
    return found


def _raster_files(source: Source, file: SourceFile, where: str, folder: Path) -> list[Path]:
    """The local files of a raster; of a virtual one, that which refers to the others, and then these."""
    if not file.path.lower().endswith(".vrt"):
        return [_with_its_header(source, file, where, folder) or _local(source, file, folder / "labels")]
    members = _members(source, file, where)
    paths = {path: folder / f"labels-{number}" for number, path in enumerate(members)} | {file.path: folder / _VRT_NAME}
    names = {path: str(local) for path, local in paths.items()}
    for path, member in {**members, file.path: file}.items():
        if path.lower().endswith(".vrt"):
            paths[path].write_bytes(rewritten(source.read(member), path, names, where))
        else:
            _local(source, member, paths[path])
    return [paths[file.path], *(paths[path] for path in members if not path.lower().endswith(".vrt"))]


def _with_its_header(source: Source, file: SourceFile, where: str, folder: Path) -> Path | None:
    """A raster and the header next to it as one local file; None of one that needs none."""
    header = next((found for name in header_names(file.path) if (found := source.file(name)) is not None), None)
    if header is None or header.size_bytes > MAX_SIDECAR_BYTES:
        return None
    data = source.read(file)
    whole = with_its_header(data, source.read(header), where)
    if whole is data:
        return None
    path = folder / "labels"
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    return path


def _digest(files: list[Path]) -> str:
    sums = [storage.file_sha256(file) for file in files]
    return sums[0] if len(sums) == 1 else digest({"files": sums})


def _check_raster(dataset: DatasetReader, where: str) -> None:
    if compression := lossy_compression(dataset):
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
