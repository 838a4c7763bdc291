"""GeoTIFF tags: read from images as GDAL reads them, and made for the TIFFs that landseg writes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tifffile
from pydantic import ValidationError

from landseg.contracts.tile import (
    MAX_CONTROL_POINTS,
    RPC_NUMBERS,
    ControlPoint,
    ControlPoints,
    GeoKeys,
    Location,
    Rpc,
)

Transform = tuple[float, float, float, float, float, float]

_PIXEL_SCALE, _TIEPOINT, _MATRIX = 33550, 33922, 34264
_KEY_DIRECTORY, _DOUBLE_PARAMS, _ASCII_PARAMS = 34735, 34736, 34737
_RPC = 50844
_SHORT, _DOUBLE, _ASCII = 3, 12, 2
_RASTER_TYPE_KEY, _PIXEL_IS_AREA, _PIXEL_IS_POINT = 1025, 1, 2
_MAX_ASCII_BYTES = 16384
PIXEL_COORDINATES = ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
"""What programs write, without a CRS, for images that lie nowhere."""


class Georeference(NamedTuple):
    """Where an image lies.

    Attributes:
        transform: (a, b, c, d, e, f), which gives the corners of pixels: x = a·column + b·row + c,
            y = d·column + e·row + f; None where there is none, or only control points.
        crs: the coordinate reference system; None where none is given.
        control_points: what says where it lies in place of a transform; empty next to one.
        rpc: the :class:`~landseg.contracts.tile.Rpc` of one that has neither; else empty.
    """

    transform: Transform | None = None
    crs: GeoKeys | None = None
    control_points: tuple[ControlPoint, ...] = ()
    rpc: tuple[float, ...] = ()


def read_georeference(page: tifffile.TiffPage) -> Georeference:
    """The georeference that the tags give, as GDAL reads them.

    A pixel scale counts before a matrix, its first tie point before others, and its sign does not matter: images are
    north up. Tie points that speak of the centres of pixels (PixelIsPoint) are moved to their corners. A transform that
    does nothing is none. Tie points without a transform are control points.
    """
    transform, crs = read_transform(page), read_geo_keys(page)
    points = read_control_points(page)
    if transform in PIXEL_COORDINATES and crs is None:
        transform = None
    directory = () if crs is None else crs.directory
    keys = [directory[start : start + 4] for start in range(0, len(directory), 4)]
    if crs is not None and (_RASTER_TYPE_KEY, 0, 1, _PIXEL_IS_POINT) in keys:
        if transform is not None:
            a, b, c, d, e, f = transform
            transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
        points = tuple((column + 0.5, row + 0.5, x, y, z) for column, row, x, y, z in points)
        area = (_RASTER_TYPE_KEY, 0, 1, _PIXEL_IS_AREA)
        changed = [area if key[0] == _RASTER_TYPE_KEY else key for key in keys]
        crs = crs.model_copy(update={"directory": tuple(value for key in changed for value in key)})
    return Georeference(transform, crs, points, () if transform or points else read_rpc(page))


def read_rpc(page: tifffile.TiffPage) -> tuple[float, ...]:
    """The rational polynomials of an image; empty without any, or where they are damaged."""
    values = _floats(page, _RPC)
    return values if len(values) == RPC_NUMBERS and all(map(math.isfinite, values)) else ()


def read_control_points(page: tifffile.TiffPage) -> tuple[ControlPoint, ...]:
    """The tie points of an image, where neither a pixel scale nor a matrix makes them part of a transform.

    Empty where they are too many, or not numbers.
    """
    scale, values = _floats(page, _PIXEL_SCALE), _floats(page, _TIEPOINT)
    if (len(scale) >= 2 and scale[0] and scale[1]) or len(_floats(page, _MATRIX)) == 16:
        return ()
    if len(values) > 6 * MAX_CONTROL_POINTS or not all(map(math.isfinite, values)):
        return ()
    starts = range(0, len(values) - 5, 6)
    return tuple((values[i], values[i + 1], values[i + 3], values[i + 4], values[i + 5]) for i in starts)


def count_control_points(page: tifffile.TiffPage) -> int:
    """How many tie points of an image say where it lies, where no pixel scale makes a transform of them."""
    return len(_floats(page, _TIEPOINT)) // 6


def read_transform(page: tifffile.TiffPage) -> Transform | None:
    """The affine transform; None without one, or where it says no more than the size of pixels."""
    scale, tie, matrix = _floats(page, _PIXEL_SCALE), _floats(page, _TIEPOINT), _floats(page, _MATRIX)
    if len(scale) >= 2 and scale[0] and scale[1]:
        if len(tie) < 6:  # GDAL takes it to lie at (0, 0), where all such images would overlap
            return None
        column, row, _, x, y, _ = tie[:6]
        a, e = scale[0], -abs(scale[1])
        return _finite((a, 0.0, x - column * a, 0.0, e, y - row * e))
    if len(matrix) == 16:
        return _finite((matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]))
    return None


def read_geo_keys(page: tifffile.TiffPage) -> GeoKeys | None:
    """The coordinate reference system; None without one or where its tags are damaged."""
    directory = page.tags.valueof(_KEY_DIRECTORY)
    if not isinstance(directory, tuple):
        return None
    text = _ascii_bytes(page)
    try:
        ascii_params = text.decode()
    except UnicodeDecodeError:
        directory, ascii_params = _recoded(directory, text)
    try:
        return GeoKeys(directory=directory, doubles=_floats(page, _DOUBLE_PARAMS), ascii=ascii_params)
    except ValidationError:
        return None


def _ascii_bytes(page: tifffile.TiffPage) -> bytes:
    """The texts of the keys; positions in them count bytes, so they are not decoded as tifffile would."""
    tag = page.tags.get(_ASCII_PARAMS)
    if tag is None or not 0 < tag.count <= _MAX_ASCII_BYTES:
        return b""
    file = page.parent.filehandle
    file.seek(tag.valueoffset)
    return bytes(file.read(tag.count)).rstrip(b"\0")


def _recoded(directory: tuple[int, ...], text: bytes) -> tuple[tuple[int, ...], str]:
    """Texts in Latin-1 as UTF-8, which takes more bytes: the keys' lengths and positions follow."""
    changed = list(directory)
    whole = ""
    for start in range(4, len(directory) - 3, 4):
        _, location, count, offset = directory[start : start + 4]
        if location == _ASCII_PARAMS:
            own = text[offset : offset + count].decode("latin-1")
            changed[start + 2 : start + 4] = [len(own.encode()), len(whole.encode())]
            whole += own
    return tuple(changed), whole


def geo_tags(geo: Location | None, crs: tuple[GeoKeys, ...]) -> list[tuple[int, int, int, Any, bool]]:
    """The georeference as tifffile's `extratags`."""
    if geo is None:
        return []
    tags = _place_tags(geo)
    if geo.crs is not None:
        keys = crs[geo.crs]
        tags.append((_KEY_DIRECTORY, _SHORT, len(keys.directory), keys.directory, True))
        if keys.doubles:
            tags.append((_DOUBLE_PARAMS, _DOUBLE, len(keys.doubles), keys.doubles, True))
        if keys.ascii:
            tags.append((_ASCII_PARAMS, _ASCII, 0, keys.ascii.encode(), True))
    return tags


def _place_tags(geo: Location) -> list[tuple[int, int, int, Any, bool]]:
    if isinstance(geo, ControlPoints):
        values = [value for column, row, x, y, z in geo.points for value in (column, row, 0.0, x, y, z)]
        return [(_TIEPOINT, _DOUBLE, len(values), tuple(values), True)]
    if isinstance(geo, Rpc):
        return [(_RPC, _DOUBLE, RPC_NUMBERS, geo.coefficients, True)]
    a, b, c, d, e, f = geo.transform
    if b == d == 0.0 and a > 0 > e:  # what most programs write and the simplest read
        return [
            (_PIXEL_SCALE, _DOUBLE, 3, (a, -e, 0.0), True),
            (_TIEPOINT, _DOUBLE, 6, (0.0, 0.0, 0.0, c, f, 0.0), True),
        ]
    matrix = (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    return [(_MATRIX, _DOUBLE, 16, matrix, True)]


def _floats(page: tifffile.TiffPage, code: int) -> tuple[float, ...]:
    value = page.tags.valueof(code, ())
    # tifffile gives more than a thousand numbers as an array.
    return tuple(float(item) for item in value) if isinstance(value, tuple | np.ndarray) else ()


def _finite(transform: Transform) -> Transform | None:
    return transform if all(math.isfinite(value) for value in transform) else None
