"""What the parts of an ensemble add up to: scores with intervals, areas, rankings."""

from __future__ import annotations

import csv
import io
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
from landseg.ensemble.shard_results import Job, Part
from landseg.scoring.confusion import ConfusionMatrix
from landseg.scoring.intervals import CONFIDENCE, Interval, Resampling, area_scores, interval
from landseg.scoring.scores import scores

Gain = tuple[float, Interval | None]
"""A difference of two mIoU, and its interval."""


Ensembles = dict[tuple[Tta | None, Subset], int]
"""Positions of everything that is scored: by the smaller `--tta` (None: all views that were exported), and models."""


def ensembles(num_models: int, ttas: Iterable[Tta]) -> Ensembles:
    """Every subset with all views; each model and the ensemble with fewer."""
    everyone = tuple(range(num_models))
    alone = [*((model,) for model in everyone), everyone]
    kinds = [(None, subset) for subset in subsets(num_models)] + [(tta, subset) for tta in ttas for subset in alone]
    return {kind: position for position, kind in enumerate(kinds)}


@dataclass(frozen=True, eq=False)
class Areas:
    """What was scored of a split, summed over its tiles, for E :func:`ensembles`.

    Attributes:
        ensembles: their positions.
        total: (E, 3, C) int64: pixels that are right, of the truth, of the prediction, by class.
        drawn: (B, E, 3, C), sums over drawn tiles; None where too few tiles are scored.
        confusions: (N + 1, C, C) int64: each model's, then the ensemble's.
        tile_miou: (T, N + 1) each tile's own mIoU by each model and the ensemble; NaN where no pixel is scored.
    """

    ensembles: Ensembles
    total: NDArray[np.int64]
    drawn: NDArray[np.float64] | None
    confusions: NDArray[np.int64]
    tile_miou: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SplitResult:
    """A split's parts, put together; all arrays are in the order of the tiles' ids.

    Attributes:
        split: its name.
        tile_ids: T ids, sorted.
        pixels: (C,) pixels of each class in the ensemble's label maps.
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


def combine(split: Split, num_parts: int, read: Callable[[int], Part]) -> SplitResult:
    """Put a split's parts together, whatever order they come in, keeping some 150 bytes per tile.

    Parts of a labelled split are read twice: how often a tile is drawn depends on how many there are to draw from.

    Args:
        split: its name.
        num_parts: of the split.
        read: returns a part.
    """
    ids: list[list[str]] = [[] for _ in range(num_parts)]
    found: list[NDArray[np.float64]] = [np.empty((0, 0))] * num_parts
    scored = [0] * num_parts
    pixels: Any = 0
    total: Any = 0
    confusions: Any = 0
    known: Ensembles = {}
    for number, part in _each(num_parts, read):
        ids[number] = [tile.id for tile in part.tiles]
        pixels += np.array([tile.pixels for tile in part.tiles], np.int64).sum(axis=0)
        rows = np.array([(tile.disagreement, tile.entropy, tile.differing) for tile in part.tiles])
        if part.confusions is not None:
            confusions += np.array(part.confusions, np.int64)
            known = ensembles(len(part.confusions) - 1, part.tiles[0].view_areas)
            areas = _areas(part)
            total += areas.sum(axis=0)
            scored[number] = int(_is_scored(areas).sum())
            whole = max(position for (tta, _), position in known.items() if tta is None)
            own = areas[:, [*range(len(part.confusions) - 1), whole]].astype(np.float64)
            rows = np.concatenate([rows, area_scores(own, ())["mIoU"]], axis=1)
        found[number] = rows
    drawn = None
    if known:
        resampling = Resampling(scored)
        for number, part in _each(num_parts, read):
            areas = _areas(part)
            resampling.add(number, areas[_is_scored(areas)])  # tiles without a scored pixel are no tiles to draw
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
        areas=Areas(known, total, drawn, confusions, rows[:, 3:]) if known else None,
    )


def _each(num_parts: int, read: Callable[[int], Part]) -> Iterator[tuple[int, Part]]:
    return storage.parallel(lambda number: (number, read(number)), range(num_parts))


def _areas(part: Part) -> NDArray[np.int64]:
    """(T, E, 3, C) of a part's tiles."""
    each = [[*(tile.areas or ()), *itertools.chain.from_iterable(tile.view_areas.values())] for tile in part.tiles]
    return np.array(each, np.int64)


def _is_scored(areas: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(areas[:, 0, 1].any(axis=-1), np.bool_)


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one ensemble, or of a model alone.

    Attributes:
        models: the models' names.
        scores: as :func:`landseg.scoring.scores.scores` returns them.
        intervals: of each score that has one.
        confusion: for the models and the whole ensemble.
    """

    models: tuple[str, ...]
    scores: dict[str, float]
    intervals: dict[str, Interval]
    confusion: ConfusionMatrix | None = None


@dataclass(frozen=True, eq=False)
class FewerViewsScored:
    """A model, or the ensemble, with fewer views than are stored.

    Attributes:
        scored: its scores.
        gain: the mIoU with all views minus that with these.
    """

    scored: Scored
    gain: Gain


@dataclass(frozen=True, eq=False)
class Scoring:
    """The scores of a labelled split.

    Attributes:
        split: its name.
        ensembles: by position of their models, the whole ensemble last.
        gains: of each model: the ensemble's mIoU minus that of the ensemble without it (of two models, the other one),
            with its interval.
        best: position of the best single model.
        gain: the ensemble's mIoU minus the best single model's, with its interval; None of a single model.
        views: by a smaller `--tta`: each model with its views alone, then the ensemble.
    """

    split: Split
    ensembles: dict[Subset, Scored]
    gains: dict[str, Gain]
    best: int
    gain: Gain | None
    views: dict[Tta, tuple[FewerViewsScored, ...]]

    @property
    def whole(self) -> Scored:
        """The ensemble of all models."""
        return list(self.ensembles.values())[-1]


def score(result: SplitResult, names: Sequence[str], classes: Sequence[str]) -> Scoring | None:
    """Score every ensemble of a labelled split; None where no pixel is scored."""
    areas = result.areas
    if areas is None or not areas.total[0, 1].any():
        return None
    everyone = tuple(range(len(names)))
    alone: list[Subset] = [*((model,) for model in everyone), everyone]
    ttas: list[Tta] = list(dict.fromkeys(tta for tta, _ in areas.ensembles if tta is not None))
    draws = None if areas.drawn is None else area_scores(areas.drawn, classes)
    sums = area_scores(areas.total.astype(np.float64), classes)

    def scored(tta: Tta | None, subset: Subset) -> Scored:
        place = areas.ensembles[tta, subset]
        own = {key: float(values[place]) for key, values in sums.items() if not np.isnan(values[place])}
        intervals = {key: interval(draws[key][:, place]) for key in own} if draws else {}
        confusion = None
        if tta is None and subset in alone:
            confusion = areas.confusions[-1 if subset == everyone else subset[0]]
            own = scores(confusion, classes)
        known = {key: ends for key, ends in intervals.items() if ends is not None}
        return Scored(tuple(names[model] for model in subset), own, known, confusion)

    found = {kind: scored(*kind) for kind in areas.ensembles}

    def gain(subset: Subset, tta: Tta | None, over: Subset) -> Gain:
        a, b = areas.ensembles[None, subset], areas.ensembles[tta, over]
        ends = interval(draws["mIoU"][:, a] - draws["mIoU"][:, b]) if draws else None
        return found[None, subset].scores["mIoU"] - found[tta, over].scores["mIoU"], ends

    best = max(everyone, key=lambda model: found[None, (model,)].scores["mIoU"])
    several = len(names) > 1
    return Scoring(
        split=result.split,
        ensembles={subset: one for (tta, subset), one in found.items() if tta is None},
        gains={names[i]: gain(everyone, None, tuple(j for j in everyone if j != i)) for i in everyone if several},
        best=best,
        gain=gain(everyone, None, (best,)) if several else None,
        views={
            tta: tuple(FewerViewsScored(found[tta, subset], gain(subset, tta, subset)) for subset in alone)
            for tta in ttas
        },
    )


def scored_split(scorings: Sequence[Scoring]) -> Scoring | None:
    """The split whose scores stand for the run: val, else test, else train; None where none is labelled."""
    by_split = {scoring.split: scoring for scoring in scorings}
    return by_split.get("val") or by_split.get("test") or by_split.get("train")


def summarise(job: Job, results: Sequence[SplitResult], scorings: Sequence[Scoring]) -> dict[str, Any]:
    """The content of summary.json."""
    names = [member.name for member in job.members]
    main = scored_split(scorings)
    return {
        "models": {name: main.ensembles[(i,)].scores if main else {} for i, name in enumerate(names)},
        "ensemble": main.whole.scores if main else {},
        "scored_split": main.split if main else None,
        "confusion": main.whole.confusion.tolist() if main and main.whole.confusion is not None else [],
        "weights": {member.name: member.weight for member in job.members},
        "temperatures": {member.name: member.temperature for member in job.members},
        "fit": job.fit and job.fit.model_dump(mode="json", exclude={"models", "weights", "temperatures", "fitted_on"}),
        "num_tiles": {split: info.num_tiles for split, info in job.dataset.manifest.splits.items()},
        "confidence": CONFIDENCE,
        "splits": {scoring.split: _describe(scoring) for scoring in scorings},
        "disagreement": {result.split: _means(result) for result in results},
    }


def _describe(scoring: Scoring) -> dict[str, Any]:
    described: dict[str, Any] = {
        "ensembles": [
            {"models": scored.models, "scores": scored.scores, "intervals": scored.intervals}
            for scored in scoring.ensembles.values()
        ],
    }
    if scoring.views:
        described["views"] = {tta: _describe_views(found) for tta, found in scoring.views.items()}
    if scoring.gain is not None:
        best = scoring.ensembles[(scoring.best,)].models[0]
        described["gain"] = {"over": best, "mIoU": scoring.gain[0], "interval": scoring.gain[1]}
        described["gain_of"] = {
            name: {"mIoU": value, "interval": ends} for name, (value, ends) in scoring.gains.items()
        }
    return described


def _describe_views(found: Sequence[FewerViewsScored]) -> dict[str, Any]:
    names = [*(fewer.scored.models[0] for fewer in found[:-1]), "ensemble"]
    return {
        name: {
            "scores": fewer.scored.scores,
            "intervals": fewer.scored.intervals,
            "all_views_add": {"mIoU": fewer.gain[0], "interval": fewer.gain[1]},
        }
        for name, fewer in zip(names, found, strict=True)
    }


def _means(result: SplitResult) -> dict[str, float]:
    return {
        "differing": float(result.differing.mean()),
        "disagreement": float(result.disagreement.mean()),
        "entropy": float(result.entropy.mean()),
    }


def ranking(results: Sequence[SplitResult], names: Sequence[str]) -> bytes:
    """The tiles most worth a look first, as CSV: those where the ensemble is least decided."""
    # By what is written, and then by name: `results` and their tiles are in alphabetical order, and the sort is stable.
    in_order = sorted(results, key=lambda result: result.split)
    entropy = np.concatenate([result.entropy.round(6) for result in in_order])
    starts = np.cumsum([0, *(len(result.tile_ids) for result in in_order)])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scored = [f"mIoU.{name}" for name in (*names, "ensemble")]
    writer.writerow(["rank", "split", "tile", "entropy", "disagreement", "differing", *scored])
    for rank, place in enumerate(np.argsort(-entropy, kind="stable"), 1):
        number = int(np.searchsorted(starts, place, side="right")) - 1
        result, i = in_order[number], int(place - starts[number])
        own = [float("nan")] * len(scored) if result.areas is None else result.areas.tile_miou[i].tolist()
        mious = ["" if np.isnan(miou) else f"{miou:.6f}" for miou in own]
        uncertainty = (result.entropy[i], result.disagreement[i], result.differing[i])
        writer.writerow([rank, result.split, result.tile_ids[i], *(f"{value:.6f}" for value in uncertainty), *mious])
    return text.getvalue().encode()
