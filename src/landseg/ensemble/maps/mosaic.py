"""Many label maps as one Cloud Optimized GeoTIFF."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from landseg.contracts.tile import Geo, GeoKeys
from landseg.ensemble.maps.geotiff import BLOCK_PX, MapStyle, encode_names, write_map
from landseg.ensemble.maps.together import Grid, is_north_up, joint_grid
from landseg.raw.georeference.crs import quiet_gdal
from landseg.raw.georeference.tags import read_georeference

MOSAIC = "mosaic.tif"
MOSAIC_FILES = (MOSAIC, f"{MOSAIC}.aux.xml")


class Mosaic(NamedTuple):
    """What was put together.

    Attributes:
        num_left_out: maps that are turned, or have no transform.
        shift_px: how far the map that lies furthest off the mosaic's grid was moved, 0 to 0.5 px.
    """

    num_left_out: int
    shift_px: float


class _Part(NamedTuple):
    path: Path
    y: int
    x: int
    height: int
    width: int


def write_mosaic(folder: Path, paths: Sequence[str], style: MapStyle) -> Mosaic:
    """Write the label maps of a folder as one, `mosaic.tif`, and its class names next to it.

    Where maps overlap, the one that comes last by path counts, wherever it has data. Memory holds a row of blocks.

    Args:
        folder: where the maps lie, and the mosaic goes.
        paths: of the GeoTIFFs below the folder: of one CRS and one pixel size
            (:func:`landseg.ensemble.maps.together.check_together`).
        style: what their values mean.
    """
    grids: dict[str, Grid] = {}
    crs: GeoKeys | None = None
    num_left_out = 0
    for path in sorted(paths):
        with tifffile.TiffFile(folder / path) as file:
            page = file.pages.first
            place = read_georeference(page)
            if place.transform is None or not is_north_up(place.transform):
                num_left_out += 1
                continue
            grids[path] = Grid(page.imagelength, page.imagewidth, place.transform)
            crs = place.crs or crs
    whole = joint_grid(grids.values())
    across, _, west, _, down, north = whole.transform
    parts, shift = [], 0.0
    for path, grid in grids.items():
        x, y = (grid.transform[2] - west) / across, (grid.transform[5] - north) / down
        shift = max(shift, abs(x - round(x)), abs(y - round(y)))
        parts.append(_Part(folder / path, round(y), round(x), grid.height, grid.width))
    whole = Grid(max(p.y + p.height for p in parts), max(p.x + p.width for p in parts), whole.transform)
    geo = Geo(crs=None if crs is None else 0, transform=whole.transform)
    rows = _rows(parts, whole, style.nodata)
    write_map(folder / MOSAIC, rows, (whole.height, whole.width), style, geo, (crs,) if crs else ())
    (folder / MOSAIC_FILES[1]).write_bytes(encode_names(style))
    return Mosaic(num_left_out, shift)


def _rows(parts: Sequence[_Part], whole: Grid, nodata: int) -> Iterator[NDArray[np.uint8]]:
    """The rows of the mosaic, a block high at a time."""
    by_band: dict[int, list[_Part]] = defaultdict(list)
    for part in parts:
        for band in range(part.y // BLOCK_PX, (part.y + part.height - 1) // BLOCK_PX + 1):
            by_band[band].append(part)
    for band, top in enumerate(range(0, whole.height, BLOCK_PX)):
        bottom = min(whole.height, top + BLOCK_PX)
        joined = np.full((bottom - top, whole.width), nodata, np.uint8)
        for part in by_band[band]:
            start, end = max(top, part.y), min(bottom, part.y + part.height)
            values = _read(part.path, start - part.y, end - part.y)
            under = joined[start - top : end - top, part.x : part.x + part.width]
            np.copyto(under, values, where=values != nodata)
        yield joined


def _read(path: Path, start: int, end: int) -> NDArray[np.uint8]:
    import rasterio

    with quiet_gdal(), rasterio.open(path) as file:
        values: NDArray[np.uint8] = file.read(1, window=((start, end), (0, file.width)))
    return values
