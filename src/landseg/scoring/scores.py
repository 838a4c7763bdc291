"""The scores made from confusion matrices: mmsegmentation's, over the classes that occur in the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landseg.scoring.confusion import ConfusionMatrix

METRICS = ("mIoU", "mAcc", "aAcc")
"""The scores that stand for a whole prediction, in the order in which they are shown."""


def scores(confusion: ConfusionMatrix, classes: Sequence[str]) -> dict[str, float]:
    """The scores of a confusion matrix, as fractions from 0 to 1.

    A class that does not occur in the truth has no score and is left out of the means, whatever was predicted: so all
    predictions of the same tiles are scored over the same classes. (mmsegmentation counts such a class with an IoU of 0
    as soon as one pixel is predicted as it.) Pixels that were wrongly predicted as it still lower the scores of the
    classes that they belong to. Without a scored pixel there are no scores.

    Args:
        confusion: (C, C) int64.
        classes: the C class names.

    Returns:
        `mIoU`, `mAcc`, `aAcc`, and `IoU.<class>` of every class in the truth; empty where nothing was scored.
    """
    if not confusion.sum():
        return {}
    hits, truth, pred = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    union = truth + pred - hits
    iou = {name: float(hits[i] / union[i]) for i, name in enumerate(classes) if truth[i]}
    acc = [float(hits[i] / truth[i]) for i in range(len(classes)) if truth[i]]
    return {
        "mIoU": sum(iou.values()) / len(iou),
        "mAcc": sum(acc) / len(acc),
        "aAcc": float(hits.sum() / confusion.sum()),
        **{f"IoU.{name}": value for name, value in iou.items()},
    }
