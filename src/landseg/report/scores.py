"""Tables of scores: of the models side by side, of each class, and of the classes that are confused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from landseg.report import figures, pictures
from landseg.report.figures import Axis, Mark
from landseg.report.page import count, metric, percent
from landseg.scoring.calibration import ReliabilityCounts
from landseg.scoring.intervals import Interval

MAX_MATRIX_CLASSES = 40
"""Larger confusion matrices are drawn as pictures."""
MAX_MATRIX_CELLS = 12_000
"""The most cells of all matrices of a page together; beyond, only the last matrix (the ensemble's) is shown."""
NUM_CONFUSIONS = 10


@dataclass(frozen=True, eq=False)
class Prediction:
    """One model's predictions, or the ensemble's.

    Attributes:
        name: the model's name in the run, e.g. `swin`; `ensemble` for the ensemble.
        scores: `mIoU`, `mAcc`, `aAcc` and `IoU.<class>` as fractions 0-1, without classes that are absent from the
            truth; empty if there are no labels.
        confusion: (C, C) int64, rows truth, columns prediction; None if there are no labels.
        intervals: by the same keys as `scores`: low and high end of the confidence interval, if known.
        weight: the model's weight in the average; None for the ensemble.
        note: what has to be known of all its scores, e.g. `trained on val`; empty if nothing.
        reliability: (3, B) int64, counts of :mod:`landseg.scoring.calibration`; None if not counted.
        boundary: boundary IoU by the keys `mIoU` and `IoU.<class>`, 0-1; empty if not known.
    """

    name: str
    scores: Mapping[str, float] = field(default_factory=dict)
    confusion: NDArray[np.int64] | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    weight: float | None = None
    note: str = ""
    reliability: ReliabilityCounts | None = None
    boundary: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A prediction as an entry of tables and charts.

    Attributes:
        prediction: the prediction.
        series: its number in charts.
        path: where `summary.json` holds its scores, e.g. `models.swin`.
    """

    prediction: Prediction
    series: int
    path: str

    @property
    def name(self) -> str:
        """The prediction's name."""
        return self.prediction.name

    @property
    def label(self) -> Markup:
        """The name, with what has to be known of all its scores."""
        note = self.prediction.note
        return Markup('{} <span class="note">({})</span>').format(self.name, note) if note else escape(self.name)

    def get(self, key: str) -> float | None:
        """A score, or None if there is none."""
        return self.prediction.scores.get(key)

    def cell(self, key: str, digits: int = 1) -> Markup:
        """A score in percent, marked up so that programs can read it."""
        return metric(f"{self.path}.{key}", self.get(key), percent(self.get(key), digits))

    def mark(self, key: str, with_interval: bool = True) -> list[Mark]:
        """The score's mark in a chart; no mark if there is no score."""
        value = self.get(key)
        interval = self.prediction.intervals.get(key) if with_interval else None
        return [] if value is None else [Mark(self.name, self.series, value, interval)]

    @property
    def marker(self) -> Markup:
        """The series' shape."""
        return figures.marker(self.series)


@dataclass(frozen=True)
class ClassRow:
    """One class in the per-class table.

    Attributes:
        class_id: the class.
        share: share of the scored pixels; None if not known.
        dots: the chart.
        cells: one score per entry.
        best: position of the best entry; None where they tie or have no score.
        gain: last entry's score minus the best of the others; None where one is missing.
        precision, recall, f1: of the last entry; None where not known, or where the class does not occur in the truth.
        boundary: boundary IoU of the last entry; None where the truth has no outline of the class.
    """

    class_id: int
    share: float | None
    dots: Markup
    cells: tuple[Markup, ...]
    best: int | None
    gain: float | None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    boundary: float | None = None


def score_axis(entries: Sequence[Entry], keys: Sequence[str], with_interval: Sequence[Entry]) -> Axis:
    """An axis on which the entries' scores can be told apart, with room for the intervals of some of them."""
    spread = [value for entry in entries for key in keys if (value := entry.get(key)) is not None]
    spread += [end for entry in with_interval for key in keys for end in entry.prediction.intervals.get(key, ())]
    if not spread:
        return figures.axis((), 0, 1)
    margin = max(0.01, 0.03 * (max(spread) - min(spread)))
    return figures.axis([max(0.0, min(spread) - margin), min(1.0, max(spread) + margin)], num_ticks=7)


def class_rows(
    classes: Sequence[str], entries: Sequence[Entry], shares: Sequence[float], *, compared: bool = True
) -> tuple[list[ClassRow], Markup]:
    """Per-class IoU in falling order of the last entry's, classes without one at the end.

    Args:
        classes: class names in class-id order.
        entries: the ensemble last.
        shares: share of the scored pixels per class; empty if not known.
        compared: whether the entries' scores compare.

    Returns:
        The rows, and the ruler of their chart.
    """
    axis = score_axis(entries, [f"IoU.{name}" for name in classes], entries[-1:])
    rows = []
    for class_id, name in enumerate(classes):
        key = f"IoU.{name}"
        values = [entry.get(key) for entry in entries]
        known = [value for value in values if value is not None]
        marks = [mark for entry in entries for mark in entry.mark(key, with_interval=entry is entries[-1])]
        top = max(known, default=0.0)
        complete = compared and len(entries) > 1 and len(known) == len(values)
        rows.append(
            ClassRow(
                class_id=class_id,
                share=shares[class_id] if len(shares) else None,
                dots=figures.dots(marks, axis, percent),
                cells=tuple(entry.cell(key) for entry in entries),
                best=values.index(top) if compared and len(known) > 1 and known.count(top) == 1 else None,
                gain=known[-1] - max(known[:-1]) if complete else None,
                boundary=entries[-1].prediction.boundary.get(key),
                **_rates(entries[-1].prediction.confusion, class_id),
            )
        )
    last = entries[-1]
    rows.sort(key=lambda row: -last.prediction.scores.get(f"IoU.{classes[row.class_id]}", -1.0))
    return rows, figures.ruler(axis, lambda value: percent(value, 0))


def _rates(confusion: NDArray[np.int64] | None, class_id: int) -> dict[str, float | None]:
    """Precision, recall and F1 of a class that occurs in the truth; precision is not known where none is predicted."""
    if confusion is None or not confusion[class_id].sum():
        return {}
    right = int(confusion[class_id, class_id])
    truth, predicted = int(confusion[class_id].sum()), int(confusion[:, class_id].sum())
    precision = right / predicted if predicted else None
    return {"precision": precision, "recall": right / truth, "f1": 2 * right / (truth + predicted)}


@dataclass(frozen=True)
class MatrixCell:
    """A cell of a confusion matrix: its shade 0-1, text, hover text and classes of the style sheet."""

    shade: str
    text: str
    title: str
    kind: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix normalised by row; `picture` in place of `rows` where there are too many classes to read."""

    entry: Entry
    rows: tuple[tuple[MatrixCell, ...], ...]
    totals: tuple[str, ...]
    picture: str


def matrices(classes: Sequence[str], entries: Sequence[Entry]) -> list[Matrix]:
    """The matrices of all entries, or only the last one's if all would be too much for a page."""
    with_matrix = [entry for entry in entries if entry.prediction.confusion is not None]
    if len(with_matrix) * len(classes) ** 2 > MAX_MATRIX_CELLS:
        with_matrix = with_matrix[-1:]
    return [_matrix(classes, entry) for entry in with_matrix]


def _matrix(classes: Sequence[str], entry: Entry) -> Matrix:
    confusion = entry.prediction.confusion
    assert confusion is not None
    totals = confusion.sum(axis=1)
    share = confusion / np.maximum(totals, 1)[:, None]
    texts = tuple(count(total) for total in totals)
    if len(classes) > MAX_MATRIX_CLASSES:
        side = max(pictures.SIDES[0], len(classes))
        return Matrix(entry, (), texts, pictures.heat(share, side))
    rows = tuple(
        tuple(_cell(classes, i, j, int(confusion[i, j]), float(share[i, j])) for j in range(len(classes)))
        for i in range(len(classes))
    )
    return Matrix(entry, rows, texts, "")


def _cell(classes: Sequence[str], truth: int, prediction: int, pixels: int, share: float) -> MatrixCell:
    # A jump at one half, because on the shades between neither dark nor light text is legible.
    shade = share if share < 0.5 else 0.7 + 0.6 * (share - 0.5)
    kinds = ["hi"] if share >= 0.5 else ["lo"] if share < 0.005 else []
    title = f"{classes[truth]} predicted as {classes[prediction]}: {percent(share, 2)} % ({count(pixels)} pixels)"
    text = percent(share, 0) if pixels else ""
    return MatrixCell(f"{shade:.2f}", text, title, " ".join([*kinds, *(["diagonal"] if truth == prediction else [])]))


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are confused: pixels of one that were predicted as the other."""

    truth: int
    prediction: int
    pixels: int
    share_of_class: float
    share_of_errors: float


def largest_confusions(confusion: NDArray[np.int64]) -> list[ConfusedPair]:
    """The pairs of classes that account for the most wrong pixels, at most ten.

    Args:
        confusion: (C, C) int64, rows truth, columns prediction.
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    errors, totals = int(wrong.sum()), confusion.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSIONS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    return [
        ConfusedPair(i, j, int(wrong[i, j]), float(wrong[i, j] / totals[i]), float(wrong[i, j] / errors))
        for i, j in pairs
        if wrong[i, j]
    ]
