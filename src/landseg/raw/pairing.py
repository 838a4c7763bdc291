"""Pairs of image and label, and the files that belong to no pair."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import DataError
from landseg.contracts.names import MAX_TILE_ID_BYTES
from landseg.raw.dataset_yaml import FILE_NAME
from landseg.raw.findings import Finding
from landseg.raw.sources import LAYOUT_HINT, Source, SourceFile
from landseg.raw.suffixes import SIDECAR_SUFFIXES, SUFFIXES
from landseg.raw.tiff.decoding import MAX_FILE_BYTES

LABELLED_SPLITS = ("train", "val")
_JOB_BYTES = 4 << 20
_JOB_TILES = 32


@dataclass(frozen=True, slots=True)
class SourceTile:
    """An image with its label (None in an unlabelled split)."""

    split: str
    id: str
    image: SourceFile
    label: SourceFile | None

    @property
    def size_bytes(self) -> int:
        """Bytes of image and label together."""
        return self.image.size_bytes + (self.label.size_bytes if self.label else 0)


@dataclass
class Pairing:
    """The tiles of a source, split by split in order of id, and what there is to say about its files."""

    tiles: dict[str, list[SourceTile]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def jobs(tiles: Iterable[SourceTile]) -> Iterator[list[SourceTile]]:
    """Consecutive tiles for one process at a time, a few megabytes each."""
    job: list[SourceTile] = []
    size = 0
    for tile in tiles:
        if job and (size + tile.size_bytes > _JOB_BYTES or len(job) >= _JOB_TILES):
            yield job
            job, size = [], 0
        job.append(tile)
        size += tile.size_bytes
    if job:
        yield job


def pair(source: Source, files: Sequence[SourceFile]) -> Pairing:
    """Pair images and labels by stem; collect everything that does not fit."""
    result = Pairing()
    found: dict[tuple[str, str], dict[str, SourceFile]] = defaultdict(dict)
    present = source.folders()
    unused: list[str] = []
    for file in files:
        parts = file.path.split("/")  # not pathlib, which interns every name
        if any(part.startswith((".", "__")) for part in parts):
            continue
        split = parts[0] if len(parts) > 1 and parts[0] in SPLITS else ""
        present |= {split} - {""}
        role = parts[1] if split and len(parts) == 3 else ""
        stem, dot, suffix = parts[-1].rpartition(".")
        stem = unicodedata.normalize("NFC", stem)  # macOS writes "é" as two characters
        if (dot + suffix).lower() not in SUFFIXES.get(role, ()):
            if file.path != FILE_NAME:
                unused.append(_readable(file.path))
            continue
        if problem := _file_problem(file, stem, found[split, role].get(stem)):
            where = source.where(_readable(file.path))
            result.findings.append(Finding.of(DataError(where, *problem), split, _readable(stem)))
        else:
            found[split, role][stem] = file
    if not present:
        error = DataError(source.uri, f"expected folders {', '.join(SPLITS)}, found none of them", LAYOUT_HINT)
        result.findings.append(Finding.of(error))
    for split in SPLITS:
        if split in present:
            result.tiles[split] = _pair_split(source, split, found[split, "images"], found[split, "labels"], result)
    if worth_telling := [path for path in unused if not path.lower().endswith(SIDECAR_SUFFIXES)]:
        one = len(worth_telling) == 1
        what = "1 other file is not used:" if one else f"{len(worth_telling)} other files are not used, the first is"
        result.findings.append(Finding.note(f"{what} {worth_telling[0]}"))
    return result


def _readable(path: str) -> str:
    """A path with everything that cannot be printed, undecodable bytes included, written as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in path)


def _file_problem(file: SourceFile, stem: str, other: SourceFile | None) -> tuple[str, str] | None:
    if other is not None:
        return f"{other.path} has the same stem", "one image and one label per tile"
    if not file.path.isprintable() or "\\" in stem:
        return "the file name holds characters that are not allowed", "rename it"
    if (size := len(stem.encode())) > MAX_TILE_ID_BYTES:
        problem = f"expected a file name of at most {MAX_TILE_ID_BYTES} bytes without its extension, found {size}"
        return problem, "rename it"
    if file.size_bytes > MAX_FILE_BYTES:
        return f"expected a file of at most {MAX_FILE_BYTES >> 20} MiB, found {file.size_bytes >> 20} MiB", "cut it"
    return None


def _pair_split(
    source: Source, split: str, images: dict[str, SourceFile], labels: dict[str, SourceFile], result: Pairing
) -> list[SourceTile]:
    if not images:
        where, problem = source.where(f"{split}/images"), "empty split: expected *.tif images, found none"
        result.findings.append(Finding.of(DataError(where, problem, "add images, or remove the folder"), split))
    labelled = split in LABELLED_SPLITS or bool(labels)
    tiles = []
    for tile_id in sorted(images.keys() | labels.keys()):
        image, label = images.get(tile_id), labels.get(tile_id)
        if image is not None and (label is not None or not labelled):
            tiles.append(SourceTile(split, tile_id, image, label))
            continue
        if image is not None:
            error = DataError(
                source.where(image.path),
                f"image without label: expected {split}/labels/{tile_id}.png",
                f"add the label, or {'move the image to test' if split != 'test' else 'remove all labels of test'}",
            )
        else:
            error = DataError(
                source.where(labels[tile_id].path),
                f"label without image: expected {split}/images/{tile_id}.tif",
                "add the image, or remove the label",
            )
        result.findings.append(Finding.of(error, split, tile_id))
    return tiles
