"""Labels as polygons: read once from GeoJSON, GeoPackage or Shapefile, then drawn onto the grid of each image.

pyogrio reads them: it is the reader of GeoPandas, needs nothing but numpy, and its wheels bring GDAL along. rasterio,
which draws them, reads no vectors.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.contracts.label_source import LabelSource
from landseg.raw.dataset_yaml import DatasetConfig
from landseg.raw.georeference.crs import crs_of, quiet_gdal
from landseg.raw.georeference.tags import Georeference
from landseg.raw.labels.mapping import IGNORE
from landseg.raw.labels.rule import LabelRule, StagedLabel, value_counts
from landseg.raw.labels.unknown_values import NAME, NAME_MEANS, flow_map

_SHOWN = 40
_POLYGON, _MULTIPOLYGON, _COLLECTION = 3, 6, 7
_SETTINGS = {"CPL_VSIL_CURL_ALLOWED_FILENAME": "none", "OGR_GEOJSON_MAX_OBJ_SIZE": "200", "PROJ_NETWORK": "OFF"}


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
        from rasterio.features import rasterize
        from rasterio.transform import Affine
        from rasterio.warp import transform_bounds, transform_geom

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
                drawn = np.full(size, self.outside, np.uint8)
                if shapes:
                    pairs = zip(shapes, values[chosen].tolist(), strict=True)
                    rasterize(pairs, out=drawn, transform=transform)
                covered = np.zeros(size, np.uint8)
                if self.ignores_outside and shapes:
                    rasterize(shapes, out=covered, transform=transform)
        except RasterioError as err:
            raise DataError(where, f"cannot be drawn onto the image: {err}", "check the CRS of both") from err
        num_outside = int(covered.size - np.count_nonzero(covered)) if self.ignores_outside else 0
        return StagedLabel(drawn, value_counts(drawn), False, None, num_outside)


def read_polygons(path: Path, source: LabelSource, config: DatasetConfig, where: object, scratch: Path) -> Polygons:
    """Read the polygons of a file.

    Args:
        path: the local file; of a Shapefile, with its others beside it.
        source: which layer and field.
        config: classes, and what values mean.
        where: the file, for the error line.
        scratch: local folder for what was read.

    Raises:
        DataError: not a file of polygons, or its field does not tell the classes.
    """
    import pyogrio

    pyogrio.set_gdal_config_options(_SETTINGS)
    try:
        layer = _layer(path, source, where)
        fields = [str(name) for name in pyogrio.read_info(path, layer=layer)["fields"]]
        meta, _, geometry, columns = pyogrio.raw.read(path, layer=layer, force_2d=True)
    except DataError:
        raise
    except Exception as err:  # whatever GDAL and pyogrio raise on damaged bytes, the file is at fault
        raise DataError(where, f"cannot be read as polygons: {str(err)[:120]}", "copy or write the file again") from err
    if not meta["crs"]:
        raise DataError(
            where, "expected polygons with a CRS, found none", "write the file with one (.prj of a Shapefile)"
        )
    present = [index for index, shape in enumerate(geometry) if shape is not None]
    if not present:
        raise DataError(where, "expected polygons, found none", "write the file again")
    content = {name: [column[index] for index in present] for name, column in zip(fields, columns, strict=True)}
    rule = LabelRule(config)
    values = _values(content, source, config, rule, where)
    shapes = [geometry[index] for index in present]
    for shape in shapes:
        _check_polygon(shape, where)
    file = scratch / "labels.npz"
    np.savez(
        file,
        wkb=np.frombuffer(b"".join(shapes), np.uint8),
        ends=np.cumsum([len(shape) for shape in shapes]),
        bounds=np.array([_bounds(shape) for shape in shapes]),
        values=np.array(values, np.uint8),
    )
    staged = rule.staged_classes
    outside = staged[None if source.outside in (None, IGNORE) else source.outside]
    from rasterio.crs import CRS

    return Polygons(file, CRS.from_user_input(meta["crs"]).to_wkt(), outside, outside == rule.ignored)


def _layer(path: Path, source: LabelSource, where: object) -> str:
    import pyogrio

    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if source.layer is not None:
        if source.layer not in layers:
            raise DataError(where, f"expected a layer {source.layer}, found {', '.join(layers)}", "set layer in labels")
        return source.layer
    if len(layers) != 1:
        found = ", ".join(layers) or "none"
        problem = f"expected one layer of polygons, found {found}"
        raise DataError(where, problem, f"write layer: {layers[0]} into labels" if layers else "write the file again")
    return layers[0]


def _values(
    content: Mapping[str, Sequence[Any]],
    source: LabelSource,
    config: DatasetConfig,
    rule: LabelRule,
    where: object,
) -> list[int]:
    """What each polygon is staged as."""
    field = source.class_field or ""
    if field not in content:
        named = {
            name: sum(_class(value, source, rule) is not None for value in set(column))
            for name, column in content.items()
        }
        best = max(named, key=lambda name: named[name], default="")
        found = f"found {field or 'none'}"
        problem = f"expected class_field, the field that tells the classes, one of {', '.join(content)}; {found}"
        proposed = flow_map({**source.written(), "class_field": best})
        raise DataError(where, problem, f"if {best} tells them, write labels: {proposed}")
    column = [_text(value) for value in content[field]]
    meanings = {text: _class(text, source, rule) for text in set(column)}
    unknown = Counter(text for text in column if meanings[text] is None)
    if unknown:
        listed = ", ".join(f"{text or 'no value'} ({number} polygons)" for text, number in unknown.most_common(_SHOWN))
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        known = dict(source.values or ())
        proposed = flow_map({**source.written(), "values": known | dict.fromkeys(sorted(unknown)[:_SHOWN], NAME)})
        problem = f"values of {field} that are no classes: {listed}{more}; expected {', '.join(config.classes)}"
        raise DataError(where, problem, f"write labels: {proposed}, with {NAME_MEANS}")
    return [value for text in column if (value := meanings[text]) is not None]


def _text(value: Any) -> str:
    """A field's value as text; whole numbers without a fraction, "" for none."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and value == int(value):
        value = int(value)
    return str(value).strip()


def _class(value: Any, source: LabelSource, rule: LabelRule) -> int | None:
    """What a field's value is staged as; None for one that means nothing."""
    text = _text(value)
    staged = rule.staged_classes
    if source.values is not None:
        names = dict(source.values)
        return staged[None if names[text] == IGNORE else names[text]] if text in names else None
    if text in staged or text == IGNORE:
        return staged[None if text == IGNORE else text]
    return rule.staged_value(int(text)) if text.lstrip("-").isdigit() else None


def _check_polygon(wkb: bytes, where: object) -> None:
    kind = struct.unpack_from("<I" if wkb[0] else ">I", wkb, 1)[0] % 1000
    if kind not in (_POLYGON, _MULTIPOLYGON, _COLLECTION):
        names = {1: "points", 2: "lines", 4: "points", 5: "lines"}
        problem = f"expected polygons, found {names.get(kind, f'geometries of type {kind}')}"
        raise DataError(where, problem, "draw them as polygons: buffer lines and points by their width")


@functools.lru_cache(2)
def _loaded(path: Path) -> tuple[bytes, NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8]]:
    with np.load(path) as stored:
        return stored["wkb"].tobytes(), stored["ends"], stored["bounds"], stored["values"]


def _polygons(wkb: bytes) -> dict[str, Any]:
    """Well-known binary as GeoJSON, polygons only."""
    polygons: list[list[NDArray[np.float64]]] = []
    _parse(wkb, 0, polygons)
    return {"type": "MultiPolygon", "coordinates": [[ring.tolist() for ring in rings] for rings in polygons]}


def _bounds(wkb: bytes) -> tuple[float, float, float, float]:
    """Least x and y, largest x and y; what lies nowhere for a geometry without points."""
    polygons: list[list[NDArray[np.float64]]] = []
    _parse(wkb, 0, polygons)
    points = np.concatenate([ring for rings in polygons for ring in rings] or [np.full((1, 2), np.nan)])
    left, bottom = points.min(axis=0)
    right, top = points.max(axis=0)
    return float(left), float(bottom), float(right), float(top)


def _parse(wkb: bytes, position: int, polygons: list[list[NDArray[np.float64]]]) -> int:
    """Append the polygons of the geometry at a position; returns where it ends."""
    order = "<" if wkb[position] else ">"
    kind, number = struct.unpack_from(f"{order}II", wkb, position + 1)
    position += 9
    if kind in (_MULTIPOLYGON, _COLLECTION):
        for _ in range(number):
            position = _parse(wkb, position, polygons)
        return position
    if kind != _POLYGON:
        raise ValueError(f"a geometry of type {kind}")
    rings = []
    for _ in range(number):
        (length,) = struct.unpack_from(f"{order}I", wkb, position)
        rings.append(np.frombuffer(wkb, f"{order}f8", 2 * length, position + 4).reshape(-1, 2))
        position += 4 + 16 * length
    if rings:
        polygons.append(rings)
    return position
