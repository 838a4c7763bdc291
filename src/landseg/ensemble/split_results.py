"""What the shards of a split add up to: areas of classes, sums to score, and a row per tile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.probabilities import Tta
from landseg.dataset.table import TileTable
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
        of_tiles: (E, 3, C) int64: the same, but of every tile on its own, those that were cut from a scene included.
        drawn: (B, E, 3, C), the same of resampled scenes and tiles; None where too few are scored.
        holding: (C,) int64: how many of them hold each class in the truth.
        num_units: scenes, and tiles that are not part of one, with a scored pixel: what was resampled.
        num_tiles: tiles with a scored pixel, those of scenes included.
        num_scenes: scenes with a scored pixel.
        confusions: (N + 1, C, C) int64: each model's, then the ensemble's.
        reliability: (N + 1, 3, B) int64: likewise, counts of :mod:`landseg.scoring.calibration` over all tiles.
        boundaries: (N + 1, 3, C) int64: likewise, counts of :mod:`landseg.scoring.boundary`.
        tile_miou: (T, N + 1) the mIoU of each tile alone, by model and for the ensemble; NaN where no pixel is scored.
    """

    positions: dict[Variant, int]
    total: NDArray[np.int64]
    of_tiles: NDArray[np.int64]
    drawn: NDArray[np.float64] | None
    holding: NDArray[np.int64]
    num_units: int
    num_tiles: int
    num_scenes: int
    confusions: NDArray[np.int64]
    reliability: NDArray[np.int64]
    boundaries: NDArray[np.int64]
    tile_miou: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SplitResult:
    """The results of a split's shards, combined; all arrays are in the order of the tiles' ids.

    Attributes:
        split: its name.
        tile_ids: T ids, sorted; made when they are asked for.
        pixels: (C,) pixels of each class in the ensemble's label maps: those of scenes, and of tiles not part of one.
        disagreement, entropy, differing: (T,) as in the columns of
            :attr:`~landseg.ensemble.shard_results.ShardResult.uncertainty`.
        areas: of a labelled split.
    """

    split: Split
    tile_ids: Sequence[str]
    pixels: NDArray[np.int64]
    disagreement: NDArray[np.float64]
    entropy: NDArray[np.float64]
    differing: NDArray[np.float64]
    areas: Areas | None


def combine(
    split: Split,
    table: TileTable,
    num_shards: int,
    read: Callable[[int], ShardResult],
    scenes: Sequence[SceneResult] = (),
) -> SplitResult:
    """Combine the results of a split's shards, in whatever order they arrive, keeping 32 bytes per tile, 8 per model.

    Those of a labelled split are read twice: how often a tile is drawn depends on how many there are to draw from.
    Scenes take the place of the tiles that were cut from them: each pixel counts once, as in the map that is delivered,
    and what is resampled is the scene, because its tiles resemble each other.

    Args:
        split: its name.
        table: its tiles.
        num_shards: how many shards the split has.
        read: returns the result of a shard.
        scenes: the results of the split's scenes.
    """
    found = np.empty((len(table), 0))
    pixels: Any = sum(np.array(scene.pixels, np.int64) for scene in scenes)
    sums = _Sums([0] * num_shards)
    for number, result in _each(num_shards, read):
        rows = result.uncertainty
        pixels = pixels + result.pixels[~result.is_cut].sum(axis=0, dtype=np.int64)
        if result.is_labelled:
            rows = np.concatenate([rows, sums.add(number, result)], axis=1)
        if not found.size:
            found = np.empty((len(table), rows.shape[1]))
        found[_places(result.ids, table)] = rows
    return SplitResult(
        split=split,
        tile_ids=table.ids,
        pixels=pixels,
        disagreement=found[:, 0],
        entropy=found[:, 1],
        differing=found[:, 2],
        areas=_areas(sums, read, scenes, found[:, 3:]) if sums.positions else None,
    )


@dataclass(eq=False)
class _Sums:
    """What the shards of a labelled split add up to, without its scenes.

    Attributes:
        scored: by shard, the tiles with a scored pixel that are not part of a scene.
        positions, total, of_tiles, holding, num_tiles, confusions, reliability, boundaries: as in :class:`Areas`.
    """

    scored: list[int]
    positions: dict[Variant, int] = field(default_factory=dict)
    total: Any = 0
    of_tiles: Any = 0
    holding: Any = 0
    num_tiles: int = 0
    confusions: Any = 0
    reliability: Any = 0
    boundaries: Any = 0

    def add(self, number: int, result: ShardResult) -> NDArray[np.float64]:
        """Add a shard; returns the (T, N + 1) mIoU of each of its tiles alone, by model and for the ensemble."""
        areas, plain = result.areas.astype(np.int64), ~result.is_cut
        is_scored = _is_scored(areas)
        num_models = len(result.confusions) - 1
        self.positions = variants(num_models, result.ttas)
        self.scored[number] = int(is_scored[plain].sum())
        self.total += areas[plain].sum(axis=0)
        self.of_tiles += areas.sum(axis=0)
        self.holding += (areas[plain, 0, 1] > 0).sum(axis=0)
        self.num_tiles += int(is_scored.sum())
        self.confusions += result.confusions
        self.reliability += result.reliability
        self.boundaries += result.boundaries
        whole = self.positions[None, tuple(range(num_models))]
        own = areas[:, [*range(num_models), whole]].astype(np.float64)  # each model alone comes first
        return area_scores(own, ())["mIoU"]


def _areas(
    sums: _Sums,
    read: Callable[[int], ShardResult],
    scenes: Sequence[SceneResult],
    tile_miou: NDArray[np.float64],
) -> Areas:
    """The areas of a labelled split with those of its scenes, and of what is resampled."""
    of_scenes = _areas_of_scenes(scenes, sums.total.shape)
    num_scenes = len(of_scenes)
    num_shards = len(sums.scored)
    resampling = Resampling([*sums.scored, num_scenes])
    resampling.add(num_shards, of_scenes)
    for number, result in _each(num_shards, read):
        areas = result.areas.astype(np.int64)
        scored_ones = ~result.is_cut & _is_scored(areas)  # without a scored pixel there is nothing to draw
        resampling.add(number, areas[scored_ones])
    confusions = (np.array(scene.confusions, np.int64) for scene in scenes if scene.confusions)
    return Areas(
        positions=sums.positions,
        total=sums.total + of_scenes.sum(axis=0),
        of_tiles=sums.of_tiles,
        drawn=resampling.sums,
        holding=sums.holding + (of_scenes[:, 0, 1] > 0).sum(axis=0),
        num_units=sum(sums.scored) + num_scenes,
        num_tiles=sums.num_tiles,
        num_scenes=num_scenes,
        confusions=sum(confusions, sums.confusions),
        reliability=sums.reliability,
        boundaries=sums.boundaries,
        tile_miou=tile_miou,
    )


def _places(ids: Sequence[str], table: TileTable) -> list[int]:
    """Where the tiles of a shard are among those of its split; both are sorted by id."""
    places: list[int] = []
    for tile_id in ids:
        place = table.position(tile_id, places[-1] + 1 if places else 0)
        assert place is not None, "shards hold tiles of the split"
        places.append(place)
    return places


def _each(num_shards: int, read: Callable[[int], ShardResult]) -> Iterator[tuple[int, ShardResult]]:
    return storage.parallel(lambda number: (number, read(number)), range(num_shards))


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
