"""Whether the maps of a dataset can be put together: into one mosaic, or into one layer of polygons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError
from landseg.contracts.tile import GeoKeys
from landseg.dataset.reader import StagedDataset
from landseg.raw.georeference.crs import crs_of, describe_crs
from landseg.raw.georeference.tags import Transform

MAX_MOSAIC_PX = 1 << 34
"""131,000 px square. Maps that lie far apart would make a mosaic of nothing in between."""
_ACTION = "predict the images of each on their own, or leave the option out"
_SAME = 1e-6
"""Pixel sizes of one grid differ by rounding only, relative to their size."""


class Grid(NamedTuple):
    """A grid of pixels, north up.

    Attributes:
        height, width: in pixels.
        transform: of the corners of pixels.
    """

    height: int
    width: int
    transform: Transform


def is_north_up(transform: Transform) -> bool:
    """Whether rows run from west to east, one below the other from north to south."""
    a, b, _, d, e, _ = transform
    return a > 0 > e and b == d == 0


def _same_pixels(one: Transform, other: Transform) -> bool:
    """Whether pixels are of one size."""
    return all(math.isclose(one[i], other[i], rel_tol=_SAME) for i in (0, 4))


def joint_grid(parts: Iterable[Grid]) -> Grid:
    """The grid, with the first part's pixels, that holds all of them."""
    first, *others = parts
    a, _, west, _, e, north = first.transform
    east, south = west + first.width * a, north + first.height * e
    for part in others:
        _, _, x, _, _, y = part.transform
        west, north = min(west, x), max(north, y)
        east, south = max(east, x + part.width * a), min(south, y + part.height * e)
    return Grid(round((south - north) / e), round((east - west) / a), (a, 0.0, west, 0.0, e, north))


def check_together(dataset: StagedDataset, splits: Iterable[Split], *, mosaic: bool, polygons: bool) -> None:
    """Refuse, before anything is computed, what cannot be written in the end.

    Args:
        dataset: whose maps.
        splits: of it.
        mosaic: whether all maps are to become one raster.
        polygons: whether all maps are to become one layer of polygons.

    Raises:
        ConfigError: no map has a place, or they are in several coordinate reference systems; in a mosaic, pixels are of
            several sizes, or it would be mostly empty.
    """
    if not mosaic and not polygons:
        return
    option = "--mosaic" if mosaic else "--polygons"
    first: tuple[str, Grid, GeoKeys | None] | None = None
    for name, grid, crs in _grids(dataset, splits):
        if mosaic and not is_north_up(grid.transform):
            continue
        if first is None:
            first, whole = (name, grid, crs), grid
            continue
        if crs != first[2] and not _same_crs(first[2], crs):
            found = f"{describe_crs(first[2])} ({first[0]}) and {describe_crs(crs)} ({name})"
            raise ConfigError(option, f"expected images in one CRS, found {found}", _ACTION)
        if mosaic:
            if not _same_pixels(first[1].transform, grid.transform):
                found = f"{_size(first[1])} ({first[0]}) and {_size(grid)} ({name})"
                raise ConfigError(option, f"expected pixels of one size, found {found}", _ACTION)
            whole = joint_grid((whole, grid))
    if first is None:
        wanted = "an image with a transform, north up" if mosaic else "an image with a transform"
        raise ConfigError(option, f"expected {wanted}, found none", f"leave out {option}")
    if whole.height * whole.width > MAX_MOSAIC_PX:
        problem = f"expected at most {MAX_MOSAIC_PX} px from edge to edge, found {whole.height} x {whole.width}"
        raise ConfigError(option, problem, _ACTION)


def _grids(dataset: StagedDataset, splits: Iterable[Split]) -> Iterator[tuple[str, Grid, GeoKeys | None]]:
    """The tiles that have a transform: id, grid and CRS."""
    known = dataset.manifest.crs
    for split in splits:
        for tile in dataset.index(split):
            if tile.geo is not None:
                crs = None if tile.geo.crs is None else known[tile.geo.crs]
                yield tile.id, Grid(tile.height, tile.width, tile.geo.transform), crs


def _same_crs(one: GeoKeys | None, other: GeoKeys | None) -> bool:
    if one is None or other is None:
        return False
    known = crs_of(one)
    return known is not None and known == crs_of(other)


def _size(grid: Grid) -> str:
    return f"{grid.transform[0]:.8g} x {-grid.transform[4]:.8g}"
