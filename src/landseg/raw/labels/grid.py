"""Labels on the grids of images: cut out where the grids coincide, the nearest pixel where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.raw.commands import file_name, quoted
from landseg.raw.georeference.alignment import (
    TOLERANCE_PX,
    corner_offsets_px,
    describe_difference,
    describe_offset,
    same_crs,
)
from landseg.raw.georeference.crs import transform_points
from landseg.raw.georeference.tags import Georeference, Transform
from landseg.raw.labels.stored_label import StoredLabel

Read = Callable[[int, int, int, int], NDArray[Any]]
"""Pixels of a label between first and last row, first and last column: (H, W) or (H, W, B)."""
_RESAMPLE = "write labels: {resample: nearest} in dataset.yaml"
_OWN = "a label"
_MOST_READ_PX = 1 << 27
"""Pixels of a label that may be read for one image: one that is much coarser than its label would take all memory."""


def on_grid(
    read: Read,
    size: tuple[int, int],
    label: Georeference,
    image: Georeference,
    image_size: tuple[int, int],
    where: object,
    *,
    name: str = _OWN,
    nearest: bool = False,
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The pixels of a label where an image lies.

    Args:
        read: reads pixels of the label.
        size: (height, width) of the label.
        label: where it lies.
        image: where the image lies.
        image_size: (height, width) of the image.
        where: the file, for the error line.
        name: what the label is called in it.
        nearest: whether to resample where the grids do not coincide.

    Returns:
        (H, W) or (H, W, B) pixels of the label; and (H, W), True where the image lies outside of the label, None if it
        does not.

    Raises:
        DataError: one of them does not say where it lies, they do not overlap, or the grids do not coincide.
    """
    if image.transform is None or label.transform is None:
        which = "the image" if image.transform is None else name
        problem = f"expected a georeference by which to find the image in {name}, found none in {which}"
        file = file_name(where) if image.transform is None else name
        command = f"rio edit-info --crs EPSG:CODE --transform '[A, B, C, D, E, F]' {quoted(file)}"
        advice = f"give it one: {command}, or a world file"
        raise DataError(where, problem, advice)
    offsets = corner_offsets_px(label, image, image_size)
    shift = None if offsets is None else np.rint(offsets[0])
    if shift is not None and offsets is not None and np.abs(offsets - shift).max() <= TOLERANCE_PX:
        return _cut(read, size, (-int(shift[1]), -int(shift[0])), image_size, where, name)
    if not nearest:
        if offsets is not None and shift is not None and np.abs(offsets - offsets[0]).max() <= TOLERANCE_PX:
            found = f"one whose pixels lie {describe_offset(offsets[0] - shift)} of the image's"
        else:
            found = f"one {describe_difference(label, image, image_size)}"
        problem = f"expected {name} on the grid of the image, found {found}"
        file = "" if name == _OWN else f"file: {name}, "
        advice = f"to take its nearest pixel for each of the image's, write labels: {{{file}resample: nearest}}"
        raise DataError(where, problem, advice)
    rows, columns = _nearest(label, image, image_size, where, name)
    return _gather(read, size, rows, columns, where, name)


def label_on_grid(
    label: StoredLabel, own: Georeference, image: Georeference, size: tuple[int, int], where: object, *, nearest: bool
) -> StoredLabel:
    """A label of one image that is larger than it, or on another grid; unchanged where one of them lies nowhere.

    Raises:
        DataError: as :func:`on_grid`, or it covers only a part of the image and is not to be resampled.
    """
    if own.transform is None or image.transform is None:
        return label
    values, no_data = label.values, label.no_data
    if no_data is not None:
        values = np.stack([values.astype(np.int64), no_data], axis=-1)

    def read(top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        return values[top:bottom, left:right]

    cut, outside = on_grid(read, label.size, own, image, size, where, nearest=nearest)
    if outside is not None and not nearest:
        problem = f"expected a label that covers its image, found none for {np.count_nonzero(outside)} px of it"
        raise DataError(where, problem, f"cut the image to its label; or, to ignore these px, {_RESAMPLE}")
    if no_data is not None:
        cut, lacking = cut[..., 0], cut[..., 1].astype(np.bool_)
        outside = lacking if outside is None else outside | lacking
    return replace(label, values=np.ascontiguousarray(cut), no_data=outside, is_plain=False, is_cut=True)


def _cut(
    read: Read, size: tuple[int, int], first: tuple[int, int], image_size: tuple[int, int], where: object, name: str
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """A window, which may reach beyond the label."""
    top, left = (max(0, start) for start in first)
    bottom, right = (min(length, start + wanted) for length, start, wanted in zip(size, first, image_size, strict=True))
    if top >= bottom or left >= right:
        raise _outside(where, name)
    values = read(top, bottom, left, right)
    if values.shape[:2] == image_size:
        return values, None
    padding = (
        (top - first[0], image_size[0] - (bottom - first[0])),
        (left - first[1], image_size[1] - (right - first[1])),
    )
    outside = np.pad(np.zeros(values.shape[:2], np.bool_), padding, constant_values=True)
    return np.pad(values, (*padding, *(((0, 0),) * (values.ndim - 2)))), outside


def _nearest(
    label: Georeference, image: Georeference, size: tuple[int, int], where: object, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(H, W) row and column of the label's pixel that holds the centre of each of the image's pixels."""
    assert label.transform is not None and image.transform is not None
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    points = np.stack(_apply(image.transform, columns, rows), axis=-1)
    if not same_crs(label, image):
        assert label.crs is not None and image.crs is not None
        moved = transform_points(image.crs, label.crs, points)
        if moved is None:
            problem = f"expected {name} in the CRS of the image, found one {describe_difference(label, image, size)}"
            raise DataError(where, problem, "reproject it to the images' CRS")
        points = moved
    a, b, c, d, e, f = label.transform
    determinant = a * e - b * d
    if determinant == 0:
        raise DataError(where, "expected a georeference, found one whose pixels have no area", "write it again")
    x, y = points[..., 0] - c, points[..., 1] - f
    column, row = (e * x - b * y) / determinant, (a * y - d * x) / determinant
    return np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)


def _gather(
    read: Read, size: tuple[int, int], rows: NDArray[np.int64], columns: NDArray[np.int64], where: object, name: str
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    outside = (rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])
    if outside.all():
        raise _outside(where, name)
    top, left = int(rows[~outside].min()), int(columns[~outside].min())
    bottom, right = int(rows[~outside].max()) + 1, int(columns[~outside].max()) + 1
    if (bottom - top) * (right - left) > _MOST_READ_PX:
        problem = f"expected pixels of about the image's size, found {bottom - top}x{right - left} px in one image"
        raise DataError(where, problem, "resample the label to the images' pixel size")
    window = read(top, bottom, left, right)
    inside_rows, inside_columns = np.where(outside, top, rows) - top, np.where(outside, left, columns) - left
    return window[inside_rows, inside_columns], outside if outside.any() else None


def _apply(
    transform: Transform, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b, c, d, e, f = transform
    return a * columns + b * rows + c, d * columns + e * rows + f


def _outside(where: object, name: str) -> DataError:
    return DataError(where, f"expected {name} to cover the image, found none of it there", "move the image to test")
