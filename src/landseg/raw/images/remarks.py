"""Remarks about an image: nothing is wrong, but its map may surprise whoever does not know."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import tifffile
from PIL import Image

from landseg.contracts.tile import MAX_CONTROL_POINTS
from landseg.raw.georeference.tags import Georeference, count_control_points
from landseg.raw.images.band_tags import BandTags, other_tags

_ORIENTATION = 274
_AS_STORED, _MOST = 1, 8
_JPEG_MAGIC = b"\xff\xd8\xff"


class Remark(NamedTuple):
    """Something to know about an image, or about a file next to it or its label (`path`)."""

    problem: str
    path: str = ""
    action: str = ""
    severity: Literal["warning", "note"] = "note"


PALETTE_EXPANDED = Remark("its values are indexes of a palette: the palette's red, green and blue take their place")


def remarks_on_sidecars(problems: Iterable[tuple[str, str]]) -> tuple[Remark, ...]:
    """That files next to an image or its label, by path, have problems."""
    return tuple(Remark(f"{problem}; it is left out", path) for path, problem in problems)


def about_bands(found: BandTags, expected: BandTags, bands: Sequence[int]) -> list[Remark]:
    """That an image's selected bands, 1-based, are not those of most images, as the files say."""
    if not (problem := other_tags(found, expected, bands)):
        return []
    return [Remark(problem, action="if the files are right, write it with the bands of the others", severity="warning")]


def about_place(place: Georeference, page: tifffile.TiffPage | None) -> list[Remark]:
    """That an image has control points that cannot be kept, and nothing else that says where it lies."""
    if place.transform is not None or place.control_points or page is None:
        return []
    if not (num_points := count_control_points(page)):
        return []
    problem = (
        f"expected at most {MAX_CONTROL_POINTS} ground control points, all of them numbers, found {num_points}, which "
        "are not kept: its map will have no place"
    )
    return [Remark(problem, action="gdalwarp gives the image a grid")]


def image_orientation(data: bytes | memoryview, page: tifffile.TiffPage | None) -> int:
    """How an image is to be shown turned or mirrored; 1 as it is stored."""
    return orientation_of(page) if page is not None else _of_jpeg(data)


def about_orientation(orientation: int) -> list[Remark]:
    """That an image is to be shown turned or mirrored. Its pixels are taken as they are stored, as GDAL takes them."""
    if orientation == _AS_STORED:
        return []
    return [_turned(orientation, "a label must fit the pixels as stored")._replace(severity="warning")]


def about_label_orientation(orientation: int, path: str) -> tuple[Remark, ...]:
    """The same of a label, in the file at a path."""
    if orientation == _AS_STORED:
        return ()
    return (_turned(orientation, "they must fit the image's pixels as stored")._replace(path=path),)


def orientation_of(page: tifffile.TiffPage) -> int:
    """How a TIFF is to be shown turned or mirrored; 1 as it is stored."""
    found = page.tags.valueof(_ORIENTATION, _AS_STORED)
    return int(found) if isinstance(found, int) and _AS_STORED < found <= _MOST else _AS_STORED


def _turned(orientation: int, action: str) -> Remark:
    problem = f"its Orientation is {orientation}, turned or mirrored: pixels are read as stored, as GDAL reads them"
    return Remark(problem, action=f"{action}, not as a viewer shows them")


def _of_jpeg(data: bytes | memoryview) -> int:
    if data[: len(_JPEG_MAGIC)] != _JPEG_MAGIC:
        return _AS_STORED
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            found = image.getexif().get(_ORIENTATION, _AS_STORED)
            return int(found) if _AS_STORED < int(found) <= _MOST else _AS_STORED
    except Exception:  # damaged metadata of an image that could be decoded
        return _AS_STORED
