"""Whether a label lies where its image lies: same pixels on the ground, whatever the CRS is called."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.raw.georeference.crs import crs_of, describe_crs, transform_points
from landseg.raw.georeference.tags import Georeference, Transform

TOLERANCE_PX = 0.01
"""Grids this close are the same: programs round what they write."""


def alignment_error(
    label: Georeference, image: Georeference, size: tuple[int, int], where: str, image_where: str, ignored: int
) -> DataError | None:
    """What is wrong with where a label lies; None if it lies on its image, or either does not say where it lies.

    Args:
        label: where the label lies, as its file says.
        image: where the image lies.
        size: (height, width), which both have.
        where: the label's file.
        image_where: the image's file.
        ignored: the label value of pixels that the label does not cover once it is aligned.
    """
    if label.transform is None or image.transform is None:
        return None
    offsets = corner_offsets_px(label, image, size)
    if offsets is not None and np.abs(offsets).max() <= TOLERANCE_PX:
        return None
    found = describe_difference(label, image, size)
    origins = f"origin {_pair(_origin(label.transform))}, the image's {_pair(_origin(image.transform))}"
    advice = _advice(label, image, size, where, image_where, ignored)
    return DataError(
        where,
        f"expected a label that lies on its image, found one {found} ({origins})",
        f"align it: {advice}; or, if its pixels fit and its georeference is wrong, remove it, world files included; or "
        f"write labels: {{resample: nearest}} in dataset.yaml, which takes its nearest pixel for each of the image's",
    )


def describe_difference(label: Georeference, image: Georeference, size: tuple[int, int]) -> str:
    """How a label lies, in place of how its image does: CRS, size of pixels, offset. Both have a transform."""
    assert label.transform is not None and image.transform is not None
    offsets = corner_offsets_px(label, image, size)
    found = []
    if offsets is None or not same_crs(label, image):
        found.append(f"in {describe_crs(label.crs)} in place of {describe_crs(image.crs)}")
    label_px, image_px = _pixel_size(label.transform), _pixel_size(image.transform)
    if not np.allclose(label_px, image_px, rtol=1e-6):
        found.append(f"with pixels of {_pair(label_px, ' x ')} in place of {_pair(image_px, ' x ')}")
    if offsets is not None:
        found.append(describe_offset(offsets[0]))
    return ", ".join(found)


def corner_offsets_px(label: Georeference, image: Georeference, size: tuple[int, int]) -> NDArray[np.float64] | None:
    """How far a label's corners are from the image's, in the image's pixels.

    Args:
        label: the label's georeference, with a transform.
        image: the image's, likewise.
        size: (height, width) of both.

    Returns:
        (4, 2) float64: columns and rows, of the upper left corner first. None where the two CRS have no relation that
        is known, or the image's transform cannot be inverted.
    """
    assert label.transform is not None and image.transform is not None
    height, width = size
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], np.float64)
    a, b, c, d, e, f = label.transform
    x, y = corners @ (a, b) + c, corners @ (d, e) + f
    if not same_crs(label, image):
        assert label.crs is not None and image.crs is not None
        moved = transform_points(label.crs, image.crs, np.stack([x, y], axis=1))
        if moved is None:
            return None
        x, y = moved.T
    a, b, c, d, e, f = image.transform
    determinant = a * e - b * d
    if determinant == 0:
        return None
    x, y = x - c, y - f
    return np.stack([(e * x - b * y) / determinant, (a * y - d * x) / determinant], axis=1) - corners


def same_crs(label: Georeference, image: Georeference) -> bool:
    """Whether coordinates mean the same; a CRS that is not stated, or not known, is taken to be the other's."""
    if label.crs is None or image.crs is None or label.crs == image.crs:
        return True
    own, other = crs_of(label.crs), crs_of(image.crs)
    return own is None or other is None or bool(own == other)


def _pixel_size(transform: Transform) -> tuple[float, float]:
    a, b, _, d, e, _ = transform
    return float(np.hypot(a, d)), float(np.hypot(b, e))


def _origin(transform: Transform) -> tuple[float, float]:
    return transform[2], transform[5]


def _pair(values: tuple[float, float], separator: str = ", ") -> str:
    return separator.join(f"{value:.10g}" for value in values)


def describe_offset(offset: NDArray[np.float64]) -> str:
    """Columns and rows in words."""
    parts = [
        f"{abs(value):.2f}".rstrip("0").rstrip(".") + f" px {words[int(value < 0)]}"
        for value, words in zip(offset, (("to the right", "to the left"), ("down", "up")), strict=True)
        if abs(value) > TOLERANCE_PX / 2
    ]
    return " and ".join(parts) if parts else "with the same upper left corner"


def _advice(
    label: Georeference, image: Georeference, size: tuple[int, int], where: str, image_where: str, ignored: int
) -> str:
    """The command that resamples the label onto the image's grid."""
    assert image.transform is not None
    a, b, c, d, e, f = image.transform
    height, width = size
    target = "" if same_crs(label, image) else f" -t_srs {describe_crs(image.crs)}"
    name = shlex.quote(PurePosixPath(where).name)
    if b or d or a < 0 or e > 0 or (target and "EPSG:" not in target):
        like = shlex.quote(PurePosixPath(image_where).name)
        nodata = f"--src-nodata {ignored} --dst-nodata {ignored}"
        return f"rio warp {name} aligned.tif --like {like} --resampling nearest {nodata}"
    bounds = " ".join(f"{value:.15g}" for value in (c, f + height * e, c + width * a, f))
    return f"gdalwarp{target} -te {bounds} -ts {width} {height} -r near -dstnodata {ignored} {name} aligned.tif"
