"""GeoTIFF tags: read from images, and made for the TIFFs that landseg writes."""

from __future__ import annotations

import math
from typing import Any

import tifffile
from pydantic import ValidationError

from landseg.contracts.dataset import Geo, GeoKeys

Transform = tuple[float, float, float, float, float, float]

_PIXEL_SCALE, _TIEPOINT, _MATRIX = 33550, 33922, 34264
_KEY_DIRECTORY, _DOUBLE_PARAMS, _ASCII_PARAMS = 34735, 34736, 34737
_SHORT, _DOUBLE, _ASCII = 3, 12, 2


def read_transform(page: tifffile.TiffPage) -> Transform | None:
    """The affine transform that the tags give; None without one, or with control points that are no affine."""
    matrix = _floats(page, _MATRIX)
    if len(matrix) == 16:
        return _finite((matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]))
    scale, tie = _floats(page, _PIXEL_SCALE), _floats(page, _TIEPOINT)
    if len(scale) != 3 or len(tie) != 6:
        return None
    column, row, _, x, y, _ = tie
    return _finite((scale[0], 0.0, x - column * scale[0], 0.0, -scale[1], y + row * scale[1]))


def read_geo_keys(page: tifffile.TiffPage) -> GeoKeys | None:
    """The coordinate reference system; None without one or where its tags are damaged."""
    directory = page.tags.valueof(_KEY_DIRECTORY)
    if not isinstance(directory, tuple):
        return None
    try:
        return GeoKeys(
            directory=directory,
            doubles=_floats(page, _DOUBLE_PARAMS),
            ascii=str(page.tags.valueof(_ASCII_PARAMS, "")),
        )
    except ValidationError:
        return None


def geo_tags(geo: Geo | None, crs: tuple[GeoKeys, ...]) -> list[tuple[int, int, int, Any, bool]]:
    """The georeference as tifffile's `extratags`."""
    if geo is None:
        return []
    a, b, c, d, e, f = geo.transform
    matrix = (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    tags: list[tuple[int, int, int, Any, bool]]
    if b == d == 0.0 and a > 0 > e:  # what most programs write and the simplest read
        tags = [
            (_PIXEL_SCALE, _DOUBLE, 3, (a, -e, 0.0), True),
            (_TIEPOINT, _DOUBLE, 6, (0.0, 0.0, 0.0, c, f, 0.0), True),
        ]
    else:
        tags = [(_MATRIX, _DOUBLE, 16, matrix, True)]
    if geo.crs is not None:
        keys = crs[geo.crs]
        tags.append((_KEY_DIRECTORY, _SHORT, len(keys.directory), keys.directory, True))
        if keys.doubles:
            tags.append((_DOUBLE_PARAMS, _DOUBLE, len(keys.doubles), keys.doubles, True))
        if keys.ascii:
            tags.append((_ASCII_PARAMS, _ASCII, 0, keys.ascii, True))
    return tags


def _floats(page: tifffile.TiffPage, code: int) -> tuple[float, ...]:
    value = page.tags.valueof(code, ())
    return tuple(float(item) for item in value) if isinstance(value, tuple) else ()


def _finite(transform: Transform) -> Transform | None:
    return transform if all(math.isfinite(value) for value in transform) else None
