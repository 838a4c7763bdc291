"""The training report: curves, scores on val, speed, and everything the run depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from landseg.report import figures
from landseg.report.figures import Series
from landseg.report.page import NO_VALUE, Facts, palette_css, percent, render_page
from landseg.report.scores import Entry, Prediction, class_rows
from landseg.scoring.scores import METRICS

_MAX_EVALUATIONS = 100


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
        losses: by name (`loss`, `decode.loss_ce`, `aux.loss_ce`): one value per logged iteration; `loss` is the sum.
        lr: learning rate per logged iteration.
        evaluations: in the order in which they were made. Their scores are empty where no pixel of val is labelled.
        selected_iteration: that of the evaluation which is the model's; None for the last one.
        train_pixels: labelled pixels per class in the training data; empty if not known.
        num_parameters: the number of the model's weights.
        images_per_s: mean training speed over all processes.
        seconds: wall-clock time of training.
        num_gpus: 0 on CPU.
        peak_memory_bytes: largest memory of one process: the GPU's, or on CPU the process's own.
        size_bytes: of the checkpoint.
        config: the resolved mmseg config as text.
        provenance: sections of facts: dataset, parameters, environment, versions.
        warnings: what the reader has to know before trusting a number, one sentence each.
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
    selected_iteration: int | None = None
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

    @property
    def model_evaluation(self) -> Evaluation:
        """The evaluation of the weights that became the model."""
        own = [one for one in self.evaluations if one.iteration == self.selected_iteration]
        return own[-1] if own else self.evaluations[-1]


@dataclass(frozen=True)
class Chart:
    """A chart with its title, a note, and (marker, name) of each line."""

    title: str
    note: str
    key: tuple[tuple[Markup, str], ...]
    figure: Markup


def render(report: TrainingReport) -> str:
    """Make the page.

    Returns:
        HTML, at most 5 MB.
    """
    nothing_labelled = bool(report.evaluations) and not any(one.scores for one in report.evaluations)
    if nothing_labelled:
        report = replace(report, evaluations=())
    own = report.model_evaluation.scores if report.evaluations else {}
    entry = Entry(Prediction(report.name, own), 0, report.name)
    total = sum(report.train_pixels)
    shares = [pixels / max(1, total) for pixels in report.train_pixels]
    charts = _charts(report)
    best = [_best_epoch(report, f"IoU.{name}") for name in report.classes]
    rows, ruler = class_rows(report.classes, [entry], shares)
    sections = [
        ("result", "Result", True),
        ("curves", "Curves", bool(charts)),
        ("classes", "Classes", bool(report.evaluations)),
        ("epochs", "Epochs", len(report.evaluations) > 1),
        ("config", "Config", bool(report.config)),
        ("provenance", "Provenance", bool(report.provenance)),
    ]
    return render_page(
        "training.html",
        kind="training report",
        title=report.name,
        meta=[f"run {report.run_id}", f"dataset {report.dataset}", f"config {report.config_name}"],
        sections=[(id, name) for id, name, present in sections if present],
        palette_css=palette_css(report.palette),
        report=report,
        entry=entry,
        keys=METRICS,
        verdict=_verdict(report, nothing_labelled),
        charts=charts,
        class_rows=rows,
        class_ruler=ruler,
        best=best,
        any_best=any(text != NO_VALUE for text in best),
        shown_evaluations=report.evaluations[-_MAX_EVALUATIONS:],
    )


def _verdict(report: TrainingReport, nothing_labelled: bool) -> Markup:
    """The result in one or two sentences."""
    if not report.evaluations:
        why = "no pixel of val is labelled" if nothing_labelled else "no labelled split was held out from training"
        return Markup("<b>{}</b> was not scored: {}.").format(report.name, why)
    best = max(report.evaluations, key=lambda evaluation: evaluation.scores["mIoU"])
    own, last = report.model_evaluation, report.evaluations[-1]
    text = Markup("<b>{}</b> reaches a mean IoU of <b>{} %</b> on val after {} {}.").format(
        report.name, percent(own.scores["mIoU"], 2), own.epoch, "epoch" if own.epoch == 1 else "epochs"
    )
    if own is not last:
        text += Markup(
            " These weights were selected by their score; the last ones, after epoch {}, reach {} %."
        ).format(last.epoch, percent(last.scores["mIoU"], 2))
    elif best is not own:
        text += Markup(" It was {} % after epoch {}.").format(percent(best.scores["mIoU"], 2), best.epoch)
    return text


def _best_epoch(report: TrainingReport, key: str) -> str:
    """A class's best score and its epoch, unless that is the model's."""
    known = [evaluation for evaluation in report.evaluations if key in evaluation.scores]
    if not known:
        return NO_VALUE
    best = max(known, key=lambda evaluation: evaluation.scores[key])
    if best is report.model_evaluation:
        return NO_VALUE
    return f"{percent(best.scores[key])} (epoch {best.epoch})"


def _charts(report: TrainingReport) -> list[Chart]:
    iterations = np.asarray(report.iterations, np.float64)
    charts = []
    if report.evaluations:
        charts.append(_scores_chart(report))
    if len(iterations) > 1:
        charts += [_loss_chart(report, iterations), _lr_chart(report, iterations)]
    return charts


def _scores_chart(report: TrainingReport) -> Chart:
    epochs = np.array([evaluation.epoch for evaluation in report.evaluations], np.float64)
    series = [
        Series(key, number, epochs, _percentages(report.evaluations, key), points=True)
        for number, key in enumerate(METRICS)
    ]
    values = [float(value) for line in series for value in line.y]
    x = figures.axis((), low=0, high=max(1.0, *epochs), whole=True)
    last = ", ".join(f"{line.name} {line.y[-1]:.1f}" for line in series)
    title = f"Scores on val per epoch in percent, at the end {last}"
    key = tuple((figures.swatch(line.series), line.name) for line in series)
    return Chart("Scores on val", "percent", key, figures.lines(title, series, "epoch", x, figures.axis(values)))


def _percentages(evaluations: tuple[Evaluation, ...], key: str) -> NDArray[np.float64]:
    return np.array([100 * evaluation.scores.get(key, np.nan) for evaluation in evaluations], np.float64)


def _loss_chart(report: TrainingReport, iterations: NDArray[np.float64]) -> Chart:
    names = sorted(
        report.losses, key=lambda name: name != "loss"
    )  # the sum first, its terms in the order in which they were logged
    curves = {name: np.asarray(report.losses[name], np.float64) for name in names}
    series = []
    for number, (name, values) in enumerate(curves.items()):
        series.append(Series(name, number, iterations, values, faint=True))
        series.append(Series(f"{name}, running mean", number, iterations, figures.smooth(values)))
    # A spike at the start must not flatten what follows: it leaves the chart at the top, and the note says so.
    finite = np.concatenate([values[np.isfinite(values)] for values in curves.values()] or [np.zeros(1)])
    top = float(np.quantile(finite, 0.995)) * 1.1 if len(finite) else 1.0
    y = figures.axis([0.0, top], low=0)
    beyond = int(np.sum(finite > y.high))
    broken = sum(int(np.sum(~np.isfinite(values))) for values in curves.values())
    notes = ["faint: as logged, strong: running mean"]
    notes += [f"{beyond} values lie above the chart"] if beyond else []
    notes += [f"{broken} values are not finite"] if broken else []
    ends = ", ".join(f"{name} {values[-1]:.4g}" for name, values in curves.items())
    key = tuple((figures.swatch(number), name) for number, name in enumerate(curves))
    x = figures.axis((), low=0, high=float(iterations[-1]), whole=True)
    return Chart(
        "Loss",
        "; ".join(notes),
        key,
        figures.lines(f"Loss per iteration, at the end {ends}", series, "iteration", x, y),
    )


def _lr_chart(report: TrainingReport, iterations: NDArray[np.float64]) -> Chart:
    values = np.asarray(report.lr, np.float64)
    x = figures.axis((), low=0, high=float(iterations[-1]), whole=True)
    title = f"Learning rate per iteration, from {values[0]:.3g} through {np.nanmax(values):.3g} to {values[-1]:.3g}"
    figure = figures.lines(
        title, [Series("learning rate", 0, iterations, values)], "iteration", x, figures.axis(values, low=0)
    )
    return Chart("Learning rate", "of the first parameter group", (), figure)
