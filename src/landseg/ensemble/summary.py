"""What the parts of an ensemble add up to: scores with intervals, areas, rankings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.data.manifest import Split
from landseg.ensemble.average import Subset, subsets
from landseg.ensemble.bootstrap import CONFIDENCE, Interval, area_scores, interval, resample
from landseg.ensemble.manifest import Tta
from landseg.ensemble.metrics import Confusion, scores
from landseg.ensemble.parts import Job, Part

SCORES = ("mIoU", "mAcc", "aAcc")
Gain = tuple[float, Interval | None]
"""A difference of two mIoU, and its interval."""


@dataclass(frozen=True, eq=False)
class SplitResult:
    """A split's parts, put together; all arrays are in the order of the tiles' ids.

    Attributes:
        split: its name.
        tile_ids: T ids, sorted.
        pixels: (C,) pixels of each class in the ensemble's label maps.
        disagreement, entropy, differing: (T,) as in :class:`~landseg.ensemble.parts.TileResult`.
        areas: (T, S, 3, C) int64 for the S ensembles of `subsets`; None where the split has no labels.
        view_areas: likewise (T, N + 1, 3, C): each model and the ensemble, with fewer views.
        confusions: (N + 1, C, C) int64: each model's, then the ensemble's; None where the split has no labels.
    """

    split: Split
    tile_ids: list[str]
    pixels: NDArray[np.int64]
    disagreement: NDArray[np.float64]
    entropy: NDArray[np.float64]
    differing: NDArray[np.float64]
    areas: NDArray[np.int64] | None
    view_areas: dict[Tta, NDArray[np.int64]]
    confusions: NDArray[np.int64] | None

    def tile_miou(self, subset: int) -> NDArray[np.float64]:
        """(T,) each tile's own mIoU under an ensemble of `subsets`, NaN where no pixel is scored."""
        assert self.areas is not None
        miou: NDArray[np.float64] = area_scores(self.areas[:, subset].astype(np.float64), ())["mIoU"]
        return miou


def combine(split: Split, parts: Iterable[Part]) -> SplitResult:
    """Put a split's parts together, whatever order they come in; only arrays of them are kept."""
    ids: list[str] = []
    found: dict[Any, list[NDArray[Any]]] = {}
    pixels: Any = 0
    confusions: Any = None
    for part in parts:
        ids += [tile.id for tile in part.tiles]
        pixels += np.array([tile.pixels for tile in part.tiles], np.int64).sum(axis=0)
        values = [(tile.disagreement, tile.entropy, tile.differing) for tile in part.tiles]
        found.setdefault("values", []).append(np.array(values))
        if part.confusions is not None:
            confusions = np.array(part.confusions, np.int64) + (0 if confusions is None else confusions)
            found.setdefault("areas", []).append(np.array([tile.areas for tile in part.tiles], np.int64))
            for tta in part.tiles[0].view_areas:
                areas = np.array([tile.view_areas[tta] for tile in part.tiles], np.int64)
                found.setdefault(tta, []).append(areas)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    arrays = {key: np.concatenate(found.pop(key))[order] for key in list(found)}
    disagreement, entropy, differing = arrays.pop("values").T
    return SplitResult(
        split=split,
        tile_ids=[ids[i] for i in order],
        pixels=pixels,
        disagreement=disagreement,
        entropy=entropy,
        differing=differing,
        areas=arrays.pop("areas", None),
        view_areas=arrays,
        confusions=confusions,
    )


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one ensemble, or of a model alone.

    Attributes:
        models: the models' names.
        scores: as :func:`landseg.ensemble.metrics.scores` returns them.
        intervals: of each score that has one.
        confusion: for the models and the whole ensemble.
    """

    models: tuple[str, ...]
    scores: dict[str, float]
    intervals: dict[str, Interval]
    confusion: Confusion | None = None


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
    if result.areas is None or result.confusions is None or not result.areas[:, -1, 1].sum():
        return None
    everyone = tuple(range(len(names)))
    wanted = subsets(len(names))
    alone = [*((model,) for model in everyone), everyone]
    places = {("all", subset): i for i, subset in enumerate(wanted)}
    for tta in result.view_areas:
        places |= {(tta, subset): len(places) + i for i, subset in enumerate(alone)}
    areas = result.areas
    if result.view_areas:
        areas = np.concatenate([areas, *result.view_areas.values()], axis=1)
    is_scored = result.areas[:, -1, 1].any(axis=-1)
    if not is_scored.all():
        areas = areas[is_scored]  # tiles without a scored pixel are no tiles to draw
    drawn = resample(areas)
    draws = None if drawn is None else area_scores(drawn, classes)
    sums = area_scores(areas.sum(axis=0).astype(np.float64), classes)

    def scored(views: str, subset: Subset) -> Scored:
        place = places[views, subset]
        own = {key: float(values[place]) for key, values in sums.items() if not np.isnan(values[place])}
        intervals = {key: interval(draws[key][:, place]) for key in own} if draws else {}
        confusion = None
        if views == "all" and subset in alone and result.confusions is not None:
            confusion = result.confusions[-1 if subset == everyone else subset[0]]
            own = scores(confusion, classes)
        known = {key: ends for key, ends in intervals.items() if ends is not None}
        return Scored(tuple(names[model] for model in subset), own, known, confusion)

    found = {place: scored(*place) for place in places}

    def gain(subset: Subset, views: str, over: Subset) -> Gain:
        a, b = ("all", subset), (views, over)
        ends = interval(draws["mIoU"][:, places[a]] - draws["mIoU"][:, places[b]]) if draws else None
        return found[a].scores["mIoU"] - found[b].scores["mIoU"], ends

    best = max(everyone, key=lambda model: found["all", (model,)].scores["mIoU"])
    several = len(names) > 1
    return Scoring(
        split=result.split,
        ensembles={subset: found["all", subset] for subset in wanted},
        gains={names[i]: gain(everyone, "all", tuple(j for j in everyone if j != i)) for i in everyone if several},
        best=best,
        gain=gain(everyone, "all", (best,)) if several else None,
        views={
            tta: tuple(FewerViewsScored(found[tta, subset], gain(subset, tta, subset)) for subset in alone)
            for tta in result.view_areas
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
    rows = []
    for result in results:
        own = [result.tile_miou(subset) for subset in (*range(len(names)), -1)] if result.areas is not None else []
        for i, tile_id in enumerate(result.tile_ids):
            mious = ["" if np.isnan(column[i]) else f"{column[i]:.6f}" for column in own] or [""] * (len(names) + 1)
            uncertainty = (result.entropy[i], result.disagreement[i], result.differing[i])
            rows.append([result.split, tile_id, *(f"{value:.6f}" for value in uncertainty), *mious])
    rows.sort(key=lambda row: (-float(row[2]), row[0], row[1]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scored = [f"mIoU.{name}" for name in (*names, "ensemble")]
    writer.writerow(["rank", "split", "tile", "entropy", "disagreement", "differing", *scored])
    writer.writerows([rank, *row] for rank, row in enumerate(rows, 1))
    return text.getvalue().encode()
