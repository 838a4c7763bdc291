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

from landseg.contracts.tile import MAX_CONTROL_POINTS, RPC_NUMBERS, ControlPoint, Geo, GeoKeys
from landseg.raw.georeference.tags import geo_tags, read_georeference
from landseg.raw.images.gdal import NO_NETWORK

if TYPE_CHECKING:
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader


@contextlib.contextmanager
def quiet_gdal() -> Iterator[None]:
    """GDAL without warnings about missing georeferences, and without a look at the network."""
    from rasterio.env import Env
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings(), Env(**NO_NETWORK, PROJ_NETWORK="OFF"):
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


def control_points_of(dataset: DatasetReader) -> tuple[tuple[ControlPoint, ...], GeoKeys | None]:
    """The ground control points of an image that GDAL has opened, and their CRS; none where they are too many."""
    found, crs = dataset.gcps
    if not 0 < len(found) <= MAX_CONTROL_POINTS:
        return (), None
    points = tuple((float(p.col), float(p.row), float(p.x), float(p.y), float(p.z or 0.0)) for p in found)
    if not np.isfinite(points).all():
        return (), None
    return points, keys_of(crs) if crs else None


def rpc_of(dataset: DatasetReader) -> tuple[float, ...]:
    """The rational polynomials of an image that GDAL has opened, as a TIFF's tag holds them; empty without any."""
    rpc = dataset.rpcs
    if rpc is None:
        return ()
    errors = tuple(-1.0 if value is None else float(value) for value in (rpc.err_bias, rpc.err_rand))  # -1: not known
    offsets = (rpc.line_off, rpc.samp_off, rpc.lat_off, rpc.long_off, rpc.height_off)
    scales = (rpc.line_scale, rpc.samp_scale, rpc.lat_scale, rpc.long_scale, rpc.height_scale)
    polynomials = (*rpc.line_num_coeff, *rpc.line_den_coeff, *rpc.samp_num_coeff, *rpc.samp_den_coeff)
    found = tuple(map(float, (*errors, *offsets, *scales, *polynomials)))
    return found if len(found) == RPC_NUMBERS and np.isfinite(found).all() else ()


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
