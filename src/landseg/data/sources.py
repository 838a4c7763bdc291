"""Raw datasets: where the files are, and which image belongs to which label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from landseg import storage
from landseg.data.manifest import SPLITS
from landseg.data.schema import FILE_NAME
from landseg.data.tiles import MAX_FILE_BYTES
from landseg.errors import DataError, ObjectNotFoundError

IMAGE_SUFFIXES = (".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
LABELLED_SPLITS = ("train", "val")
_MAX_ID = 200
_BESIDE = (".xml", ".ovr", ".tfw", ".wld", ".tifw", ".pgw", ".pngw", ".txt", ".md", ".json")
"""Files that GIS programs and people put beside images; they are no tiles."""


@dataclass(frozen=True)
class SourceFile:
    """A file of a source: its path relative to the source, and its size."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Source:
    """A raw dataset in a folder or below an `s3://` prefix. Cheap to send to worker processes."""

    uri: str

    def where(self, path: str) -> str:
        """The full path or URI of a file, as error lines name it."""
        return storage.join(self.uri, path)

    def read(self, path: str) -> bytes:
        """The bytes of a file."""
        return storage.get_bytes(self.where(path))

    def files(self) -> list[SourceFile]:
        """All files, sorted by path.

        Raises:
            DataError: there is no such dataset.
        """
        if not storage.is_s3(self.uri) and not Path(self.uri).is_dir():
            raise DataError(self.uri, "no such dataset folder", "docs/contracts.md shows the layout")
        prefix = self.uri.rstrip("/") + "/"
        found = [SourceFile(info.uri.removeprefix(prefix), info.size_bytes) for info in storage.list_objects(self.uri)]
        if not found:
            raise DataError(self.uri, "no such dataset, or an empty one", "docs/contracts.md shows the layout")
        return found

    def config(self) -> bytes:
        """The bytes of `dataset.yaml`.

        Raises:
            DataError: there is none.
        """
        try:
            return self.read(FILE_NAME)
        except ObjectNotFoundError as err:
            raise DataError(self.uri, f"has no {FILE_NAME}", "docs/contracts.md shows what it holds") from err


@dataclass
class Pairing:
    """The tiles of a source, split by split in order of id, and what is wrong with its files."""

    tiles: dict[str, list[SourceTile]] = field(default_factory=dict)
    problems: list[DataError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_source(uri: str) -> Source:
    """The source behind `--source`; a local path is made absolute."""
    if storage.is_s3(uri):
        return Source(uri.rstrip("/"))
    return Source(str(Path(uri).resolve()))


def pair(source: Source, files: Sequence[SourceFile]) -> Pairing:
    """Pair images and labels by stem; collect everything that does not fit."""
    result = Pairing()
    found: dict[tuple[str, str], dict[str, SourceFile]] = defaultdict(dict)
    present: set[str] = set()
    unused: list[str] = []
    for file in files:
        path = PurePosixPath(file.path)
        if path.name.startswith(".") or any(part.startswith((".", "__")) for part in path.parts[:-1]):
            continue
        split = path.parts[0] if len(path.parts) > 1 else ""
        if split in SPLITS:
            present.add(split)
        role = path.parts[1] if len(path.parts) == 3 and split in SPLITS else ""
        suffixes = {"images": IMAGE_SUFFIXES, "labels": LABEL_SUFFIXES}.get(role, ())
        if path.suffix.lower() not in suffixes:
            if file.path != FILE_NAME:
                unused.append(file.path)
            continue
        if problem := _file_problem(file, path):
            result.problems.append(DataError(source.where(file.path), *problem))
            continue
        tiles = found[split, role]
        if path.stem in tiles:
            result.problems.append(
                DataError(
                    source.where(file.path),
                    f"{tiles[path.stem].path} has the same stem",
                    "one image and one label per tile",
                )
            )
            continue
        tiles[path.stem] = file
    if not present:
        result.problems.append(DataError(source.uri, f"expected folders {', '.join(SPLITS)}, found none of them"))
    for split in SPLITS:
        if split in present:
            result.tiles[split] = _pair_split(source, split, found[split, "images"], found[split, "labels"], result)
    if tell := [path for path in unused if not path.lower().endswith(_BESIDE)]:
        result.notes.append(f"{len(tell)} other files are not used, {tell[0]} the first")
    return result


def _file_problem(file: SourceFile, path: PurePosixPath) -> tuple[str, str] | None:
    if not file.path.isprintable() or "\\" in path.stem:
        return "the file name holds characters that are not allowed", "rename it"
    if len(path.stem) > _MAX_ID:
        return f"expected a file name of at most {_MAX_ID} characters, found {len(path.stem)}", "rename it"
    if file.size_bytes > MAX_FILE_BYTES:
        return f"expected a file of at most {MAX_FILE_BYTES >> 20} MiB, found {file.size_bytes >> 20} MiB", "cut it"
    return None


def _pair_split(
    source: Source, split: str, images: dict[str, SourceFile], labels: dict[str, SourceFile], result: Pairing
) -> list[SourceTile]:
    if not images:
        result.problems.append(
            DataError(source.where(f"{split}/images"), "empty split: expected *.tif images, found none", "remove it")
        )
    labelled = split in LABELLED_SPLITS or bool(labels)
    tiles = []
    for tile_id in sorted(images.keys() | labels.keys()):
        image, label = images.get(tile_id), labels.get(tile_id)
        if image is None and label is not None:
            result.problems.append(
                DataError(source.where(label.path), f"label without image: expected {split}/images/{tile_id}.tif")
            )
        elif image is not None and label is None and labelled:
            result.problems.append(
                DataError(
                    source.where(image.path),
                    f"image without label: expected {split}/labels/{tile_id}.png",
                    "add the label, or move the image to test",
                )
            )
        elif image is not None:
            tiles.append(SourceTile(split, tile_id, image, label))
    return tiles
