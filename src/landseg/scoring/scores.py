"""The scores made from confusion matrices, with mmsegmentation's meaning of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landseg.scoring.confusion import ConfusionMatrix

METRICS = ("mIoU", "mAcc", "aAcc")
"""The scores that stand for a whole prediction, in the order in which they are shown."""


def scores(confusion: ConfusionMatrix, classes: Sequence[str]) -> dict[str, float]:
    """The scores of a confusion matrix, as fractions from 0 to 1.

    As in mmsegmentation, a class that is in neither truth nor prediction has no IoU and is left out of mIoU, and a
    class that is not in the truth is left out of mAcc. Without a scored pixel there are no scores.

    Args:
        confusion: (C, C) int64.
        classes: the C class names.

    Returns:
        `mIoU`, `mAcc`, `aAcc`, and `IoU.<class>` of every class that has one; empty where nothing was scored.
    """
    if not confusion.sum():
        return {}
    hits, truth, pred = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    union = truth + pred - hits
    iou = {name: float(hits[i] / union[i]) for i, name in enumerate(classes) if union[i]}
    acc = [float(hits[i] / truth[i]) for i in range(len(classes)) if truth[i]]
    return {
        "mIoU": sum(iou.values()) / len(iou),
        "mAcc": sum(acc) / len(acc),
        "aAcc": float(hits.sum() / confusion.sum()),
        **{f"IoU.{name}": value for name, value in iou.items()},
    }
