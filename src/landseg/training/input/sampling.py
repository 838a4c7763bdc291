"""How often each training tile is drawn where rare classes are to be seen more often (`--sampling rare-classes`)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.tile import Tile

_UNIFORM = 0.5
"""Share of the draws that every tile has alike: the model has to see what lies around rare classes too."""


def tile_probabilities(tiles: Iterable[Tile], schema: ClassSchema) -> NDArray[np.float64]:
    """The probability of each tile to be drawn.

    Half of the draws are uniform. For each of the others a class is drawn, with a probability proportional to
    1 / sqrt(its share of the labelled pixels), then one of the tiles that contain it. So a class with a hundredth of
    another's pixels is drawn ten times as often as it, not a hundred times, which would repeat its few tiles over and
    over.

    Args:
        tiles: the training tiles, in order.
        schema: classes, and how labels are stored.

    Returns:
        (T,) float64, sums to 1.
    """
    counts = np.array([pixels_per_class(tile, schema) for tile in tiles], np.int64).reshape(-1, schema.num_classes)
    present, pixels = counts > 0, counts.sum(0)
    uniform = np.full(len(counts), 1 / max(1, len(counts)))
    if not pixels.any():
        return uniform
    classes = np.where(pixels > 0, 1 / np.sqrt(np.maximum(pixels, 1)), 0.0)
    rare: NDArray[np.float64] = (present / np.maximum(present.sum(0), 1)) @ (classes / classes.sum())
    return _UNIFORM * uniform + (1 - _UNIFORM) * rare


def draw(probabilities: NDArray[np.float64], seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tiles of an epoch, as many as there are, with replacement.

    Returns:
        (T,) indices in order, and (T,) how often each was drawn before in this epoch, so that its transforms differ.
    """
    size = len(probabilities)
    order = np.random.default_rng([seed, epoch]).choice(size, size, p=probabilities)
    sorted_positions = np.argsort(order, kind="stable")
    _, starts, numbers = np.unique(order[sorted_positions], return_index=True, return_counts=True)
    earlier = np.empty(size, np.int64)
    earlier[sorted_positions] = np.arange(size) - np.repeat(starts, numbers)
    return order.astype(np.int64), earlier


def pixels_per_class(tile: Tile, schema: ClassSchema) -> list[int]:
    """A tile's labelled pixels per class; `label_counts` counts stored values."""
    pixels = [0] * schema.num_classes
    ignored = schema.ignore_index if schema.stored_ignore is None else schema.stored_ignore
    for value, count in tile.label_counts or ():
        if value != ignored and 0 <= value - schema.label_offset < schema.num_classes:
            pixels[value - schema.label_offset] += count
    return pixels
