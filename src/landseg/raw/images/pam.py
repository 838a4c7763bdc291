"""What an .aux.xml next to an image or a label says of its bands, as GDAL, QGIS and ArcGIS write it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_BAND = re.compile(rb"<PAMRasterBand\b[^>]*\bband=[\"'](\d{1,5})[\"'][^>]*>(.*?)</PAMRasterBand>", re.DOTALL)
_NODATA = re.compile(rb"<NoDataValue\b[^>]*>([^<]{1,64})</NoDataValue>")


def sidecar_bands(sidecars: Mapping[str, bytes | None]) -> Iterator[tuple[int, bytes]]:
    """The 1-based number of each band that sidecars describe, and the XML inside of its element.

    Args:
        sidecars: their bytes by path; None of one that is too large.
    """
    for path, data in sidecars.items():
        if path.lower().endswith(".aux.xml") and data is not None:
            for band in _BAND.finditer(data):
                yield int(band[1]), band[2]


def sidecar_nodata(sidecars: Mapping[str, bytes | None]) -> dict[int, float]:
    """The nodata value that sidecars declare, by 1-based band; see :func:`sidecar_bands`."""
    found: dict[int, float] = {}
    for band, said in sidecar_bands(sidecars):
        if (value := _NODATA.search(said)) and (number := _number(value[1])) is not None:
            found[band] = number
    return found


def _number(text: bytes) -> float | None:
    try:
        return float(text.decode("ascii").strip())
    except ValueError:  # UnicodeDecodeError is one
        return None
