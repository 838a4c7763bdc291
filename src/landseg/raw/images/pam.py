"""What an .aux.xml next to an image or a label says about its values, as GDAL, QGIS and ArcGIS write it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_BAND = re.compile(rb"<PAMRasterBand\b[^>]*\bband=[\"'](\d{1,5})[\"'][^>]*>(.*?)</PAMRasterBand>", re.DOTALL)
_NODATA = re.compile(rb"<NoDataValue\b[^>]*>([^<]{1,64})</NoDataValue>")


def sidecar_nodata(sidecars: Mapping[str, bytes | None]) -> dict[int, float]:
    """The nodata value that sidecars declare, by 1-based band.

    Args:
        sidecars: their bytes by path; None of one that is too large.
    """
    found: dict[int, float] = {}
    for path, data in sidecars.items():
        if not path.lower().endswith(".aux.xml") or data is None:
            continue
        for band in _BAND.finditer(data):
            if (value := _NODATA.search(band[2])) and (number := _number(value[1])) is not None:
                found[int(band[1])] = number
    return found


def _number(text: bytes) -> float | None:
    try:
        return float(text.decode("ascii").strip())
    except ValueError:  # UnicodeDecodeError is one
        return None
