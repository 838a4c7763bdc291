"""Weights fitted on labelled tiles: `--weights auto`.

Weights are fitted to one half of the split and scored on the other: scores on the tiles that chose the weights would
flatter them. Tiles cut from one scene overlap, so whole scenes go to one half.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import ClassSchema, Split
from landseg.contracts.documents import Model
from landseg.contracts.errors import ConfigError
from landseg.contracts.names import TileId
from landseg.contracts.tile import Tile
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.averaging import Average, Labels
from landseg.ensemble.fitting_samples import Samples
from landseg.ensemble.members import Member
from landseg.probabilities.codec import DTYPES, Stored, dequantize
from landseg.scoring.confusion import class_areas, confusion_matrix
from landseg.scoring.intervals import area_scores, interval, resample

SPLIT: Split = "val"
_MOST_CANDIDATES = 70
_REFINEMENTS = 2
_TEMPERATURES = tuple(round(2 ** (step / 4), 4) for step in range(-4, 9))
"""From 0.5 (sharper) to 4 (softer)."""
_LEAST_PROB = 1e-3
"""The least probability in the likelihood: what is stored as 0 is not known to be impossible."""


class Fit(Model):
    """What fitting found.

    Attributes:
        models: names, in the order of the sum.
        weights: one per model, summing to 1.
        temperatures: one per model; 1 where they were not fitted.
        fitted_on: the labelled tiles they were fitted to, which are left out of all scores.
        reported_on: how many labelled tiles the scores here are of.
        miou_equal: mIoU of equal weights without temperatures, on those tiles.
        miou: mIoU as fitted, on those tiles.
        gain_interval: of `miou - miou_equal`; None for fewer than two tiles (or scenes).
    """

    models: tuple[str, ...]
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]
    fitted_on: tuple[TileId, ...]
    reported_on: int
    miou_equal: float
    miou: float
    gain_interval: tuple[float, float] | None

    def apply(self, members: Sequence[Member]) -> list[Member]:
        """The members with the fitted weights and temperatures."""
        fitted = zip(members, self.weights, self.temperatures, strict=True)
        return [replace(member, weight=weight, temperature=t) for member, weight, t in fitted]


def too_coarse(members: Sequence[Member]) -> list[str]:
    """The models stored too coarsely for temperatures: what the likelihood tells apart, they store as 0."""
    return [member.name for member in members if DTYPES[member.reader.spec.dtype].least > _LEAST_PROB]


def fit_weights(
    members: Sequence[Member], dataset: StagedDataset, scratch: Path, *, temperature: bool, num_threads: int
) -> Fit:
    """Fit weights, and temperatures if asked to, to half of the labelled validation tiles.

    First the temperatures, each by the likelihood of its model alone; then the weights, by the ensemble's mIoU: over a
    grid of weights that sum to 1, and in finer steps around the best.

    Args:
        members: the models.
        dataset: the dataset.
        scratch: local folder for what is sampled.
        temperature: whether temperatures are fitted as well.
        num_threads: threads that read and compute.

    Raises:
        ConfigError: there are too few labelled validation tiles to fit to and to report on.
    """
    info = dataset.manifest.splits.get(SPLIT)
    if info is None or not info.labelled:
        raise _nothing_to_fit("expected a labelled val split in the dataset, found none")
    if SPLIT not in members[0].reader.manifest.splits:
        raise ConfigError("--weights auto", "expected probabilities of val, found none", "export val too")
    tiles = dataset.index(SPLIT)
    deciding, reporting = halves(tiles, dataset.schema)
    if not reporting:
        found = "one" if deciding else "none"
        raise _nothing_to_fit(f"expected at least two val tiles (or scenes) with labelled pixels, found {found}")
    with tempfile.TemporaryDirectory(prefix="samples-", dir=scratch) as folder:
        wanted = frozenset(deciding | reporting)
        samples = Samples(members, dataset, SPLIT, tiles, wanted, Path(folder), num_threads)
        return _fit(samples, deciding, reporting, temperature)


def _fit(samples: Samples, deciding: set[str], reporting: set[str], temperature: bool) -> Fit:
    members, tiles = samples.members, samples.tiles
    temperatures = _search_temperatures(samples, deciding) if temperature else (1.0,) * len(members)
    weights = _search_weights(samples, deciding, temperatures)
    equal = Average(samples.dtypes, (1.0,) * len(members), (1.0,) * len(members))
    fitted = Average(samples.dtypes, weights, temperatures)
    areas = np.concatenate(samples.map("reporting on the other half", reporting, _areas_of([equal, fitted]), list))
    is_scored = areas[:, 0, 1].any(axis=-1)
    if not is_scored.any():
        raise _nothing_to_fit("expected labelled pixels in the half of val that reports, found none in the sample")
    miou = area_scores(areas.sum(axis=0).astype(np.float64), ())["mIoU"]
    ids = np.array(samples.ids(reporting))[is_scored]
    units = _sum_by_unit(areas[is_scored], [_unit(tiles.find(tile_id)) for tile_id in ids.tolist()])
    drawn = resample(units)
    draws = None if drawn is None else area_scores(drawn, ())["mIoU"]
    return Fit(
        models=tuple(member.name for member in members),
        weights=weights,
        temperatures=temperatures,
        fitted_on=tuple(sorted(deciding)),
        reported_on=int(is_scored.sum()),
        miou_equal=float(miou[0]),
        miou=float(miou[1]),
        gain_interval=None
        if draws is None
        else interval(float(miou[1] - miou[0]), draws[:, 1] - draws[:, 0], len(units), (-1.0, 1.0)),
    )


def _nothing_to_fit(problem: str) -> ConfigError:
    return ConfigError("--weights auto", problem, "label more of val, or give --weights equal")


def halves(tiles: Iterable[Tile], schema: ClassSchema) -> tuple[set[str], set[str]]:
    """Ids of the tiles to fit to and of those to score: every other scene, or tile that is not part of one.

    Tiles without a labelled pixel are in neither: they can decide nothing, and there is nothing to score.
    """
    groups: dict[str, set[str]] = {}
    for tile in tiles:
        if has_labelled_pixels(tile, schema):
            groups.setdefault(_unit(tile), set()).add(tile.id)
    ordered = [groups[name] for name in sorted(groups)]
    return set().union(*ordered[::2]), set().union(*ordered[1::2])


def has_labelled_pixels(tile: Tile, schema: ClassSchema) -> bool:
    """Whether any pixel of a tile is labelled, that is, not ignored; True where the index has no counts."""
    ignored = schema.ignore_index if schema.stored_ignore is None else schema.stored_ignore
    counts = tile.label_counts
    return tile.label is not None and (not counts or any(value != ignored for value, _ in counts))


def _unit(tile: Tile) -> str:
    """What is drawn together: tiles cut from one scene overlap and resemble each other."""
    return f"scene {tile.scene.id}" if tile.scene else f"tile {tile.id}"


def _sum_by_unit(areas: NDArray[np.int64], units: Sequence[str]) -> NDArray[np.int64]:
    """(T, K, 3, C) areas of tiles as (U, K, 3, C) of scenes, or tiles that are not part of one."""
    names, positions = np.unique(units, return_inverse=True)
    summed = np.zeros((len(names), *areas.shape[1:]), np.int64)
    np.add.at(summed, positions, areas)
    return summed


def _sum(results: list[NDArray[Any]]) -> NDArray[Any]:
    return np.sum(results, axis=0)  # type: ignore[no-any-return]


def _search_temperatures(samples: Samples, tiles: set[str]) -> tuple[float, ...]:
    """The temperature of each model that makes the truth most likely; of equally likely ones, that nearest to 1."""
    candidates = [
        Average(samples.dtypes, (1.0,) * len(samples.members), (t,) * len(samples.members)) for t in _TEMPERATURES
    ]

    def surprise(stored: list[Stored], truth: Labels, ignore_index: int) -> NDArray[np.float64]:
        rows, columns = np.nonzero(truth != ignore_index)
        at = (truth[rows, columns].astype(np.intp), rows, columns)
        losses = np.zeros((len(candidates) + 1, len(stored)))
        losses[-1] = len(rows)
        for i, average in enumerate(candidates):
            for j, (prepared, dtype) in enumerate(zip(average.prepare(stored), average.dtypes, strict=True)):
                probs = prepared[at] if average.temperatures[j] != 1 else dequantize(prepared[at], dtype)
                losses[i, j] = -np.log(np.maximum(probs, _LEAST_PROB)).sum(dtype=np.float64)
        return losses

    *losses, num_pixels = _sum(samples.map("fitting temperatures", tiles, surprise, _sum))
    if not num_pixels.any():
        raise _nothing_to_fit("expected labelled pixels in the half of val that decides, found none in the sample")
    by_model = np.transpose(losses).tolist()
    ranked = [zip(own, map(abs, map(math.log, _TEMPERATURES)), _TEMPERATURES, strict=True) for own in by_model]
    return tuple(min(own)[-1] for own in ranked)


def _search_weights(samples: Samples, tiles: set[str], temperatures: tuple[float, ...]) -> tuple[float, ...]:
    """The weights with the best mIoU; of equally good ones, those nearest to equal."""
    num_models = len(samples.members)
    if num_models == 1:
        return (1.0,)
    step, candidates = _grid(num_models)
    known: dict[tuple[float, ...], float] = {}
    for label in ("fitting weights", *["refining weights"] * _REFINEMENTS):
        new = [weights for weights in candidates if weights not in known]
        averages = [Average(samples.dtypes, weights, temperatures) for weights in new]
        areas = _sum(samples.map(label, tiles, _areas_of(averages), _sum))
        if not areas[0, 1].any():
            raise _nothing_to_fit("expected labelled pixels in the half of val that decides, found none in the sample")
        known |= zip(new, area_scores(areas.astype(np.float64), ())["mIoU"].tolist(), strict=True)
        best = max(known, key=lambda weights: (known[weights], -max(weights), weights))
        step /= 2
        candidates = _neighbours(best, step)
    return best


def _grid(num_models: int) -> tuple[float, list[tuple[float, ...]]]:
    """All weights in steps of 1 / k, for the finest k that is affordable, and equal ones."""
    steps = max(k for k in range(1, 21) if math.comb(k + num_models - 1, num_models - 1) <= _MOST_CANDIDATES or k == 1)
    bars = itertools.combinations(range(steps + num_models - 1), num_models - 1)
    counts = [np.diff([-1, *bar, steps + num_models - 1]) - 1 for bar in bars]
    grid = [tuple(float(count / steps) for count in one) for one in counts]
    return 1 / steps, list(dict.fromkeys([*grid, (1 / num_models,) * num_models]))


def _neighbours(weights: tuple[float, ...], step: float) -> list[tuple[float, ...]]:
    """The weights with one step moved from one model to another, for every pair of models."""
    found = []
    for giver, taker in itertools.permutations(range(len(weights)), 2):
        moved = min(step, weights[giver])
        changed = list(weights)
        changed[giver] -= moved
        changed[taker] += moved
        found.append(tuple(round(weight, 6) for weight in changed))
    return found


def _areas_of(averages: Sequence[Average]) -> Callable[[list[Stored], Labels, int], NDArray[np.int64]]:
    """Work for :meth:`Samples.map`: the (K, 3, C) areas of K averages."""

    def work(stored: list[Stored], truth: Labels, ignore_index: int) -> NDArray[np.int64]:
        everyone = tuple(range(len(stored)))
        prepared = averages[0].prepare(stored)
        temperatures = averages[0].temperatures
        areas = []
        for average in averages:
            if average.temperatures != temperatures:
                prepared, temperatures = average.prepare(stored), average.temperatures
            labels = average.labels(prepared, [everyone])[0]
            areas.append(class_areas(confusion_matrix(truth, labels, len(stored[0]), ignore_index)))
        return np.stack(areas)

    return work
