"""The section on calibration: whether models are right as often as their confidence says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from landseg.report import figures
from landseg.report.figures import TRUTH, Series
from landseg.report.page import metric, percent
from landseg.report.scores import Entry
from landseg.scoring.calibration import (
    ReliabilityCounts,
    accuracy,
    calibration_error,
    mean_confidence,
    reliability,
)

_LEAST_SHARE = 0.001
"""Bins that hold fewer of the pixels are left out of the diagram: they are all chance."""


@dataclass(frozen=True)
class CalibrationRow:
    """A model, or the ensemble, in the table.

    Attributes:
        entry: the prediction.
        error, confidence, accuracy: in percent, marked up so that programs can read them.
        finding: what they say, in a word.
    """

    entry: Entry
    error: Markup
    confidence: Markup
    accuracy: Markup
    finding: str


def calibration_rows(entries: Sequence[Entry], split: str | None) -> list[CalibrationRow]:
    """A row for each prediction whose pixels were counted."""
    return [_row(entry, counts, split) for entry, counts in _counted(entries)]


def reliability_diagram(entries: Sequence[Entry]) -> Markup:
    """Accuracy over confidence, both in percent: on the diagonal, models are right as often as they claim to be."""
    axis = figures.axis((), low=0, high=100, num_ticks=6, whole=True)
    ends = np.array([0.0, 100.0])
    series = [Series("perfectly calibrated", TRUTH, ends, ends)]
    series += [_line(entry, counts) for entry, counts in _counted(entries)]
    told = "; ".join(f"{line.name}: {_told(line)}" for line in series[1:])
    title = f"Reliability diagram: accuracy in percent over confidence in percent. {told}"
    return figures.lines(title, series, "confidence in percent", axis, axis)


def _counted(entries: Sequence[Entry]) -> list[tuple[Entry, ReliabilityCounts]]:
    found = [(entry, entry.prediction.reliability) for entry in entries]
    return [(entry, counts) for entry, counts in found if counts is not None and counts[0].any()]


def _row(entry: Entry, counts: ReliabilityCounts, split: str | None) -> CalibrationRow:
    path = f"splits.{split}.calibration.{entry.path.removeprefix('models.')}"
    error, sure, right = calibration_error(counts), mean_confidence(counts), accuracy(counts)
    assert error is not None
    assert sure is not None
    assert right is not None
    finding = "about right" if abs(sure - right) < 0.01 else "too sure" if sure > right else "not sure enough"
    return CalibrationRow(
        entry,
        metric(f"{path}.ECE", error, percent(error, 2)),
        metric(f"{path}.confidence", sure, percent(sure)),
        metric(f"{path}.accuracy", right, percent(right)),
        finding,
    )


def _line(entry: Entry, counts: ReliabilityCounts) -> Series:
    sure, right = reliability(counts)
    kept = counts[0] >= max(1.0, _LEAST_SHARE * counts[0].sum())
    return Series(entry.name, entry.series, 100 * sure[kept], 100 * right[kept], points=True)


def _told(line: Series) -> str:
    pairs: list[NDArray[np.float64]] = list(np.stack([line.x, line.y], axis=1))
    return ", ".join(f"{right:.0f} at {sure:.0f}" for sure, right in pairs)
