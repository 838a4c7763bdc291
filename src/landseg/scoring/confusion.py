"""Confusion matrices: pixels counted by true and predicted class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError

ConfusionMatrix = NDArray[np.int64]
"""(C, C) int64 pixel counts: rows are the truth, columns the prediction."""


def confusion_matrix(
    truth: NDArray[np.uint8], pred: NDArray[np.uint8], num_classes: int, ignore_index: int
) -> ConfusionMatrix:
    """Count pixels by true and predicted class.

    Args:
        truth: (H, W) uint8, class ids 0 to C - 1, or `ignore_index` where a pixel is not scored.
        pred: (H, W) uint8, class ids 0 to C - 1.
        num_classes: C.
        ignore_index: the value in `truth` that is not scored.

    Raises:
        DataError: the shapes differ, or a value is neither a class id nor `ignore_index`.
    """
    if truth.shape != pred.shape:
        raise DataError(
            "confusion matrix", f"expected truth and prediction of the same size, found {truth.shape}, {pred.shape}"
        )
    scored = truth != ignore_index
    true, predicted = truth[scored], pred[scored]
    for name, values in (("truth", true), ("prediction", predicted)):
        check_class_ids(values, num_classes, name)
    counts = np.bincount(true.astype(np.intp) * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def check_class_ids(values: NDArray[np.uint8], num_classes: int, name: str) -> None:
    """Refuse values that are no class ids.

    Raises:
        DataError: one is not below `num_classes`.
    """
    if values.size and int(values.max()) >= num_classes:
        raise DataError("confusion matrix", f"expected class ids below {num_classes}, found {values.max()} in {name}")


def class_areas(confusion: ConfusionMatrix) -> NDArray[np.int64]:
    """(3, C) int64, by class: pixels that are right, pixels of the truth, pixels of the prediction."""
    return np.stack([np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)])
