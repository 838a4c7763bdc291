"""Annotations of images in pixels: which belong to which image, kept on local disk, and drawn."""

from __future__ import annotations

import functools
import json
import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from landseg.contracts.errors import DataError, printable
from landseg.contracts.label_source import LabelSource
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.labels.polygons.annotations import Annotated, read_annotations
from landseg.raw.labels.polygons.classes import staged_outside, staged_values
from landseg.raw.labels.rule import LabelRule, StagedLabel
from landseg.raw.layout.folders.names import plainest, read_folder_name
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.layout.suffixes import split_suffix

_SHOWN = 3
_FEWEST = 6
"""Numbers of a polygon with an area."""


@dataclass(frozen=True)
class Annotations:
    """The annotations of all images, in a local file. Cheap to send to other processes.

    Attributes:
        path: a text with a line of JSON for each image, and next to it an index by the images' paths.
        outside: what is staged where there is no shape.
        ignores_outside: whether that is the ignored value.
    """

    path: Path
    outside: int
    ignores_outside: bool

    def draw(self, image: str, size: tuple[int, int], where: object) -> StagedLabel:
        """The label of an image.

        Args:
            image: its path in the source.
            size: (height, width).
            where: the image, for the error line.

        Raises:
            DataError: an image of another size was annotated.
        """
        from rasterio.errors import RasterioError
        from rasterio.transform import IDENTITY

        from landseg.raw.labels.polygons.painting import painted

        offset, length = _index(self.path, self.path.stat().st_mtime_ns)[image]
        with self.path.open("rb") as file:
            file.seek(offset)
            drawn_on, file_where, shapes = json.loads(file.read(length))
        others = [drawn_on, *(shape["size"] for shape, _ in shapes if "counts" in shape)]
        for other in others:
            if other is not None and tuple(other) != size:
                found = f"{other[0]}x{other[1]} px, as {file_where} says"
                problem = f"expected annotations of {size[0]}x{size[1]} px, found those of an image of {found}"
                action = "take the image that was annotated; if its Orientation turns it, save it as it is shown"
                raise DataError(where, problem, action)
        painted_on = [(shape, value) for shape, value in shapes]
        try:
            return painted(painted_on, size, IDENTITY, self.outside, ignores_outside=self.ignores_outside)
        except (RasterioError, ValueError) as err:
            raise DataError(where, f"its annotations cannot be drawn: {err!s:.80}", "export them again") from err


@functools.lru_cache(2)
def _index(path: Path, written_ns: int) -> dict[str, tuple[int, int]]:
    del written_ns  # a file written anew has another index
    found: dict[str, tuple[int, int]] = json.loads(path.with_suffix(".index").read_text())
    return found


def read_annotated(
    files: Sequence[tuple[Path, str, str]],
    source: LabelSource,
    config: DatasetConfig,
    tiles: Mapping[str, Iterable[SourceTile]],
    scratch: Path,
    where: str,
) -> Annotations:
    """Read the annotations of all images of train and val.

    Args:
        files: each local file, its path in the source, and what it is called in error lines.
        source: which classes names mean.
        config: classes.
        tiles: the images by split.
        scratch: local folder for what was read.
        where: all the files, for error lines.

    Raises:
        DataError: a file is damaged, a name is no class, an image has no annotations, or annotations have no image.
    """
    if source.class_field is not None or source.layer is not None:
        problem = "expected no class_field or layer for LabelMe and COCO, which call classes by their names"
        raise DataError(files[0][2], problem, "remove them from labels; values says which class a name means")
    found = [entry for path, name, shown in files for entry in read_annotations(path, name, shown)]
    _check_pixels(found, where)
    names = [name for entry in found for name, _ in entry.shapes]
    meanings = dict(zip(names, staged_values(names, source, config, where, "label"), strict=True))
    target = scratch / "annotations.jsonl"
    index: dict[str, tuple[int, int]] = {}
    with target.open("wb") as out:
        for image, entry in _assigned(found, tiles, config, where).items():
            shapes = [
                (shape if isinstance(shape, dict) else _geojson(shape), meanings[name])
                for name, shape in entry.shapes
                if isinstance(shape, dict) or any(len(flat) >= _FEWEST for flat in shape)
            ]
            line = json.dumps([entry.size, printable(entry.path), shapes]).encode() + b"\n"
            index[image] = out.tell(), len(line)
            out.write(line)
    target.with_suffix(".index").write_text(json.dumps(index))
    rule = LabelRule(config)
    outside = staged_outside(source, rule)
    return Annotations(target, outside, outside == rule.ignored)


def _check_pixels(found: Sequence[Annotated], where: str) -> None:
    """Refuse coordinates that are shares of images, as of YOLO: drawn as pixels, all would lie in the first one."""
    polygons = [shape for entry in found for _, shape in entry.shapes if not isinstance(shape, dict)]
    most = max((max(flat) for shape in polygons for flat in shape if flat), default=None)
    if most is not None and most <= 1:
        problem = f"expected coordinates in pixels, found none above {most:g}, as shares of an image's sides"
        raise DataError(where, problem, "export them in pixels, or multiply x by the image's width and y by its height")


def _geojson(polygons: Sequence[Sequence[float]]) -> dict[str, object]:
    rings = [[(x, y) for x, y in zip(flat[::2], flat[1::2], strict=True)] for flat in polygons if len(flat) >= _FEWEST]
    return {"type": "MultiPolygon", "coordinates": [[[*ring, ring[0]]] for ring in rings]}


def _assigned(
    found: Sequence[Annotated], tiles: Mapping[str, Iterable[SourceTile]], config: DatasetConfig, where: str
) -> dict[str, Annotated]:
    """The annotations of each image of train and val, by its path."""
    images = [tile for split in tiles.values() for tile in split]
    stems = {_stem(tile.image.path) for tile in images}
    by_stem: dict[str, list[Annotated]] = defaultdict(list)
    for entry in found:
        by_stem[_stem_of_image(entry, stems)].append(entry)
    result: dict[str, Annotated] = {}
    missing: list[str] = []
    used: Counter[int] = Counter()
    for tile in images:
        path = tile.image.path
        of_split = [entry for entry in by_stem.get(_stem(path), ()) if _said_split(entry) in ("", tile.split)]
        candidates = _nearest(of_split, path)
        used.update(map(id, candidates))
        if not tile.shares_label:  # of test, which has no labels
            continue
        if len(candidates) > 1:
            several = " and ".join(sorted({printable(entry.path) for entry in candidates})[:_SHOWN])
            problem = f"expected annotations of {printable(path)} in one place, found {len(candidates)} in {several}"
            raise DataError(where, problem, "remove those that do not count")
        if not candidates:
            missing.append(path)
        else:
            result[path] = candidates[0]
    twice = [path for path, entry in result.items() if used[id(entry)] > 1]
    if twice:
        shown = " and ".join(map(printable, twice[:_SHOWN]))
        problem = f"expected annotations of one image each, found some that could be of several: {shown}"
        raise DataError(where, problem, "give the images names that differ, or a file of annotations in each folder")
    if missing and not used:
        named = _first([entry.path if entry.is_alone else entry.name for entry in found])
        problem = f"expected annotations called as the images, such as {_first(missing[:1])}, found those of {named}"
        raise DataError(where, problem, "take the images that they were exported with, or rename images or annotations")
    if missing:
        problem = f"expected annotations of all images, found {len(missing)} without: {_first(missing)}"
        nothing = f'{{"imagePath": "{printable(posixpath.basename(missing[0]))}", "shapes": []}} in a file of its own'
        if not any(entry.is_alone for entry in found):
            nothing = "its name among images in the file"
        action = f"annotate them, or move them to test; of an image with nothing to draw, write {nothing}"
        raise DataError(where, problem, action)
    if config.labels_without_image == "error" and (alone := [entry for entry in found if not used[id(entry)]]):
        shown = _first([entry.path if entry.is_alone else entry.name for entry in alone])
        problem = f"expected images for all annotations, found {len(alone)} of none: {shown}"
        raise DataError(where, problem, "add the images, or set labels_without_image: skip in dataset.yaml")
    return result


def _first(paths: Sequence[str]) -> str:
    return printable(", ".join(paths[:_SHOWN])) + (", ..." if len(paths) > _SHOWN else "")


def _stem(path: str) -> str:
    return unicodedata.normalize("NFC", split_suffix(posixpath.basename(path.replace("\\", "/")))[0])


def _stem_of_image(entry: Annotated, stems: set[str]) -> str:
    """What the image is called that annotations are of: as their own file, if it is about one image."""
    own, said = _stem(entry.path), _stem(entry.name)
    if not entry.is_alone or own not in stems:
        return said
    if said != own and said in stems:
        problem = f"is called after the image {own}, and says that it is about {posixpath.basename(entry.name)}"
        raise DataError(entry.where, problem, "rename it, or change its imagePath")
    return own


def _said_split(entry: Annotated) -> str:
    """The split that the path of the file tells, or that of the image in it; "" where neither does."""
    names = [*split_suffix(entry.path)[0].split("/"), *posixpath.dirname(entry.name.replace("\\", "/")).split("/")]
    if entry.is_alone:  # the file is called as the image, which says nothing
        names = posixpath.dirname(entry.path).split("/")
    splits, _ = plainest([said for name in names for said in read_folder_name(name).splits])
    return splits.pop() if len(splits) == 1 else ""


def _nearest(candidates: list[Annotated], image: str) -> list[Annotated]:
    """Those of several whose folders are most plainly those of an image; all of them where no folders tell."""
    around = _folders(image)
    num_common = [_num_common(entry, around) for entry in candidates]
    most = max(num_common, default=0)
    return [entry for entry, number in zip(candidates, num_common, strict=True) if number == most]


def _num_common(entry: Annotated, around: list[str]) -> int:
    """How many of the folders around an image tell that annotations are of it; -1 where others are told.

    The file of one image is in the same folders, and in COCO the image's name may end in the last ones. Where that has
    no folder, that of the file tells: `A/annotations.json` is about `A/train/1.png` and `train/A/1.png`.
    """
    in_name, in_path = _folders(entry.name.replace("\\", "/")), _folders(entry.path)
    if in_path == around and (entry.is_alone or not in_name):
        return len(around)
    if entry.is_alone:
        return -1
    if in_name:
        return len(around) if around[-len(in_name) :] == in_name else -1
    return len(in_path) if in_path and in_path in (around[: len(in_path)], around[-len(in_path) :]) else -1


def _folders(path: str) -> list[str]:
    """The folders around a file, but for those that tell roles."""
    return [name for name in posixpath.dirname(path).split("/") if name and not read_folder_name(name).roles]
