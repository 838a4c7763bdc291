"""What the shards of a split add up to: areas of classes, sums to score, and a row per tile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.probabilities import Tta
from landseg.ensemble.averaging import Subset, subsets
from landseg.ensemble.maps.stitched_scene import SceneResult
from landseg.ensemble.shard_results import ShardResult
from landseg.scoring.intervals import Resampling, area_scores

Variant = tuple[Tta | None, Subset]
"""What is scored: models, and the smaller `--tta` whose views they are averaged with (None: all that were exported)."""


def variants(num_models: int, ttas: Iterable[Tta]) -> dict[Variant, int]:
    """Everything that is scored, by position: every subset with all views; each model and the ensemble with fewer."""
    everyone = tuple(range(num_models))
    alone = [*((model,) for model in everyone), everyone]
    kinds = [(None, subset) for subset in subsets(num_models)] + [(tta, subset) for tta in ttas for subset in alone]
    return {kind: position for position, kind in enumerate(kinds)}


@dataclass(frozen=True, eq=False)
class Areas:
    """The areas to score a split by, summed over its scenes and the tiles that are not part of one, for E variants.

    Attributes:
        positions: of the :func:`variants`.
        total: (E, 3, C) int64, by class: pixels that are right, of the truth, of the prediction.
        drawn: (B, E, 3, C), the same of resampled scenes and tiles; None where too few are scored.
        holding: (C,) int64: how many of them hold each class in the truth.
        num_tiles: tiles with a scored pixel, those of scenes included.
        num_scenes: scenes with a scored pixel.
        confusions: (N + 1, C, C) int64: each model's, then the ensemble's.
        tile_miou: (T, N + 1) the mIoU of each tile alone, by model and for the ensemble; NaN where no pixel is scored.
    """

    positions: dict[Variant, int]
    total: NDArray[np.int64]
    drawn: NDArray[np.float64] | None
    holding: NDArray[np.int64]
    num_tiles: int
    num_scenes: int
    confusions: NDArray[np.int64]
    tile_miou: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SplitResult:
    """The results of a split's shards, combined; all arrays are in the order of the tiles' ids.

    Attributes:
        split: its name.
        tile_ids: T ids, sorted.
        pixels: (C,) pixels of each class in the ensemble's label maps: those of scenes, and of tiles not part of one.
        disagreement, entropy, differing: (T,) as in :class:`~landseg.ensemble.shard_results.TileResult`.
        areas: of a labelled split.
    """

    split: Split
    tile_ids: list[str]
    pixels: NDArray[np.int64]
    disagreement: NDArray[np.float64]
    entropy: NDArray[np.float64]
    differing: NDArray[np.float64]
    areas: Areas | None


def combine(
    split: Split, num_shards: int, read: Callable[[int], ShardResult], scenes: Sequence[SceneResult] = ()
) -> SplitResult:
    """Combine the results of a split's shards, in whatever order they arrive, keeping some 150 bytes per tile.

    Those of a labelled split are read twice: how often a tile is drawn depends on how many there are to draw from.
    Scenes take the place of the tiles that were cut from them: each pixel counts once, as in the map that is delivered,
    and what is resampled is the scene, because its tiles resemble each other.

    Args:
        split: its name.
        num_shards: how many shards the split has.
        read: returns the result of a shard.
        scenes: the results of the split's scenes.
    """
    ids: list[list[str]] = [[] for _ in range(num_shards)]
    found: list[NDArray[np.float64]] = [np.empty((0, 0))] * num_shards
    scored = [0] * num_shards
    num_tiles = 0
    pixels: Any = sum(np.array(scene.pixels, np.int64) for scene in scenes)
    total: Any = 0
    holding: Any = 0
    confusions: Any = 0
    positions: dict[Variant, int] = {}
    for number, result in _each(num_shards, read):
        ids[number] = [tile.id for tile in result.tiles]
        plain = np.array([tile.scene is None for tile in result.tiles])
        pixels = pixels + np.array([tile.pixels for tile in result.tiles], np.int64)[plain].sum(axis=0)
        rows = np.array([(tile.disagreement, tile.entropy, tile.differing) for tile in result.tiles])
        if result.confusions is not None:
            confusions += np.array(result.confusions, np.int64)
            positions = variants(len(result.confusions) - 1, result.tiles[0].view_areas)
            areas = _areas(result)
            is_scored = _is_scored(areas)
            num_tiles += int(is_scored.sum())
            total += areas[plain].sum(axis=0)
            holding += (areas[plain, 0, 1] > 0).sum(axis=0)
            scored[number] = int(is_scored[plain].sum())
            whole = max(position for (tta, _), position in positions.items() if tta is None)
            own = areas[:, [*range(len(result.confusions) - 1), whole]].astype(np.float64)
            rows = np.concatenate([rows, area_scores(own, ())["mIoU"]], axis=1)
        found[number] = rows
    drawn = None
    num_scenes = 0
    if positions:
        of_scenes = _areas_of_scenes(scenes, total.shape)
        num_scenes = len(of_scenes)
        total = total + of_scenes.sum(axis=0)
        holding = holding + (of_scenes[:, 0, 1] > 0).sum(axis=0)
        confusions = sum((np.array(scene.confusions, np.int64) for scene in scenes if scene.confusions), confusions)
        resampling = Resampling([*scored, num_scenes])
        resampling.add(num_shards, of_scenes)
        for number, result in _each(num_shards, read):
            areas = _areas(result)
            plain = np.array([tile.scene is None for tile in result.tiles])
            resampling.add(number, areas[plain & _is_scored(areas)])  # without a scored pixel there is nothing to draw
        drawn = resampling.sums
    flat = list(itertools.chain.from_iterable(ids))
    order = sorted(range(len(flat)), key=flat.__getitem__)
    rows = np.concatenate(found)[order]
    return SplitResult(
        split=split,
        tile_ids=[flat[i] for i in order],
        pixels=pixels,
        disagreement=rows[:, 0],
        entropy=rows[:, 1],
        differing=rows[:, 2],
        areas=Areas(positions, total, drawn, holding, num_tiles, num_scenes, confusions, rows[:, 3:])
        if positions
        else None,
    )


def _each(num_shards: int, read: Callable[[int], ShardResult]) -> Iterator[tuple[int, ShardResult]]:
    return storage.parallel(lambda number: (number, read(number)), range(num_shards))


def _areas(result: ShardResult) -> NDArray[np.int64]:
    """(T, E, 3, C) of a shard's tiles."""
    each = [[*(tile.areas or ()), *itertools.chain.from_iterable(tile.view_areas.values())] for tile in result.tiles]
    return np.array(each, np.int64)


def _areas_of_scenes(scenes: Sequence[SceneResult], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(S, E, 3, C) of the scenes that have a scored pixel; `shape` is (E, 3, C)."""
    each = [
        [*scene.areas, *itertools.chain.from_iterable(scene.view_areas.values())]
        for scene in scenes
        if scene.areas is not None
    ]
    areas = np.array(each, np.int64).reshape(-1, *shape)
    return areas[_is_scored(areas)]


def _is_scored(areas: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(areas[:, 0, 1].any(axis=-1), np.bool_)
