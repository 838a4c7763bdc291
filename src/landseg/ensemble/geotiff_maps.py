"""Label maps as GeoTIFFs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from landseg.contracts.dataset import Geo, GeoKeys
from landseg.raw.georeference import geo_tags

_TILE_PX = 512


def write_labels(
    path: Path,
    rows: Iterable[NDArray[np.uint8]],
    shape: tuple[int, int],
    palette: tuple[tuple[int, int, int], ...],
    geo: Geo | None,
    crs: tuple[GeoKeys, ...],
) -> None:
    """Write a label map as a tiled, Deflate-compressed GeoTIFF with a colour palette; BigTIFF where it is large.

    Args:
        path: the file.
        rows: parts of the map from top to bottom, (any rows, width) uint8 class ids.
        shape: (height, width) of the whole.
        palette: one RGB colour per class.
        geo: the georeference, or None.
        crs: the manifest's `crs`.
    """
    colours = np.zeros((3, 256), np.uint16)
    colours[:, : len(palette)] = np.array(palette, np.uint16).T * 257
    tifffile.imwrite(
        path,
        _tiles(rows, shape),
        shape=shape,
        dtype=np.uint8,
        tile=(_TILE_PX, _TILE_PX),
        compression="adobe_deflate",
        photometric="palette",
        colormap=colours,
        metadata=None,
        software=False,
        bigtiff=shape[0] * shape[1] > 1 << 31,
        extratags=geo_tags(geo, crs),
    )


def _tiles(rows: Iterable[NDArray[np.uint8]], shape: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Cut rows into TIFF tiles, row by row, padded at the right and bottom."""
    height, width = shape
    across = math.ceil(width / _TILE_PX)
    buffer = np.zeros((0, width), np.uint8)
    given = 0

    def flush(band: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        padded = np.zeros((_TILE_PX, across * _TILE_PX), np.uint8)
        padded[: band.shape[0], :width] = band
        for column in range(across):
            yield padded[:, column * _TILE_PX : (column + 1) * _TILE_PX]

    for part in rows:
        buffer = np.concatenate([buffer, part])
        while buffer.shape[0] >= _TILE_PX:
            yield from flush(buffer[:_TILE_PX])
            buffer, given = buffer[_TILE_PX:], given + _TILE_PX
    if buffer.shape[0]:
        yield from flush(buffer)
    assert given + buffer.shape[0] == height, f"expected {height} rows, got {given + buffer.shape[0]}"
