"""What the parts of an ensemble add up to: scores with intervals, areas, rankings."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.data.manifest import Split
from landseg.ensemble.average import Subset, subsets
from landseg.ensemble.bootstrap import CONFIDENCE, Interval, area_scores, interval, resample
from landseg.ensemble.metrics import Confusion, scores
from landseg.ensemble.parts import Job, Part

SCORES = ("mIoU", "mAcc", "aAcc")


@dataclass(frozen=True, eq=False)
class SplitResult:
    """A split's parts, put together; all arrays are in the order of the tiles' ids.

    Attributes:
        split: its name.
        tile_ids: T ids, sorted.
        pixels: (C,) pixels of each class in the ensemble's label maps.
        disagreement, entropy, differing: (T,) as in :class:`~landseg.ensemble.parts.TileResult`.
        areas: (T, S, 3, C) int64 for the S ensembles of `subsets`; None where the split has no labels.
        confusions: (N + 1, C, C) int64: each model's, then the ensemble's; None where the split has no labels.
    """

    split: Split
    tile_ids: list[str]
    pixels: NDArray[np.int64]
    disagreement: NDArray[np.float64]
    entropy: NDArray[np.float64]
    differing: NDArray[np.float64]
    areas: NDArray[np.int64] | None
    confusions: NDArray[np.int64] | None

    def tile_miou(self, subset: int) -> NDArray[np.float64]:
        """(T,) each tile's own mIoU under an ensemble of `subsets`, NaN where no pixel is scored."""
        assert self.areas is not None
        miou: NDArray[np.float64] = area_scores(self.areas[:, subset].astype(np.float64), ())["mIoU"]
        return miou


def combine(split: Split, parts: Sequence[Part]) -> SplitResult:
    """Put a split's parts together."""
    results = sorted((tile for part in parts for tile in part.tiles), key=lambda tile: tile.id)
    areas = [tile.areas for tile in results if tile.areas is not None]
    confusions = [np.array(part.confusions, np.int64) for part in parts if part.confusions is not None]
    return SplitResult(
        split=split,
        tile_ids=[tile.id for tile in results],
        pixels=np.array([tile.pixels for tile in results], np.int64).sum(axis=0),
        disagreement=np.array([tile.disagreement for tile in results]),
        entropy=np.array([tile.entropy for tile in results]),
        differing=np.array([tile.differing for tile in results]),
        areas=np.array(areas, np.int64) if areas else None,
        confusions=np.sum(confusions, axis=0) if confusions else None,
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
class Scoring:
    """The scores of a labelled split.

    Attributes:
        split: its name.
        ensembles: by position of their models, the whole ensemble last.
        gains: of each model: the ensemble's mIoU minus that of the ensemble without it (of two models, the other one),
            with its interval.
        best: position of the best single model.
        gain: the ensemble's mIoU minus the best single model's, with its interval; None of a single model.
    """

    split: Split
    ensembles: dict[Subset, Scored]
    gains: dict[str, tuple[float, Interval | None]]
    best: int
    gain: tuple[float, Interval | None] | None

    @property
    def whole(self) -> Scored:
        """The ensemble of all models."""
        return list(self.ensembles.values())[-1]


def score(result: SplitResult, names: Sequence[str], classes: Sequence[str]) -> Scoring | None:
    """Score every ensemble of a labelled split; None where no pixel is scored."""
    if result.areas is None or result.confusions is None or not result.areas[:, -1, 1].sum():
        return None
    everyone = tuple(range(len(names)))
    areas = result.areas[result.areas[:, -1, 1].any(axis=-1)]  # tiles without a scored pixel are no tiles to draw
    drawn = resample(areas)
    draws = None if drawn is None else area_scores(drawn, classes)
    sums = area_scores(areas.sum(axis=0).astype(np.float64), classes)
    wanted = subsets(len(names))
    ensembles = {}
    for position, subset in enumerate(wanted):
        own = {key: float(values[position]) for key, values in sums.items() if not np.isnan(values[position])}
        intervals = {key: interval(draws[key][:, position]) for key in own} if draws else {}
        confusion = None
        if subset == everyone or len(subset) == 1:
            confusion = result.confusions[-1 if subset == everyone else subset[0]]
            own = scores(confusion, classes)
        ensembles[subset] = Scored(
            tuple(names[model] for model in subset),
            own,
            {key: ends for key, ends in intervals.items() if ends is not None},
            confusion,
        )

    def gain(over: Subset) -> tuple[float, Interval | None]:
        a, b = wanted.index(everyone), wanted.index(over)
        ends = interval(draws["mIoU"][:, a] - draws["mIoU"][:, b]) if draws else None
        return ensembles[everyone].scores["mIoU"] - ensembles[over].scores["mIoU"], ends

    best = max(everyone, key=lambda model: ensembles[(model,)].scores["mIoU"])
    several = len(names) > 1
    gains = {names[i]: gain(tuple(j for j in everyone if j != i)) for i in everyone} if several else {}
    return Scoring(result.split, ensembles, gains, best, gain((best,)) if several else None)


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
    if scoring.gain is not None:
        best = scoring.ensembles[(scoring.best,)].models[0]
        described["gain"] = {"over": best, "mIoU": scoring.gain[0], "interval": scoring.gain[1]}
        described["gain_of"] = {
            name: {"mIoU": value, "interval": ends} for name, (value, ends) in scoring.gains.items()
        }
    return described


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
