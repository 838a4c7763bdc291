"""The training report: curves, scores on val, speed, and what the run was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from landseg.report.page import Facts


@dataclass(frozen=True)
class Evaluation:
    """Scores on val after an epoch.

    Attributes:
        epoch: epochs done, from 1.
        iteration: iterations done.
        scores: `mIoU`, `mAcc`, `aAcc` and `IoU.<class>` as fractions 0-1.
    """

    epoch: int
    iteration: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class TrainingReport:
    """Everything the page shows.

    Attributes:
        name: the model's name in the run, e.g. `swin`.
        config_name: the config it was built from, e.g. `swin_tiny`.
        run_id: the run's name.
        dataset: the dataset's name.
        classes: class names in class-id order.
        palette: one RGB colour per class.
        iterations: the iterations that were logged, rising; the x axis of `losses` and `lr`.
        losses: by name (`loss`, `decode.loss_ce`, `aux.loss_ce`): one value per logged iteration.
        lr: learning rate per logged iteration.
        evaluations: in the order they were made; the last one is the model's.
        train_pixels: labelled pixels per class that were trained on; empty where not known.
        num_parameters: weights of the model.
        images_per_s: mean training speed over all processes.
        seconds: wall-clock time of training.
        num_gpus: 0 on CPU.
        peak_memory_bytes: largest GPU memory of one process; None on CPU.
        size_bytes: of the checkpoint.
        config: the resolved mmseg config as text.
        provenance: sections of facts: dataset, parameters, environment, versions.
        warnings: what the reader must know before believing a number, one sentence each.
    """

    name: str
    config_name: str
    run_id: str
    dataset: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    iterations: Sequence[int]
    losses: Mapping[str, Sequence[float]]
    lr: Sequence[float]
    evaluations: tuple[Evaluation, ...]
    train_pixels: tuple[int, ...] = ()
    num_parameters: int | None = None
    images_per_s: float | None = None
    seconds: float | None = None
    num_gpus: int = 0
    peak_memory_bytes: int | None = None
    size_bytes: int | None = None
    config: str = ""
    provenance: Facts = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
