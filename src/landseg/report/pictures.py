"""Pictures inside a page: arrays as WebP data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landseg.report.page import RGB, class_code

S = TypeVar("S", bound=np.generic)

SIDES = (320, 256, 224, 192, 160, 128, 96, 64)
"""Longest sides to try, in pixels."""

_CODE_CELLS = 6
_CODE_SHARE = 0.75
_HEAT_LEVELS = 24
# From nearly black through violet and orange to pale yellow: lightness rises, so it is readable without colour.
_HEAT_STOPS = np.array([(12, 8, 38), (90, 24, 110), (190, 55, 82), (249, 142, 8), (252, 255, 190)], np.float64)


def shape_at(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Height and width of a picture whose longest side is at most `side` pixels."""
    factor = min(1.0, side / max(shape[:2]))
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def shrink(array: NDArray[S], side: int = SIDES[0]) -> NDArray[S]:
    """Sample the nearest pixels of a map or an image, so that a gallery needs little memory.

    Args:
        array: (H, W) or (H, W, C), any dtype.
        side: longest side of the result, in pixels; smaller arrays keep their size.

    Returns:
        A copy with the same dtype.
    """
    rows, columns = shape_at(array.shape, side)
    row = ((np.arange(rows) + 0.5) * array.shape[0] / rows).astype(np.intp)
    column = ((np.arange(columns) + 0.5) * array.shape[1] / columns).astype(np.intp)
    return np.ascontiguousarray(array[np.ix_(row, column)])


def _data_uri(picture: Image.Image, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def photo(image: NDArray[np.uint8], side: int) -> str:
    """An image tile.

    Args:
        image: (H, W, 3) uint8, RGB.
        side: longest side of the picture, in pixels.

    Returns:
        A data URI (lossy WebP).
    """
    height, width = shape_at(image.shape, side)
    picture = Image.fromarray(np.ascontiguousarray(image))
    if (height, width) != image.shape[:2]:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _data_uri(picture, quality=76, method=4)


def label_map(labels: NDArray[np.uint8], palette: Sequence[RGB], side: int) -> str:
    """A label map in its palette; values outside the palette (not labelled) are transparent.

    Args:
        labels: (H, W) uint8 class ids.
        palette: one RGB colour per class.
        side: longest side of the picture, in pixels.

    Returns:
        A data URI (lossless WebP).
    """
    table = np.zeros((256, 4), np.uint8)
    table[: len(palette), :3] = palette
    table[: len(palette), 3] = 255
    return _data_uri(Image.fromarray(table[shrink(labels, side)]), lossless=True, quality=25, method=2, exact=True)


def heat(values: NDArray[np.floating], side: int) -> str:
    """A map of values from dark (0) to pale (1).

    Args:
        values: (H, W) float 0-1.
        side: longest side of the picture, in pixels.

    Returns:
        A data URI (lossless WebP with few levels).
    """
    level = np.rint(np.clip(shrink(values, side), 0, 1) * (_HEAT_LEVELS - 1)).astype(np.uint8)
    at = np.linspace(0, len(_HEAT_STOPS) - 1, _HEAT_LEVELS)
    table = np.stack([np.interp(at, range(len(_HEAT_STOPS)), _HEAT_STOPS[:, channel]) for channel in range(3)], axis=1)
    return _data_uri(Image.fromarray(np.rint(table).astype(np.uint8)[level]), lossless=True, quality=25, method=2)


def codes(labels: NDArray[np.uint8], num_classes: int) -> list[list[str]]:
    """Class codes to write over a map: one per cell of a coarse grid, row by row; empty where no class dominates.

    Args:
        labels: (H, W) uint8 class ids.
        num_classes: number of classes.

    Returns:
        Rows of equal length.
    """
    height, width = labels.shape
    cell = max(1.0, max(height, width) / _CODE_CELLS)
    rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
    texts = []
    for band in np.array_split(labels, rows, axis=0):
        cells = []
        for block in np.array_split(band, columns, axis=1):
            counts = np.bincount(block.ravel(), minlength=256)
            top = int(counts.argmax())
            dominates = top < num_classes and counts[top] >= _CODE_SHARE * block.size
            cells.append(class_code(top, num_classes) if dominates else "")
        texts.append(cells)
    return texts


def composition(labels: NDArray[np.uint8], classes: Sequence[str]) -> str:
    """What a label map shows, in words, for readers who cannot see it: `field 61 %, road 22 %, grass 9 %`."""
    counts = np.bincount(labels.ravel(), minlength=256)[: len(classes)]
    order = [int(i) for i in np.argsort(-counts, kind="stable")[:3] if counts[i]]
    return ", ".join(f"{classes[i]} {100 * counts[i] / labels.size:.0f} %" for i in order) or "nothing labelled"
