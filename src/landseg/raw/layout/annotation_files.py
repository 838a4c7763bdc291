"""Files that may hold the labels of images in another form: polygons on the ground, or annotations in pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from landseg.contracts.errors import printable
from landseg.raw.layout.folders.layout import Layout
from landseg.raw.layout.suffixes import split_suffix
from landseg.raw.layout.tile_names import stem_of
from landseg.raw.sources.source_file import SourceFile

POLYGON_SUFFIXES = (".geojson", ".gpkg", ".shp", ".fgb")
_CVAT = {"annotations"}
"""What CVAT calls the file of all images."""
_JSON, _TEXT, _XML = ".json", ".txt", ".xml"


def patterns_of(paths: Iterable[str], suffixes: tuple[str, ...] = POLYGON_SUFFIXES) -> list[str]:
    """Files of some suffixes; where a folder has several, a pattern of them all."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path.lower().endswith(suffixes):
            folder, _, name = path.rpartition("/")
            by_folder[f"{folder}/*{split_suffix(name)[1]}" if folder else f"*{split_suffix(name)[1]}"].append(path)
    several = [pattern for pattern, found in by_folder.items() if len(found) > 1]
    if len(by_folder) > 1 and (whole := _merged(list(by_folder))):
        return [whole]
    return [*several, *(found[0] for found in by_folder.values() if len(found) == 1)]


def annotations_advice(layout: Layout, images: Iterable[SourceFile]) -> str:
    """What to write, or to do, where images have annotations in place of labels; "" where they have none."""
    if not layout.annotations and not layout.lists:
        return ""
    stems = {stem_of(file.path) for file in images}
    of_images = [path for path in layout.annotations if stem_of(path) in stems]
    found = patterns_of(of_images, (_JSON,))
    if len(whole := patterns_of(layout.annotations, (_JSON,))) == 1 or not found:
        found = whole  # what is written once holds for all splits
    if found:
        said = "in place of NAME, the class of pixels in no polygon, or ignore"
        what = f"labels: {{file: {_quoted(found[0])}, outside: NAME}} in dataset.yaml"
        return f"write {what}, with, {said}, if these are annotations of LabelMe or COCO"
    texts = [file.path for file in layout.lists if file.path.lower().endswith(_TEXT) and stem_of(file.path) in stems]
    others = texts or [path for path in of_images if path.lower().endswith(_XML)]
    what = "YOLO's" if texts else "Pascal VOC's"
    if not others:
        others, what = [path for path in layout.annotations if stem_of(path) in _CVAT], "CVAT's"
    if not others:
        return ""
    return f"export annotations such as {printable(others[0])}, if these are {what}, as COCO, which is read"


def _quoted(path: str) -> str:
    return f'"{printable(path)}"'


def _merged(patterns: Sequence[str]) -> str:
    """One pattern for files of one kind in several folders, such as those of splits; "" for files of other kinds."""
    paths = [pattern.split("/") for pattern in patterns]
    differ = [index for index, names in enumerate(zip(*paths, strict=False)) if len(set(names)) > 1]
    if len({len(path) for path in paths}) > 1 or len(paths[0]) - 1 in differ:
        return ""
    return "/".join("*" if index in differ else name for index, name in enumerate(paths[0]))
