"""How much ground a pixel covers, from the georeference of the tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from landseg.contracts.tile import Geo, GeoKeys

# GeoTIFF 1.1 (OGC 19-008r4): keys, and the linear units of which the metre is one.
_MODEL_TYPE, _PROJECTED_CRS, _PROJECTION_METHOD, _LINEAR_UNITS = 1024, 3072, 3075, 3076
_PROJECTED, _MERCATOR = 1, 7
_METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}
# Web Mercator and its kin: a pixel's ground area depends on the latitude, by a factor of four at 60 degrees.
_MERCATOR_CODES = {3857, 3395, 3785, 54004, 102100, 102113}
_TOLERANCE = 1e-3


def pixel_area_m2(geos: Iterable[Geo | None], crs: Sequence[GeoKeys]) -> float | None:
    """The ground area of one pixel in square metres, if it is the same for all tiles.

    Args:
        geos: the tiles' georeferences.
        crs: the coordinate reference systems that they refer to by position.

    Returns:
        None if a tile has no georeference, or one in degrees or in a projection whose scale varies (Mercator), or if
        the tiles' pixels differ by more than 0.1 %.
    """
    least, most, total, count = math.inf, 0.0, 0.0, 0
    for geo in geos:  # of all tiles, one by one: there may be millions
        area = None if geo is None or geo.crs is None else _area(geo, crs[geo.crs])
        if area is None:
            return None
        least, most, total, count = min(least, area), max(most, area), total + area, count + 1
        if most > least * (1 + _TOLERANCE):
            return None
    return total / count if count else None


def _area(geo: Geo, crs: GeoKeys) -> float | None:
    # Entries of four after the header: key, tag that holds the value (0: right here), count, value.
    entries = zip(*(crs.directory[start::4] for start in range(4, 8)), strict=False)
    keys = {key: value for key, tag, _, value in entries if tag == 0}
    if keys.get(_MODEL_TYPE) != _PROJECTED or keys.get(_LINEAR_UNITS, 9001) not in _METRES:
        return None
    if keys.get(_PROJECTED_CRS) in _MERCATOR_CODES or keys.get(_PROJECTION_METHOD) == _MERCATOR:
        return None
    if _LINEAR_UNITS not in keys and not _is_utm(keys.get(_PROJECTED_CRS, 0)):
        return None
    a, b, _, d, e, _ = geo.transform
    area = abs(a * e - b * d) * _METRES[keys.get(_LINEAR_UNITS, 9001)] ** 2
    return area if area > 0 else None


def _is_utm(code: int) -> bool:
    """Whether an EPSG code is WGS 84's UTM, whose unit is the metre even where the file does not say so."""
    return 32601 <= code <= 32660 or 32701 <= code <= 32760
