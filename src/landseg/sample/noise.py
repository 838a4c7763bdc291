"""Randomness spread over an endless plane, for the sample data.

Every random value is a hash of a key and a place, never the next number of a stream. So what is drawn at one place
does not depend on the order of drawing, on the tile's size or on what else is drawn. The functions work element by
element on arrays of one shape, whatever that shape is. Coordinates and distances are float32, in pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
KeyArray = NDArray[np.uint64]


def combine(key: KeyArray, *parts: Any) -> KeyArray:
    """Derive keys from keys: a hash of `key` and of integers (arrays or scalars, negative ones too).

    The mixing step is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    """
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2**64 on purpose
        for part in parts:
            mixed = (key ^ np.asarray(part, np.int64).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            key = mixed ^ (mixed >> np.uint64(31))
    return key


def uniform(key: KeyArray, salt: int, low: float = 0.0, high: float = 1.0) -> FloatArray:
    """Draw a number in [low, high) from each key; another `salt` gives an independent one."""
    unit = (combine(key, salt) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    return np.asarray(low + (high - low) * unit, np.float32)


def choose(key: KeyArray, salt: int, weights: NDArray[Any]) -> NDArray[np.intp]:
    """Draw an index from each key.

    Args:
        key: (...) keys.
        salt: which of a key's draws this is.
        weights: (K,) for all keys, or (..., K), non-negative: the odds of each index.
    """
    bounds = np.cumsum(weights, axis=-1)
    draw = uniform(key, salt)[..., None] * bounds[..., -1:]
    return np.asarray((draw >= bounds[..., :-1]).sum(axis=-1), np.intp)


def value_noise(x: FloatArray, y: FloatArray, feature_px: float, key: KeyArray) -> FloatArray:
    """Smooth noise in [-1, 1] with features of about `feature_px`; `key` is one key (0-d)."""
    x, y = x / feature_px, y / feature_px
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    left, top = column.min(), row.min()
    # Values at the corners of a lattice, hashed once for each corner rather than for each pixel.
    lattice = uniform(
        combine(key, np.arange(left, column.max() + 2)[None, :], np.arange(top, row.max() + 2)[:, None]),
        0,
        -1,
        1,
    )
    across, down = _smooth(x - column), _smooth(y - row)
    column, row = column - left, row - top
    upper = lattice[row, column] * (1 - across) + lattice[row, column + 1] * across
    lower = lattice[row + 1, column] * (1 - across) + lattice[row + 1, column + 1] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _smooth(t: NDArray[Any]) -> FloatArray:
    return np.asarray(t * t * (3 - 2 * t), np.float32)


class Cells(NamedTuple):
    """The Voronoi cell that each point lies in, all of the points' shape."""

    key: KeyArray  # the cell's
    column: NDArray[np.int64]  # of the cell in the lattice it was jittered from
    row: NDArray[np.int64]
    dx: FloatArray  # from the cell's centre to the point
    dy: FloatArray
    border: FloatArray  # distance to the nearest border of the cell


def voronoi(x: FloatArray, y: FloatArray, pitch_px: float, key: KeyArray, jitter: float = 0.8) -> Cells:
    """Divide the plane into irregular cells about `pitch_px` across.

    Args:
        x: coordinates of the points.
        y: as x.
        pitch_px: the cells' mean width.
        key: one key (0-d).
        jitter: 0 for a square lattice, 1 for the least regular cells.
    """
    column, row = np.floor(x / pitch_px).astype(np.int64), np.floor(y / pitch_px).astype(np.int64)
    left, top = column.min() - 1, row.min() - 1
    columns, rows = np.meshgrid(np.arange(left, column.max() + 2), np.arange(top, row.max() + 2))
    keys = combine(key, columns, rows)
    site_x = ((columns + 0.5 + uniform(keys, 1, -jitter / 2, jitter / 2)) * pitch_px).astype(np.float32)
    site_y = ((rows + 0.5 + uniform(keys, 2, -jitter / 2, jitter / 2)) * pitch_px).astype(np.float32)

    index = (row - top) * columns.shape[1] + (column - left)
    around = [index + down * columns.shape[1] + right for down in (-1, 0, 1) for right in (-1, 0, 1)]
    squared = np.stack([(x - site_x.take(i)) ** 2 + (y - site_y.take(i)) ** 2 for i in around])
    order = np.argpartition(squared, 1, axis=0)[:2]  # the nearest site, then the second
    nearest, second = np.take_along_axis(np.stack(around), order, axis=0)
    near2, second2 = np.take_along_axis(squared, order, axis=0)
    between = np.hypot(site_x.take(nearest) - site_x.take(second), site_y.take(nearest) - site_y.take(second))
    return Cells(
        key=keys.take(nearest),
        column=columns.take(nearest),
        row=rows.take(nearest),
        dx=x - site_x.take(nearest),
        dy=y - site_y.take(nearest),
        border=np.asarray((second2 - near2) / (2 * between), np.float32),
    )


def rotate(x: Any, y: Any, angle: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates in a frame turned by `angle` (radians)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(x * cos + y * sin, np.float32), np.asarray(y * cos - x * sin, np.float32)


class Lattice(NamedTuple):
    """The rectangle of a regular lattice that each point lies in."""

    key: KeyArray  # the rectangle's
    du: FloatArray  # from the rectangle's centre to the point
    dv: FloatArray


def rectangles(u: FloatArray, v: FloatArray, width: Any, height: Any, key: KeyArray) -> Lattice:
    """Divide the plane into rectangles, `key` and sizes being per point (or one for all)."""
    column, row = np.floor(u / width), np.floor(v / height)
    return Lattice(
        key=combine(key, column, row),
        du=np.asarray(u - (column + 0.5) * width, np.float32),
        dv=np.asarray(v - (row + 0.5) * height, np.float32),
    )
