"""What the ensemble report shows, as plain data.

Scores are the mappings that `landseg.scoring.scores.scores` returns and that `summary.json` holds, so that the two
cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from landseg.report.ensemble.areas import ClassAreas
from landseg.report.ensemble.costs import StageCost
from landseg.report.page import Facts
from landseg.report.scores import Prediction
from landseg.report.tile_pictures import TilePicture
from landseg.scoring.intervals import Interval


@dataclass(frozen=True)
class FewerViewsRow:
    """A row of the table of flip views: a model, or the ensemble, with fewer of them than are averaged.

    Attributes:
        tta: the views, as `--tta` names them.
        name: the model's name, or `ensemble`.
        mIoU: with these views.
        adds: mIoU with all views minus that.
        interval: confidence interval of the difference, if known.
    """

    tta: str
    name: str
    mIoU: float  # noqa: N815  # its name in the field
    adds: float
    interval: Interval | None = None


@dataclass(frozen=True, eq=False)
class SplitScores:
    """Scores of a labelled split that is not the one that stands for the run.

    Attributes:
        split: its name.
        num_tiles: tiles with a scored pixel.
        num_scenes: scenes with a scored pixel, which are scored in place of their tiles.
        predictions: the models, then the ensemble where there are several.
        of_tiles: where scenes are stitched: by their names, the mIoU of every tile on its own.
    """

    split: str
    num_tiles: int
    num_scenes: int
    predictions: tuple[Prediction, ...]
    of_tiles: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MapFile:
    """A file of maps, or several whose paths are numbered.

    Attributes:
        path: in the folder of the report; of several, the first.
        kind: `labels`, or the layer.
        split: the split.
        num_maps: maps in them.
        num_files: how many there are.
    """

    path: str
    kind: str
    split: str
    num_maps: int
    num_files: int = 1


@dataclass(frozen=True, eq=False)
class EnsembleReport:
    """Everything the page shows.

    Attributes:
        run_id: the run's name.
        dataset: the dataset's name.
        classes: class names in class-id order.
        palette: one RGB colour per class.
        models: one entry per model, in the order of the average; at least one.
        ensemble: the ensemble.
        num_tiles: tiles by split, as in `summary.json`.
        num_scored_tiles: tiles of the scored split with a scored pixel.
        num_scored_scenes: scenes of the scored split with a scored pixel, which are scored in place of their tiles.
        of_tiles: where scenes are stitched: by model and for `ensemble`, the mIoU of every tile on its own.
        num_units: the scenes, and the tiles that were not cut from one: what intervals resample.
        seen_by: the models that were trained on the scored split: then no scores are compared.
        scored_split: the split that the scores are of; None if there are no labels.
        confidence: the level of all intervals, e.g. 0.95.
        gain_interval: confidence interval of the gain: ensemble mIoU minus the best single model's.
        adds: by model: the ensemble's mIoU minus that of the ensemble without it (for two models, that of the other
            one), and its confidence interval, if known.
        subsets: with three or more models, the ensembles of some of them, named `swin+resnest` and so on.
        views: scores with fewer views, if each view was stored individually.
        other_splits: scores of the other labelled splits.
        areas: class areas per predicted split.
        maps: the files of maps.
        disagreeing: tiles in falling order of disagreement.
        worst: labelled tiles in rising order of the ensemble's score.
        best: labelled tiles in falling order of the ensemble's score.
        costs: one entry per stage, in pipeline order.
        provenance: sections of facts: dataset, models (checkpoint digest, config), parameters, versions. A value with
            line breaks (a resolved config) is folded away.
        warnings: what the reader has to know before trusting a number, one sentence each.
    """

    run_id: str
    dataset: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    models: tuple[Prediction, ...]
    ensemble: Prediction
    num_tiles: Mapping[str, int]
    scored_split: str | None = None
    num_scored_tiles: int = 0
    num_scored_scenes: int = 0
    of_tiles: Mapping[str, float] = field(default_factory=dict)
    num_units: int = 0
    seen_by: tuple[str, ...] = ()
    confidence: float = 0.95
    gain_interval: Interval | None = None
    adds: Mapping[str, tuple[float, Interval | None]] = field(default_factory=dict)
    subsets: tuple[Prediction, ...] = ()
    views: tuple[FewerViewsRow, ...] = ()
    other_splits: tuple[SplitScores, ...] = ()
    areas: tuple[ClassAreas, ...] = ()
    maps: tuple[MapFile, ...] = ()
    disagreeing: tuple[TilePicture, ...] = ()
    worst: tuple[TilePicture, ...] = ()
    best: tuple[TilePicture, ...] = ()
    costs: tuple[StageCost, ...] = ()
    provenance: Facts = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
