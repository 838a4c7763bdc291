"""Polygons in pixels, as annotation programs write them: LabelMe, a JSON for each image, and COCO, one for many.

Coordinates count from the upper left corner of the image, so that (0.5, 0.5) is the centre of the first pixel.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landseg.contracts.errors import DataError
from landseg.raw.labels.polygons.files import listed, shortened
from landseg.raw.sources.file_start import wrong_content

_MAX_BYTES = 1 << 30
_HEAD_BYTES = 1 << 16
_MOST_PX = 1e7
"""No image is as large."""
_GEOJSON_TYPES = (
    *("FeatureCollection", "Feature", "GeometryCollection"),
    *("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon"),
)
_COCO = ("images", "annotations")
_TELLING = re.compile(
    rf'"type"\s*:\s*"(?P<geojson>{"|".join(_GEOJSON_TYPES)})"|"(?:shapes|{"|".join(_COCO)})"\s*:\s*\['.encode()
)
"""What comes first in a file tells what it is: names and types deeper inside are the user's."""
_OTHERS = {
    "_via_img_metadata": "VGG Image Annotator's: export them as COCO",
    "regions": "VGG Image Annotator's: export them as COCO",
    "features": "xView2's: landseg reads its targets, which are images",
}
"""Keys of other programs' files, and what to do about them."""
_AGAIN = "copy or export the file again"
Shape = tuple[str, list[list[float]] | dict[str, Any]]
"""The name of a class; and polygons, each as x, y, x, y, ...; or a run-length encoding."""


@dataclass(frozen=True)
class Annotated:
    """What a file says of one image.

    Attributes:
        where: the file, for error lines.
        path: of the file, in the source.
        name: what the image is called in it, "" where it does not say.
        size: (height, width) of the image that was annotated; None where it does not say.
        shapes: in the order in which they are drawn.
        is_alone: whether the file is about this image alone.
    """

    where: str
    path: str
    name: str
    size: tuple[int, int] | None
    shapes: list[Shape]
    is_alone: bool


def is_annotations(path: Path) -> bool:
    """Whether a file is not GeoJSON, but JSON of another kind."""
    if path.suffix.lower() not in (".json", ".geojson") or path.stat().st_size > _MAX_BYTES:
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return False
    if telling := _TELLING.search(head):
        return telling["geojson"] is None
    try:  # the whole, which is then parsed again to be read: few files come to this
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return not (isinstance(document, dict) and document.get("type") in _GEOJSON_TYPES)


def read_annotations(file: Path, path: str, where: str) -> Iterator[Annotated]:
    """What a file says of its images.

    Args:
        file: a local file.
        path: of the file in the source.
        where: the file, for the error line.

    Raises:
        DataError: neither LabelMe nor COCO, or it holds something other than polygons.
    """
    data = file.read_bytes()
    if error := wrong_content(data, where, "annotations of LabelMe or COCO"):
        raise error
    try:
        document = json.loads(data)
        if isinstance(document, dict) and isinstance(document.get("shapes"), list):
            yield _labelme(document, path, where)
        elif isinstance(document, dict) and all(isinstance(document.get(key), list) for key in _COCO):
            yield from _coco(document, path, where)
        else:
            raise _unknown(document, where)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as err:
        problem = f"expected annotations of LabelMe or COCO, found damaged ones: {err!r:.80}"
        raise DataError(where, problem, _AGAIN) from err


def _unknown(document: object, where: str) -> DataError:
    problem = "expected polygons as GeoJSON, LabelMe or COCO, found JSON of another kind"
    if not isinstance(document, dict):
        return DataError(where, problem, "export them as COCO")
    inner = next(iter(document.values()), None)
    keys = {*document, *(inner if isinstance(inner, dict) else ())}
    action = next((action for key, action in _OTHERS.items() if key in keys), "export them as COCO")
    return DataError(where, f"{problem}, with {listed(map(str, document))}"[:400], action)


def _labelme(document: Mapping[str, Any], path: str, where: str) -> Annotated:
    shapes: list[Shape] = []
    others: Counter[str] = Counter()
    for shape in document["shapes"]:
        kind, points = shape.get("shape_type") or "polygon", shape["points"]
        flat = _flat([value for x, y in points for value in (x, y)])
        if kind == "rectangle" and len(flat) == 4:
            left, top, right, bottom = flat
            flat = [left, top, right, top, right, bottom, left, bottom]
        elif kind != "polygon":
            others[str(kind)] += 1
            continue
        shapes.append((str(shape["label"]), [flat]))
    if others:
        found = ", ".join(f"{count} {shortened(kind)}" for kind, count in others.most_common(5))
        problem = f"expected polygons and rectangles, found shapes of other kinds: {found}"
        raise DataError(where, problem, "draw them as polygons")
    size = document.get("imageHeight"), document.get("imageWidth")
    known = (int(size[0]), int(size[1])) if size[0] and size[1] else None
    return Annotated(where, path, str(document.get("imagePath") or ""), known, shapes, is_alone=True)


def _coco(document: Mapping[str, Any], path: str, where: str) -> Iterator[Annotated]:
    names = {category["id"]: str(category["name"]) for category in document.get("categories", ())}
    shapes: dict[Any, list[Shape]] = {image["id"]: [] for image in document["images"]}
    num_boxes = 0
    for annotation in document["annotations"]:
        drawn, image, category = annotation.get("segmentation"), annotation["image_id"], annotation["category_id"]
        if image not in shapes:
            raise DataError(where, f"expected annotations of images in the file, found one of image {image}", _AGAIN)
        if category not in names:
            raise DataError(where, f"expected annotations of its categories, found category {category}", _AGAIN)
        if not drawn:
            num_boxes += 1
        elif isinstance(drawn, dict):
            shapes[image].append((names[category], _run_lengths(drawn)))
        else:
            polygons = drawn if isinstance(drawn[0], list) else [drawn]
            shapes[image].append((names[category], [_flat(numbers) for numbers in polygons]))
    if num_boxes:
        problem = f"expected polygons of all objects, found {num_boxes} with a box alone"
        raise DataError(where, problem, "draw their outlines, or remove them from annotations")
    for image in document["images"]:
        size = (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
        yield Annotated(where, path, str(image["file_name"]), size, shapes[image["id"]], is_alone=False)


def _flat(numbers: Sequence[Any]) -> list[float]:
    """The coordinates of a polygon: x, y, x, y, ..."""
    flat = [float(number) for number in numbers]
    if len(flat) % 2 or not all(abs(number) <= _MOST_PX for number in flat):
        raise ValueError("coordinates that are none")
    return flat


def _run_lengths(encoded: Mapping[str, Any]) -> dict[str, Any]:
    height, width = (_length(side) for side in encoded["size"])
    counts = _counts(encoded["counts"])
    if sum(counts) != height * width:
        raise ValueError("a run-length encoding of another size")
    return {"size": [height, width], "counts": counts}


def _counts(counts: Any) -> list[int]:
    """Lengths of runs without and with the object, by turns, down the columns; COCO packs them into a text as well."""
    if isinstance(counts, list):
        return [_length(count) for count in counts]
    found: list[int] = []
    value = shift = 0
    for char in str(counts):
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise ValueError("a run-length encoding that is none")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        found.append(_length(value + (found[-2] if len(found) > 2 else 0)))
        value = shift = 0
    return found


def _length(count: Any) -> int:
    if int(count) < 0:
        raise ValueError("a run of negative length")
    return int(count)


def runs_of(rle: Mapping[str, Sequence[int]]) -> Iterator[tuple[int, int]]:
    """First and last + 1 of the pixels of a run-length encoding, counted down the columns."""
    ends = list(itertools.accumulate(rle["counts"]))
    return zip(ends[::2], ends[1::2], strict=False)
