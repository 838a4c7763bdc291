"""Seamless scenes: the probabilities of their overlapping tiles, blended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import ContractError
from landseg.contracts.tile import Location, Tile
from landseg.raw.scenes import shifted


@dataclass(frozen=True)
class Scene:
    """A scene and the tiles that were cut from it.

    Attributes:
        id: stem of the scene's file.
        height, width: in pixels.
        tiles: in order of their windows, row by row.
        location: where the scene lies; None if its file does not say.
    """

    id: str
    height: int
    width: int
    tiles: tuple[Tile, ...]
    location: Location | None

    @cached_property
    def row_spans(self) -> list[tuple[int, int]]:
        """The distinct (first row, height) of the tiles."""
        return sorted({(tile.scene.y, tile.height) for tile in self.tiles if tile.scene})

    @cached_property
    def column_spans(self) -> list[tuple[int, int]]:
        """The distinct (first column, width) of the tiles."""
        return sorted({(tile.scene.x, tile.width) for tile in self.tiles if tile.scene})


def scenes_of(tiles: Iterable[Tile]) -> list[Scene]:
    """The scenes among the tiles of a split, sorted by id; tiles that were not cut from a scene are left out.

    Raises:
        ContractError: the tiles of a scene contradict each other.
    """
    cut_tiles = [(tile.scene, tile) for tile in tiles if tile.scene is not None]
    cut_tiles.sort(key=lambda pair: (pair[0].id, pair[0].y, pair[0].x))
    scenes = []
    for scene_id, group in groupby(cut_tiles, key=lambda pair: pair[0].id):
        placed = list(group)
        first, tile = placed[0]
        if any((window.height, window.width) != (first.height, first.width) for window, _ in placed):
            raise ContractError(f"scene {scene_id}", "its tiles give different sizes of the scene")
        geo = tile.geo and tile.geo.model_copy(update={"transform": shifted(tile.geo.transform, -first.y, -first.x)})
        location = geo or tile.location
        scenes.append(Scene(scene_id, first.height, first.width, tuple(tile for _, tile in placed), location))
    return scenes


def blend_weights(scene: Scene, tile: Tile) -> NDArray[np.float32]:
    """How much a tile counts at each of its pixels.

    The weight falls linearly towards every edge where a neighbour overlaps, and stays 1 at the scene's own border, so
    that a pixel near a tile's edge, where the model sees little context, is decided by the neighbour.

    Returns:
        (height, width) float32 in (0, 1]; not normalised: divide by the sum over tiles.
    """
    assert tile.scene is not None, "only tiles cut from a scene are blended"
    rows = _ramp(tile.scene.y, tile.height, scene.height, scene.row_spans)
    columns = _ramp(tile.scene.x, tile.width, scene.width, scene.column_spans)
    return rows[:, None] * columns


def _ramp(start: int, size: int, whole: int, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """Weights along one axis: ramps as long as the overlap with the nearest neighbour on either side."""
    weights = np.ones(size, np.float32)
    before = max((s + n for s, n in spans if s < start), default=start)
    after = min((s for s, _ in spans if s > start), default=start + size)
    if start > 0 and before > start:
        length = min(before - start, size)
        weights[:length] = np.arange(1, length + 1, dtype=np.float32) / (length + 1)
    if start + size < whole and after < start + size:
        length = min(start + size - after, size)
        falling = np.arange(length, 0, -1, dtype=np.float32) / (length + 1)
        weights[-length:] = np.minimum(weights[-length:], falling)
    return weights


def blend(scene: Scene, values: Callable[[Tile], NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
    """Blend values of a scene's tiles, from top to bottom.

    Memory holds one row of tiles, whatever the scene's height.

    Args:
        scene: the scene.
        values: returns a tile's values, (N, H, W); called once per tile, row by row.

    Yields:
        (N, rows, scene width) float32: the sums of the tiles' values times their weights, which are the values
        themselves where one tile lies alone; together, all the rows of the scene.

    Raises:
        ContractError: the tiles do not cover the scene, or values are not of a tile's size.
    """
    total: NDArray[np.float32] | None = None  # (N, rows, W), rows from `top` on
    weight = np.zeros((0, scene.width), np.float32)
    top = 0
    for y, placed in _rows(scene):
        if total is not None and y > top:
            yield _covered(scene, total[:, : y - top], weight[: y - top])
            total, weight = total[:, y - top :], weight[y - top :]
        top = y
        for tile in placed:
            assert tile.scene is not None
            own = values(tile)
            if own.shape[1:] != (tile.height, tile.width):
                raise ContractError(
                    f"tile {tile.id}",
                    f"expected probabilities of {tile.height}x{tile.width} px, found {own.shape[1:]}",
                )
            missing = max(0, tile.height - weight.shape[0])
            if total is None:
                total = np.zeros((own.shape[0], 0, scene.width), np.float32)
            if missing:
                total = np.pad(total, ((0, 0), (0, missing), (0, 0)))
                weight = np.pad(weight, ((0, missing), (0, 0)))
            tile_weight = blend_weights(scene, tile)
            columns = slice(tile.scene.x, tile.scene.x + tile.width)
            total[:, : tile.height, columns] += tile_weight * own
            weight[: tile.height, columns] += tile_weight
    if total is None or top + total.shape[1] != scene.height:
        raise ContractError(f"scene {scene.id}", "its tiles do not cover it", "export all tiles of the split")
    yield _covered(scene, total, weight)


def stitch(scene: Scene, probs: Callable[[Tile], NDArray[np.float32]]) -> Iterator[NDArray[np.uint8]]:
    """Blend the probabilities of a scene's tiles and take the argmax, from top to bottom.

    Args:
        scene: the scene.
        probs: returns a tile's probabilities, (C, H, W) float32; called once per tile, row by row.

    Yields:
        (rows, scene width) uint8 class ids; together, all the rows of the scene.

    Raises:
        ContractError: as :func:`blend`.
    """
    for rows in blend(scene, probs):
        yield np.asarray(np.argmax(rows, axis=0), np.uint8)


def join(scene: Scene, labels: Callable[[Tile], NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Join labels that were cut from a scene again; tiles that overlap hold the same.

    Args:
        scene: the scene; its tiles cover it.
        labels: returns a tile's labels, (H, W) uint8.

    Yields:
        (rows, scene width) uint8: the same rows at a time as :func:`blend`.
    """
    joined = np.zeros((0, scene.width), np.uint8)  # rows from `top` on
    top = 0
    for y, placed in _rows(scene):
        if y > top:
            yield joined[: y - top]
            joined = joined[y - top :]
        top = y
        for tile in placed:
            assert tile.scene is not None
            joined = np.pad(joined, ((0, max(0, tile.height - joined.shape[0])), (0, 0)))
            joined[: tile.height, tile.scene.x : tile.scene.x + tile.width] = labels(tile)
    yield joined


def _rows(scene: Scene) -> Iterator[tuple[int, list[Tile]]]:
    """The rows of tiles: the first row of pixels, and the tiles from left to right."""
    for y, group in groupby(scene.tiles, key=lambda tile: tile.scene.y if tile.scene else 0):
        yield y, list(group)


def _covered(scene: Scene, total: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    if not weight.all():
        raise ContractError(f"scene {scene.id}", "its tiles do not cover it", "export all tiles of the split")
    # Dividing by the weight would not change which class is the largest.
    return total
