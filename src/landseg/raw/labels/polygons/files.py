"""Files of polygons: GeoJSON, GeoPackage, Shapefile and FlatGeobuf, opened as what their names say and nothing else.

GDAL takes a file for whatever its content looks like, and some formats only refer to others: to any file of this
machine, to an address. So the content must be that of the format named by the suffix, and GDAL reaches no network.
"""

from __future__ import annotations

import codecs
import json
import re
import struct
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.contracts.label_source import LabelSource
from landseg.raw.images.gdal import NO_NETWORK
from landseg.raw.sources.file_start import read_start

MAX_SHOWN = 40
"""How many names and values from a file an error line shows, of :data:`MAX_SHOWN_CHARS` each."""
MAX_SHOWN_CHARS = 60
_POLYGON, _MULTIPOLYGON, _COLLECTION = 3, 6, 7
_MAX_DEPTH = 64
"""Of collections in collections."""
_SETTINGS = {**NO_NETWORK, "OGR_GEOJSON_MAX_OBJ_SIZE": "200", "PROJ_NETWORK": "OFF"}
_STARTS = {
    ".geojson": ("GeoJSON", re.compile(rb"\s*\{")),
    ".json": ("GeoJSON", re.compile(rb"\s*\{")),
    ".gpkg": ("a GeoPackage", re.compile(rb"SQLite format 3\0")),
    ".shp": ("a Shapefile", re.compile(rb"\0\0\x27\x0a")),
    ".fgb": ("a FlatGeobuf", re.compile(rb"fgb[\x01-\x0f]fgb")),
}
_CRS = re.compile(rb"""["'](?:c|\\u0063)(?:r|\\u0072)(?:s|\\u0073)["']\s*:\s*(?=\{)""", re.IGNORECASE)


def read_file(path: Path, source: LabelSource, where: object) -> tuple[str, dict[str, list[Any]], list[bytes]]:
    """Read a file of polygons.

    Args:
        path: a local file whose suffix is that of its format.
        source: which layer.
        where: the file, for the error line.

    Returns:
        CRS ("" without one), values by field, and the polygons as well-known binary.

    Raises:
        DataError: it is damaged, of another format, or holds something other than polygons.
    """
    import pyogrio

    _check_content(path, where)
    pyogrio.set_gdal_config_options(_SETTINGS)
    try:
        layer = _layer(path, source, where)
        fields = [str(name) for name in pyogrio.read_info(path, layer=layer)["fields"]]
        meta, _, geometry, columns = pyogrio.raw.read(path, layer=layer, force_2d=True)
    except DataError:
        raise
    except Exception as err:  # whatever GDAL and pyogrio raise on damaged bytes, the file is at fault
        reason = str(err).replace(str(path), "it")[:120]
        raise DataError(where, f"cannot be read as polygons: {reason}", "copy or write the file again") from err
    present = [index for index, shape in enumerate(geometry) if shape is not None]
    content = {name: [column[index] for index in present] for name, column in zip(fields, columns, strict=True)}
    shapes = [geometry[index] for index in present]
    for shape in shapes:
        _check_polygon(shape, where)
    return str(meta["crs"] or ""), content, shapes


def listed(names: Iterable[str]) -> str:
    """Names from a file, as far as an error line shows them."""
    return ", ".join(map(shortened, islice(names, MAX_SHOWN)))


def shortened(text: str) -> str:
    """A text from a file, as far as an error line shows it."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def _check_content(path: Path, where: object) -> None:
    """Refuse a file that is not of the format named by its suffix, or whose CRS lies at an address."""
    name, start = _STARTS[path.suffix.lower()]
    with path.open("rb") as file:
        head = file.read(4096)
    if not start.match(head.removeprefix(codecs.BOM_UTF8)):
        found, action = read_start(head)
        raise DataError(where, f"expected {name}, found {found}", action or "give it the suffix of its format")
    if name != "GeoJSON":
        return
    data = path.read_bytes()
    for key in _CRS.finditer(data):
        # GDAL would fetch it, and take degrees where it cannot.
        if re.search(rb"href", data[key.end() : _end_of_object(data, key.end())], re.IGNORECASE):
            problem = "expected a CRS by its name, found one that is a link"
            raise DataError(where, problem, "write the file with a named CRS, such as urn:ogc:def:crs:EPSG::32633")


def _end_of_object(data: bytes, start: int) -> int:
    """Where the JSON object that begins at a position ends; 64 KiB on where it is longer or malformed."""
    text = data[start : start + (1 << 16)].decode("utf-8", "replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return start + (1 << 16)
    return start + len(text[:end].encode())


def _layer(path: Path, source: LabelSource, where: object) -> str:
    import pyogrio

    layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if source.layer is not None:
        if source.layer not in layers:
            raise DataError(
                where,
                f"expected a layer {source.layer}, found {listed(layers)}",
                f"write layer: {shortened(layers[0])} into labels" if layers else "write the file again",
            )
        return source.layer
    if len(layers) != 1:
        problem = f"expected one layer of polygons, found {listed(layers) or 'none'}"
        raise DataError(
            where, problem, f"write layer: {shortened(layers[0])} into labels" if layers else "write the file again"
        )
    return layers[0]


def _check_polygon(wkb: bytes, where: object) -> None:
    """Refuse a geometry that is, or contains, something other than polygons."""
    try:
        rings_of(wkb)
    except _OtherGeometryError as err:
        names = {1: "points", 2: "lines", 4: "points", 5: "lines"}
        problem = f"expected polygons, found {names.get(err.kind, f'geometries of type {err.kind}')}"
        raise DataError(where, problem, "draw them as polygons: buffer lines and points by their width") from err
    except (struct.error, IndexError, ValueError) as err:
        raise DataError(where, "expected polygons, found damaged ones", "write the file again") from err


class _OtherGeometryError(Exception):
    """A geometry is no polygon.

    Attributes:
        kind: what it is, as well-known binary counts kinds.
    """

    def __init__(self, kind: int) -> None:
        super().__init__(f"a geometry of type {kind}")
        self.kind = kind


def rings_of(wkb: bytes) -> list[list[NDArray[np.float64]]]:
    """The polygons of a geometry in well-known binary: the rings of each, outer ring first, (N, 2) float64."""
    polygons: list[list[NDArray[np.float64]]] = []
    _parse(wkb, 0, polygons, 0)
    return polygons


def _parse(wkb: bytes, position: int, polygons: list[list[NDArray[np.float64]]], depth: int) -> int:
    """Append the polygons of the geometry at a position; returns where it ends."""
    order = "<" if wkb[position] else ">"
    kind, number = struct.unpack_from(f"{order}II", wkb, position + 1)
    position += 9
    if kind in (_MULTIPOLYGON, _COLLECTION):
        if depth == _MAX_DEPTH:
            raise ValueError(f"collections nested more than {_MAX_DEPTH} deep")
        for _ in range(number):
            position = _parse(wkb, position, polygons, depth + 1)
        return position
    if kind != _POLYGON:
        raise _OtherGeometryError(kind)
    rings = []
    for _ in range(number):
        (length,) = struct.unpack_from(f"{order}I", wkb, position)
        rings.append(np.frombuffer(wkb, f"{order}f8", 2 * length, position + 4).reshape(-1, 2))
        position += 4 + 16 * length
    if rings:
        polygons.append(rings)
    return position
