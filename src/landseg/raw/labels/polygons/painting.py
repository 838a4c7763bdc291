"""Shapes painted onto the pixels of an image, later ones over earlier ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine

from landseg.raw.labels.polygons.annotations import runs_of
from landseg.raw.labels.rule import StagedLabel, value_counts

_NOTHING = 256
"""Where there is no shape: values are below."""
Painted = tuple[Mapping[str, Any], int]
"""A polygon as GeoJSON, or a run-length encoding; and the value of its pixels."""


def painted(
    shapes: Sequence[Painted], size: tuple[int, int], transform: Affine, outside: int, *, ignores_outside: bool
) -> StagedLabel:
    """The label that shapes make.

    A pixel belongs to the shape that holds its centre.

    Args:
        shapes: in order.
        size: (height, width).
        transform: from pixels to the polygons' coordinates.
        outside: the value of pixels in no shape.
        ignores_outside: whether that is the ignored value.
    """
    forward = _paint(shapes, size, transform)
    is_outside = forward == _NOTHING
    # Where the order makes a difference, shapes of several classes lie over each other.
    num_overlap = int(np.count_nonzero(forward != _paint(shapes[::-1], size, transform))) if len(shapes) > 1 else 0
    drawn = np.where(is_outside, outside, forward).astype(np.uint8)
    num_outside = int(np.count_nonzero(is_outside)) if ignores_outside else 0
    return StagedLabel(drawn, value_counts(drawn), False, None, num_outside, num_overlap_px=num_overlap)


def _paint(shapes: Iterable[Painted], size: tuple[int, int], transform: Affine) -> NDArray[np.uint16]:
    out = np.full(size, _NOTHING, np.uint16)
    for is_rle, group in itertools.groupby(shapes, key=lambda shape: "counts" in shape[0]):
        if not is_rle:
            rasterize(list(group), out=out, transform=transform)
            continue
        columns = out.T.copy().ravel()  # runs go down the columns
        for rle, value in group:
            for start, end in runs_of(rle):
                columns[start:end] = value
        out = np.ascontiguousarray(columns.reshape(size[::-1]).T)
    return out
