"""Encoding images as they lie in shards: the same pixels give the same bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from landseg.contracts.tile import Geo, GeoKeys
from landseg.raw.georeference.tags import Transform, geo_tags


def encode_image(values: NDArray[Any], transform: Transform | None, crs: GeoKeys | None) -> bytes:
    """An (H, W, B) uint8 or uint16 image as Deflate-compressed TIFF, which any program reads."""
    buffer = io.BytesIO()
    bands = values.shape[2]
    geo = transform and Geo(crs=None if crs is None else 0, transform=transform)
    tifffile.imwrite(
        buffer,
        values if bands > 1 else values[:, :, 0],
        photometric="rgb" if bands in (3, 4) and values.dtype == np.uint8 else "minisblack",
        planarconfig="contig" if bands > 1 else None,
        compression="adobe_deflate",
        predictor=True,
        metadata=None,
        software=False,
        extratags=geo_tags(geo, () if crs is None else (crs,)),
    )
    return buffer.getvalue()
