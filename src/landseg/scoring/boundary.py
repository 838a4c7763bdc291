"""Boundary IoU: how well outlines are met, which the IoU of large areas hides.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021: the IoU of a class
among the pixels of the truth that lie within a distance of its outlines, and those of the prediction within that
distance of the prediction's. The distance is 2 % of the image's diagonal and, as in the authors' code, that of a square
(the larger of the distances along rows and columns). Unlike in their code, the edge of a tile is no outline: tiles are
cut anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DILATION_RATIO = 0.02
"""The distance, as a share of the diagonal."""


def boundary_distance_px(height_px: int, width_px: int) -> int:
    """How far from an outline pixels count as its boundary; at least 1."""
    return max(1, round(DILATION_RATIO * math.hypot(height_px, width_px)))


def near_outline(labels: NDArray[np.uint8], num_classes: int, distance_px: int, every: int = 1) -> NDArray[np.bool_]:
    """Where another class lies within a square of `distance_px` in every direction.

    Args:
        labels: (H, W) uint8. Beside a pixel that is not labelled, whose value is at least C, there is no outline.
        num_classes: C.
        distance_px: half the square's side, without the pixel in its middle.
        every: look at every n-th pixel in both directions only.

    Returns:
        (ceil(H / every), ceil(W / every)) bool.
    """
    # A square holds another class where it holds two neighbours that differ, along columns or along rows.
    known = labels < num_classes
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    if not known.all():
        down &= known[1:] & known[:-1]
        across &= known[:, 1:] & known[:, :-1]
    own = 2 * distance_px + 1
    near_down = _any_within(down, (own - 1, own), distance_px, every)
    return near_down | _any_within(across, (own, own - 1), distance_px, every)


def _any_within(values: NDArray[np.bool_], window: tuple[int, int], distance_px: int, every: int) -> NDArray[np.bool_]:
    """Whether a window of so many rows and columns, from `distance_px` before each pixel on, holds any that is true."""
    # Rows first, and on those of the grid alone columns: passes over whole rows are the fast ones.
    height, width = values.shape
    padded = np.zeros((height + 2 * distance_px, width), np.bool_)  # np.pad takes as long as all the rest
    padded[distance_px : distance_px + height] = values
    rows = _any_of(padded, window[0])[::every]
    padded = np.zeros((len(rows), width + 2 * distance_px), np.bool_)
    padded[:, distance_px : distance_px + width] = rows
    return _any_of(padded, window[1], axis=1)[:, ::every]


def _any_of(values: NDArray[np.bool_], length: int, axis: Literal[0, 1] = 0) -> NDArray[np.bool_]:
    """Whether any of `length` neighbours is true, from each place that has so many on along the axis."""
    size = 1
    while size < length:
        step = min(size, length - size)
        values = values[step:] | values[:-step] if axis == 0 else values[:, step:] | values[:, :-step]
        size += step
    return values


Outlined = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""Labels, (H, W) uint8, and where they are :func:`near_outline`, (H, W) bool."""


def boundary_areas(truth: Outlined, pred: Outlined, num_classes: int) -> NDArray[np.int64]:
    """Count the pixels of boundaries.

    Args:
        truth: the truth; pixels that are not scored have a value of at least C.
        pred: the prediction.
        num_classes: C.

    Returns:
        (3, C) int64, by class: pixels in the boundaries of both, of the truth, of the prediction.
    """
    (true, near_true), (predicted, near_pred) = truth, pred
    scored = true < num_classes
    near_true, near_pred = near_true & scored, near_pred & scored
    both = near_true & near_pred & (true == predicted)
    each = (true[both], true[near_true], predicted[near_pred])
    return np.stack([np.bincount(one, minlength=num_classes) for one in each]).astype(np.int64)


def boundary_scores(areas: NDArray[np.integer[Any]], classes: Sequence[str]) -> dict[str, float]:
    """Boundary IoU, 0-1, over the classes that have an outline in the truth.

    Args:
        areas: (3, C) sums of :func:`boundary_areas`.
        classes: the C names.

    Returns:
        `mIoU` and `IoU.<class>`; empty where the truth has no outline.
    """
    both, truth, pred = areas
    iou = {f"IoU.{name}": float(both[i] / (truth[i] + pred[i] - both[i])) for i, name in enumerate(classes) if truth[i]}
    return {"mIoU": sum(iou.values()) / len(iou), **iou} if iou else {}
