"""Labels as polygons: read once from GeoJSON, GeoPackage or Shapefile, then drawn onto the grid of each image.

pyogrio reads them: it is the reader of GeoPandas, needs nothing but numpy, and its wheels bring GDAL along. rasterio,
which draws them, reads no vectors.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.contracts.label_source import LabelSource
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.georeference.crs import crs_of, quiet_gdal
from landseg.raw.georeference.tags import Georeference
from landseg.raw.labels.polygons.classes import class_of, staged_outside, staged_values, text_of
from landseg.raw.labels.polygons.files import MAX_SHOWN_CHARS, listed, read_file, rings_of
from landseg.raw.labels.rule import LabelRule, StagedLabel
from landseg.raw.labels.unknown.proposals import NAME, NAME_MEANS, flow_map


@dataclass(frozen=True)
class Polygons:
    """Polygons in a local file, in the order in which they are drawn. Cheap to send to other processes.

    Attributes:
        path: an .npz of `wkb` (bytes), `ends` (N,), `bounds` (N, 4) and `values` (N,), what they are staged as.
        crs: as WKT.
        outside: what is staged where there is no polygon.
        ignores_outside: whether that is the ignored value.
    """

    path: Path
    crs: str
    outside: int
    ignores_outside: bool

    def draw(self, image: Georeference, size: tuple[int, int], where: object) -> StagedLabel:
        """The label of an image.

        Args:
            image: where the image lies.
            size: (height, width) of the image.
            where: the image, for the error line.

        Raises:
            DataError: the image does not say where it lies.
        """
        from rasterio.crs import CRS
        from rasterio.errors import RasterioError
        from rasterio.transform import Affine
        from rasterio.warp import transform_bounds, transform_geom

        from landseg.raw.labels.polygons.painting import painted

        target = None if image.crs is None else crs_of(image.crs)
        if image.transform is None or target is None:
            lacks = "transform" if image.transform is None else "CRS"
            problem = (
                f"expected a georeference by which to draw the labels onto the image, found no {lacks} in the image"
            )
            raise DataError(where, problem, "write the image with one")
        own = CRS.from_wkt(self.crs)
        transform = Affine(*image.transform)
        corners = [transform @ corner for corner in ((0, 0), (size[1], 0), (0, size[0]), (size[1], size[0]))]
        x, y = [point[0] for point in corners], [point[1] for point in corners]
        wkb, ends, bounds, values = _loaded(self.path)
        try:
            with quiet_gdal():
                box = min(x), min(y), max(x), max(y)
                left, bottom, right, top = box if own == target else transform_bounds(target, own, *box)
                near = (
                    (bounds[:, 0] <= right) & (bounds[:, 2] >= left) & (bounds[:, 1] <= top) & (bounds[:, 3] >= bottom)
                )
                chosen = np.flatnonzero(near)
                shapes = [_polygons(wkb[ends[index - 1] if index else 0 : ends[index]]) for index in chosen]
                if own != target:
                    shapes = [transform_geom(own, target, shape) for shape in shapes]
                shown = list(zip(shapes, values[chosen].tolist(), strict=True))
                return painted(shown, size, transform, self.outside, ignores_outside=self.ignores_outside)
        except RasterioError as err:
            raise DataError(where, f"cannot be drawn onto the image: {err}", "check the CRS of both") from err


def read_polygons(
    files: Sequence[tuple[Path, str]], source: LabelSource, config: DatasetConfig, scratch: Path
) -> Polygons:
    """Read the polygons of one file, or of several.

    Args:
        files: each local file, of a Shapefile with its others beside it; and what it is called in error lines.
        source: which layer and field.
        config: classes, and what values mean.
        scratch: local folder for what was read.

    Raises:
        DataError: not a file of polygons, its field does not tell the classes, or several files differ in CRS.
    """
    from rasterio.crs import CRS

    rule = LabelRule(config)
    shapes: list[bytes] = []
    values: list[int] = []
    crs = ""
    for path, where in files:
        own, content, geometry = read_file(path, source, where)
        if not geometry and len(files) > 1:  # of tiles without any
            continue
        if not own:
            problem = "expected polygons with a CRS, found none"
            raise DataError(where, problem, "write the file with one (.prj of a Shapefile)")
        if crs and CRS.from_user_input(own) != CRS.from_user_input(crs):
            raise DataError(where, f"expected the CRS of the other files, {crs[:80]}, found {own[:80]}", "reproject it")
        crs = crs or own
        values += _values(content, len(geometry), source, config, where)
        shapes += geometry
    if not shapes:
        raise DataError(files[0][1], "expected polygons, found none", "write the file again")
    file = scratch / "labels.npz"
    np.savez(
        file,
        wkb=np.frombuffer(b"".join(shapes), np.uint8),
        ends=np.cumsum([len(shape) for shape in shapes]),
        bounds=np.array([_bounds(shape) for shape in shapes]),
        values=np.array(values, np.uint8),
    )
    outside = staged_outside(source, rule)
    return Polygons(file, CRS.from_user_input(crs).to_wkt(), outside, outside == rule.ignored)


def _values(
    content: Mapping[str, Sequence[Any]],
    num_shapes: int,
    source: LabelSource,
    config: DatasetConfig,
    where: object,
) -> list[int]:
    """What each polygon is staged as."""
    if source.class_name is not None:
        return staged_values([""] * num_shapes, source, config, where, "")
    field = source.class_field or ""
    if not content:
        proposed = flow_map({**source.written(), "class_name": NAME, "outside": source.outside or NAME})
        raise DataError(
            where, "expected a field that tells the classes, found none", f"write labels: {proposed}, with {NAME_MEANS}"
        )
    if field not in content:
        rule = LabelRule(config)
        named = {
            name: sum(class_of(value, source, rule) is not None for value in set(map(text_of, column)))
            for name, column in content.items()
            if len(name) <= MAX_SHOWN_CHARS
        }
        best = max(named, key=lambda name: named[name], default="")
        found = f"found {field or 'none'}"
        problem = f"expected class_field, the field that tells the classes, one of {listed(content)}; {found}"
        proposed = flow_map({**source.written(), "class_field": best})
        raise DataError(where, problem, f"if {best} tells them, write labels: {proposed}")
    return staged_values(content[field], source, config, where, field)


@functools.lru_cache(2)
def _loaded(path: Path) -> tuple[bytes, NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8]]:
    with np.load(path) as stored:
        return stored["wkb"].tobytes(), stored["ends"], stored["bounds"], stored["values"]


def _polygons(wkb: bytes) -> dict[str, Any]:
    """Well-known binary as GeoJSON, polygons only."""
    return {"type": "MultiPolygon", "coordinates": [[ring.tolist() for ring in rings] for rings in rings_of(wkb)]}


def _bounds(wkb: bytes) -> tuple[float, float, float, float]:
    """Least x and y, largest x and y; what lies nowhere for a geometry without points."""
    points = np.concatenate([ring for rings in rings_of(wkb) for ring in rings] or [np.full((1, 2), np.nan)])
    left, bottom = points.min(axis=0)
    right, top = points.max(axis=0)
    return float(left), float(bottom), float(right), float(top)
