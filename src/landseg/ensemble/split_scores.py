"""Scores of a split: of every ensemble, with intervals, and what each model adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from landseg.contracts.dataset import Split
from landseg.contracts.probabilities import Tta
from landseg.ensemble.averaging import Subset
from landseg.ensemble.split_results import Areas, SplitResult, Variant
from landseg.scoring.boundary import boundary_scores
from landseg.scoring.calibration import ReliabilityCounts
from landseg.scoring.confusion import ConfusionMatrix
from landseg.scoring.intervals import Interval, area_scores, interval
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
        reliability: likewise, (3, B) counts of :mod:`landseg.scoring.calibration`.
        boundary: likewise, boundary IoU: the mean over classes as `mIoU`, and `IoU.<class>`.
    """

    models: tuple[str, ...]
    scores: dict[str, float]
    intervals: dict[str, Interval]
    confusion: ConfusionMatrix | None = None
    reliability: ReliabilityCounts | None = None
    boundary: dict[str, float] = field(default_factory=dict)


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
        num_units: the scenes, and the tiles that were not cut from one: what intervals resample.
        views: by smaller `--tta`: each model with only those views, then the ensemble.
        of_tiles: by model, and for `ensemble`: mIoU, mAcc and aAcc of every tile on its own, where scenes are stitched;
            pixels in the overlap of tiles count more than once. Empty without scenes.
    """

    split: Split
    ensembles: dict[Subset, Scored]
    gains: dict[str, Gain]
    best: int | None
    gain: Gain | None
    seen_by: tuple[str, ...]
    num_tiles: int
    num_scenes: int
    num_units: int
    views: dict[Tta, tuple[FewerViewsScored, ...]]
    of_tiles: dict[str, dict[str, float]] = field(default_factory=dict)

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
    scorer = _Scorer(areas, names, classes)
    found = {kind: scorer.scored(kind) for kind in areas.positions}

    def gain(subset: Subset, tta: Tta | None, over: Subset) -> Gain:
        value = found[None, subset].scores["mIoU"] - found[tta, over].scores["mIoU"]
        return value, scorer.interval_of_gain(value, (None, subset), (tta, over))

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
        num_units=areas.num_units,
        views={
            tta: tuple(FewerViewsScored(found[tta, subset], gain(subset, tta, subset)) for subset in alone)
            for tta in ttas
        },
        of_tiles=_of_tiles(areas, dict(zip((*names, "ensemble"), alone, strict=True))) if areas.num_scenes else {},
    )


class _Scorer:
    """Scores and intervals of the variants of a split.

    Args:
        areas: the split's.
        names: the models' names.
        classes: the class names.
    """

    def __init__(self, areas: Areas, names: Sequence[str], classes: Sequence[str]) -> None:
        self._areas, self._names, self._classes = areas, names, classes
        self._sums = area_scores(areas.total.astype(np.float64), classes)
        self._draws = None if areas.drawn is None else area_scores(areas.drawn, classes)
        # A class that a single tile or scene holds has the same pixels in every resample: nothing is known of others.
        self._units = dict.fromkeys(METRICS, areas.num_units)
        self._units |= {f"IoU.{name}": int(number) for name, number in zip(classes, areas.holding, strict=True)}

    def scored(self, variant: Variant) -> Scored:
        """The scores of a variant."""
        areas, draws, (tta, subset) = self._areas, self._draws, variant
        place = areas.positions[variant]
        own = {key: float(values[place]) for key, values in self._sums.items() if not np.isnan(values[place])}
        intervals = {key: interval(own[key], draws[key][:, place], self._units[key]) for key in own} if draws else {}
        known = {key: ends for key, ends in intervals.items() if ends is not None}
        models = tuple(self._names[model] for model in subset)
        is_whole = len(subset) == len(self._names)
        if tta is not None or not (is_whole or len(subset) == 1):
            return Scored(models, own, known)
        i = -1 if is_whole else subset[0]
        confusion, boundary = areas.confusions[i], boundary_scores(areas.boundaries[i], self._classes)
        return Scored(models, scores(confusion, self._classes), known, confusion, areas.reliability[i], boundary)

    def interval_of_gain(self, value: float, variant: Variant, over: Variant) -> Interval | None:
        """That of the mIoU of a variant minus that of another one."""
        if not self._draws:
            return None
        a, b = self._areas.positions[variant], self._areas.positions[over]
        drawn = self._draws["mIoU"][:, a] - self._draws["mIoU"][:, b]
        return interval(value, drawn, self._areas.num_units, (-1.0, 1.0))


def _of_tiles(areas: Areas, subsets: Mapping[str, Subset]) -> dict[str, dict[str, float]]:
    sums = area_scores(areas.of_tiles.astype(np.float64), ())
    places = {name: areas.positions[None, subset] for name, subset in subsets.items()}
    return {name: {key: float(sums[key][place]) for key in METRICS} for name, place in places.items()}


def scored_split(scorings: Sequence[Scoring]) -> Scoring | None:
    """The split whose scores stand for the run: val, else test, else train; None if none is labelled."""
    by_split = {scoring.split: scoring for scoring in scorings}
    return by_split.get("val") or by_split.get("test") or by_split.get("train")
