"""Coordinate reference systems: GeoTIFF keys, which manifests and TIFFs hold, and those of GDAL.

rasterio is imported where it is used: the images that train have none, and most files never need it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from numpy.typing import NDArray

from landseg.contracts.dataset import Geo, GeoKeys
from landseg.raw.georeference.tags import geo_tags, read_georeference

if TYPE_CHECKING:
    from rasterio.crs import CRS


@contextlib.contextmanager
def quiet_gdal() -> Iterator[None]:
    """GDAL without warnings about missing georeferences, and without a look at the network."""
    from rasterio.env import Env
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings(), Env(GDAL_HTTP_MAX_RETRY=0, PROJ_NETWORK="OFF"):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@functools.lru_cache(256)
def crs_of(keys: GeoKeys) -> CRS | None:
    """What GDAL makes of GeoTIFF keys; None where they mean nothing to it."""
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    buffer = io.BytesIO()
    tags = geo_tags(Geo(crs=0, transform=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0)), (keys,))
    tifffile.imwrite(buffer, np.zeros((1, 1), np.uint8), metadata=None, software=False, extratags=tags)
    try:
        with quiet_gdal(), MemoryFile(buffer.getvalue(), ext=".tif") as file, file.open() as dataset:
            return dataset.crs or None
    except RasterioError:
        return None


def keys_of(crs: CRS) -> GeoKeys | None:
    """The GeoTIFF keys that GDAL writes for a CRS; None where a GeoTIFF cannot express it."""
    return _keys_of(crs.to_wkt())


@functools.lru_cache(256)
def _keys_of(wkt: str) -> GeoKeys | None:
    from rasterio.crs import CRS
    from rasterio.io import MemoryFile
    from rasterio.transform import Affine

    profile = {"driver": "GTiff", "height": 1, "width": 1, "count": 1, "dtype": "uint8"}
    with quiet_gdal(), MemoryFile(ext=".tif") as file:
        with file.open(**profile, crs=CRS.from_wkt(wkt), transform=Affine(1.0, 0.0, 0.0, 0.0, -1.0, 0.0)) as dataset:
            dataset.write(np.zeros((1, 1, 1), np.uint8))
        with tifffile.TiffFile(io.BytesIO(file.read())) as tiff:
            return read_georeference(tiff.pages.first).crs


def transform_points(source: GeoKeys, target: GeoKeys, points: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Move points from one CRS to another.

    Args:
        source: the CRS of the points.
        target: the CRS that is asked for.
        points: (..., 2) float64: x and y.

    Returns:
        The same in the other CRS; None where no way between the two is known.
    """
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    own, other = crs_of(source), crs_of(target)
    if own is None or other is None:
        return None
    try:
        with quiet_gdal():
            x, y = transform(own, other, points[..., 0].ravel(), points[..., 1].ravel())[:2]
    except RasterioError:
        return None
    moved = np.stack([x, y], axis=-1).reshape(points.shape)
    return moved if np.isfinite(moved).all() else None


def describe_crs(keys: GeoKeys | None) -> str:
    """A CRS as people name it: its EPSG code, or else its name."""
    if keys is None:
        return "no CRS"
    crs = crs_of(keys)
    if crs is None:
        return keys.ascii.strip("|") or "an unknown CRS"
    if code := crs.to_epsg():
        return f"EPSG:{code}"
    return str(crs.to_wkt()).split('"')[1]
