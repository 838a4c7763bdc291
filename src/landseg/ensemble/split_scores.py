"""Scores of a split: of every ensemble, with intervals, and what each model adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from landseg.contracts.dataset import Split
from landseg.contracts.probabilities import Tta
from landseg.ensemble.averaging import Subset
from landseg.ensemble.split_results import SplitResult
from landseg.scoring.confusion import ConfusionMatrix
from landseg.scoring.intervals import MIN_UNITS, Interval, area_scores, interval
from landseg.scoring.scores import METRICS, scores

Gain = tuple[float, Interval | None]
"""A difference of two mIoU, and its interval."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one ensemble, or of a model alone.

    Attributes:
        models: the models' names.
        scores: as :func:`landseg.scoring.scores.scores` returns them.
        intervals: by score, of those that have one.
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
        gains: by model: the ensemble's mIoU minus that of the ensemble without it (for two models, that of the other
            one), with its interval; empty where any model has seen the split.
        best: position of the best single model; None where any model has seen the split.
        gain: the ensemble's mIoU minus the best single model's, with its interval; None for a single model, and where
            any model has seen the split.
        seen_by: the models that were trained on the split: scores of them, and of ensembles with them, say nothing
            about other tiles, and do not compare.
        num_tiles: tiles with a scored pixel.
        num_scenes: scenes with a scored pixel, which are scored in place of their tiles.
        views: by smaller `--tta`: each model with only those views, then the ensemble.
    """

    split: Split
    ensembles: dict[Subset, Scored]
    gains: dict[str, Gain]
    best: int | None
    gain: Gain | None
    seen_by: tuple[str, ...]
    num_tiles: int
    num_scenes: int
    views: dict[Tta, tuple[FewerViewsScored, ...]]

    @property
    def whole(self) -> Scored:
        """The ensemble of all models."""
        return list(self.ensembles.values())[-1]


def score(
    result: SplitResult, names: Sequence[str], classes: Sequence[str], seen_by: Sequence[str] = ()
) -> Scoring | None:
    """Score every ensemble of a labelled split; None where no pixel is scored.

    Args:
        result: the split's results.
        names: the models' names.
        classes: the class names.
        seen_by: the models that were trained on the split.
    """
    areas = result.areas
    if areas is None or not areas.total[0, 1].any():
        return None
    everyone = tuple(range(len(names)))
    alone: list[Subset] = [*((model,) for model in everyone), everyone]
    ttas: list[Tta] = list(dict.fromkeys(tta for tta, _ in areas.positions if tta is not None))
    draws = None if areas.drawn is None else area_scores(areas.drawn, classes)
    # A class that a single tile or scene holds has the same pixels in every resample: nothing is known of others.
    certain = {*METRICS, *(f"IoU.{name}" for name, n in zip(classes, areas.holding, strict=True) if n >= MIN_UNITS)}
    sums = area_scores(areas.total.astype(np.float64), classes)

    def scored(tta: Tta | None, subset: Subset) -> Scored:
        place = areas.positions[tta, subset]
        own = {key: float(values[place]) for key, values in sums.items() if not np.isnan(values[place])}
        intervals = {key: interval(draws[key][:, place]) for key in own if key in certain} if draws else {}
        confusion = None
        if tta is None and subset in alone:
            confusion = areas.confusions[-1 if subset == everyone else subset[0]]
            own = scores(confusion, classes)
        known = {key: ends for key, ends in intervals.items() if ends is not None}
        return Scored(tuple(names[model] for model in subset), own, known, confusion)

    found = {kind: scored(*kind) for kind in areas.positions}

    def gain(subset: Subset, tta: Tta | None, over: Subset) -> Gain:
        a, b = areas.positions[None, subset], areas.positions[tta, over]
        ends = interval(draws["mIoU"][:, a] - draws["mIoU"][:, b]) if draws else None
        return found[None, subset].scores["mIoU"] - found[tta, over].scores["mIoU"], ends

    best = None if seen_by else max(everyone, key=lambda model: found[None, (model,)].scores["mIoU"])
    compared = len(names) > 1 and not seen_by
    return Scoring(
        split=result.split,
        ensembles={subset: one for (tta, subset), one in found.items() if tta is None},
        gains={names[i]: gain(everyone, None, tuple(j for j in everyone if j != i)) for i in everyone if compared},
        best=best,
        gain=gain(everyone, None, (best,)) if compared and best is not None else None,
        seen_by=tuple(seen_by),
        num_tiles=areas.num_tiles,
        num_scenes=areas.num_scenes,
        views={
            tta: tuple(FewerViewsScored(found[tta, subset], gain(subset, tta, subset)) for subset in alone)
            for tta in ttas
        },
    )


def scored_split(scorings: Sequence[Scoring]) -> Scoring | None:
    """The split whose scores stand for the run: val, else test, else train; None if none is labelled."""
    by_split = {scoring.split: scoring for scoring in scorings}
    return by_split.get("val") or by_split.get("test") or by_split.get("train")
