"""The ensemble report: what averaging the models' probabilities brought, and where they disagree.

Plain data in, one HTML file out. Scores are the mappings that `landseg.ensemble.metrics.scores` returns and that
`summary.json` holds, so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from landseg.report.page import Facts, Interval


@dataclass(frozen=True, eq=False)
class Prediction:
    """One model's predictions, or the ensemble's.

    Attributes:
        name: the model's name in the run, e.g. `swin`; `ensemble` for the ensemble.
        scores: `mIoU`, `mAcc`, `aAcc` and `IoU.<class>` as fractions 0-1, a class that is absent from truth and
            prediction left out; empty where no labels exist.
        confusion: (C, C) int64, rows truth, columns prediction; None where no labels exist.
        intervals: by the same keys as `scores`: low and high end of the confidence interval, where one is known.
        weight: the model's weight in the average; None for the ensemble.
    """

    name: str
    scores: Mapping[str, float] = field(default_factory=dict)
    confusion: NDArray[np.int64] | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    weight: float | None = None


@dataclass(frozen=True, eq=False)
class TilePicture:
    """One tile of the gallery. Arrays may be of any size; `landseg.report.pictures.shrink` bounds the memory they take.

    Attributes:
        tile_id: the tile's id.
        split: the split it belongs to.
        image: (H, W, 3) uint8, RGB.
        truth: (H, W) uint8 class ids, `ignore_index` where not labelled; None where no label exists.
        models: (H, W) uint8 class ids of each model, in the order of `EnsembleReport.models`.
        ensemble: (H, W) uint8 class ids.
        disagreement: (H, W) float 0-1, how much the models differ at a pixel; None for a single model.
        disagreement_share: share of the tile's pixels, 0-1, where not all models agree.
        mIoU: by model name and `ensemble`: the mIoU of this tile alone; empty where no label exists.
    """

    tile_id: str
    split: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None
    models: tuple[NDArray[np.uint8], ...]
    ensemble: NDArray[np.uint8]
    disagreement: NDArray[np.floating] | None = None
    disagreement_share: float | None = None
    mIoU: Mapping[str, float] = field(default_factory=dict)  # noqa: N815 - the field's standard name


@dataclass(frozen=True)
class ClassAreas:
    """How much of a split each class covers.

    Attributes:
        split: the split.
        predicted_px: pixels that the ensemble assigned to each class, in class order.
        true_px: labelled pixels of each class; None where no labels exist.
        pixel_area_m2: ground area of one pixel where the tiles' transforms are known and agree.
        disagreement_share: share of the split's pixels, 0-1, where not all models agree; None for a single model.
    """

    split: str
    predicted_px: tuple[int, ...]
    true_px: tuple[int, ...] | None = None
    pixel_area_m2: float | None = None
    disagreement_share: float | None = None


@dataclass(frozen=True)
class StageCost:
    """What one stage took.

    Attributes:
        stage: e.g. `train-swin`.
        seconds: wall-clock time of the work (of the first run, where a rerun found it done).
        gpu_seconds: seconds times GPUs; None where no GPU was used.
        size_bytes: what the stage wrote to object storage; None where not known.
    """

    stage: str
    seconds: float
    gpu_seconds: float | None = None
    size_bytes: int | None = None


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
        scored_split: the split that the scores are of; None where no labels exist.
        confidence: the level of all intervals, e.g. 0.95.
        gain_interval: confidence interval of the gain: ensemble mIoU minus the best single model's.
        areas: class areas per predicted split.
        disagreeing: tiles in falling order of disagreement.
        worst: labelled tiles in rising order of the ensemble's score.
        best: labelled tiles in falling order of the ensemble's score.
        ignore_index: label value that is not scored; such pixels of `truth` are drawn as "not labelled".
        costs: one entry per stage, in pipeline order.
        provenance: sections of facts: dataset, models (checkpoint digest, config), parameters, versions. A value with
            line breaks (a resolved config) is folded away.
        warnings: what the reader must know before believing a number, one sentence each.
    """

    run_id: str
    dataset: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    models: tuple[Prediction, ...]
    ensemble: Prediction
    num_tiles: Mapping[str, int]
    scored_split: str | None = None
    confidence: float = 0.95
    gain_interval: Interval | None = None
    areas: tuple[ClassAreas, ...] = ()
    disagreeing: tuple[TilePicture, ...] = ()
    worst: tuple[TilePicture, ...] = ()
    best: tuple[TilePicture, ...] = ()
    ignore_index: int = 255
    costs: tuple[StageCost, ...] = ()
    provenance: Facts = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
