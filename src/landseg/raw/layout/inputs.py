"""Images to be labelled: files, folders, prefixes and archives in any layout, as the tiles of the split `test`."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from landseg import storage
from landseg.contracts.errors import DataError
from landseg.contracts.names import MAX_TILE_ID_BYTES
from landseg.raw.compact_list import in_order
from landseg.raw.config.dataset_yaml import FILE_NAME, DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.georeference.sidecars import sidecar_names
from landseg.raw.layout.file_problems import mask_files, too_large
from landseg.raw.layout.listing import RawDataset
from landseg.raw.layout.pairing import Pairing
from landseg.raw.layout.source_tiles import SourceTile, tile_list
from landseg.raw.layout.suffixes import IMAGE_SUFFIXES, LABEL_SUFFIXES, MASK_SUFFIX, headerless, split_suffix
from landseg.raw.sources.archives import open_source
from landseg.raw.sources.source import FolderSource, PrefixSource, Source, fingerprint_of, stamp_of, version_of
from landseg.raw.sources.source_file import SourceFile, file_list, visible

SPLIT: Final = "test"
_LABELS = "labels"


@dataclass(frozen=True)
class _OneFile(FolderSource):
    """A single file of a folder, with the files that belong to it."""

    name: str

    def files(self) -> Sequence[SourceFile]:
        """See :meth:`Source.files`."""
        paths, now_ns = [Path(self.uri) / name for name in _with_neighbours(self.name)], time.time_ns()
        found = [(path.name, path.stat()) for path in paths if path == paths[0] or path.is_file()]
        return [
            SourceFile(name, status.st_size, version=version_of(stamp_of(status, now_ns))) for name, status in found
        ]

    def read(self, file: SourceFile) -> bytes:
        """See :meth:`Source.read`. A link is followed: whoever gives its path means what it leads to."""
        real = Path(self.where(file.path)).resolve()
        return FolderSource(str(real.parent)).read(replace(file, path=real.name))

    def local_path(self, file: SourceFile) -> Path:
        """See :meth:`Source.local_path`."""
        real = Path(self.where(file.path)).resolve()
        return FolderSource(str(real.parent)).local_path(replace(file, path=real.name))


@dataclass(frozen=True)
class _OneObject(PrefixSource):
    """A single object below a prefix, with those that belong to it."""

    name: str

    def files(self) -> Sequence[SourceFile]:
        """See :meth:`Source.files`."""
        found = {name: storage.stat(self.where(name)) for name in _with_neighbours(self.name)}
        if found[self.name] is None:
            raise DataError(self.where(self.name), "no such object")
        return [
            SourceFile(name, info.size_bytes, version=version_of(info.etag)) for name, info in found.items() if info
        ]


@dataclass(frozen=True)
class Inputs(Source):
    """Several sources as one. A path in it is the number of the source, a slash, and the path there."""

    parts: tuple[Source, ...]

    @property
    def is_remote(self) -> bool:  # type: ignore[override]
        """Whether reading from any of them takes long."""
        return any(part.is_remote for part in self.parts)

    def where(self, path: str) -> str:
        """See :meth:`Source.where`."""
        number, slash, rest = path.partition("/")
        if not slash:  # dataset.yaml, which is in none of them
            return path
        return self.parts[int(number)].where(rest)

    def files(self) -> Sequence[SourceFile]:
        """See :meth:`Source.files`."""
        return file_list(
            replace(file, path=f"{number}/{file.path}")
            for number, part in enumerate(self.parts)
            for file in part.files()
        )

    def folders(self) -> set[str]:
        """See :meth:`Source.folders`."""
        return {str(number) for number in range(len(self.parts))}

    def inside(self, folder: str) -> Source:
        """See :meth:`Source.inside`."""
        number, slash, rest = folder.partition("/")
        return self.parts[int(number)].inside(rest) if slash else self.parts[int(number)]

    def read(self, file: SourceFile) -> bytes:
        """See :meth:`Source.read`."""
        number, _, rest = file.path.partition("/")
        return self.parts[int(number)].read(replace(file, path=rest))

    def local_path(self, file: SourceFile) -> Path | None:
        """See :meth:`Source.local_path`."""
        number, _, rest = file.path.partition("/")
        return self.parts[int(number)].local_path(replace(file, path=rest))


def open_inputs(uris: Sequence[str], labels: str, scratch: Path) -> Inputs:
    """The sources behind the arguments of `landseg predict`.

    Args:
        uris: files, folders, `s3://` objects and prefixes, `.zip` and `.tar` archives.
        labels: likewise, of the labels; "" for none.
        scratch: where archives from object storage are downloaded to.

    Raises:
        DataError: there is none, or an archive that cannot be read safely.
    """
    parts = []
    for number, uri in enumerate([*uris, *([labels] if labels else [])]):
        folder = scratch / f"input-{number}"
        folder.mkdir()
        parts.append(_open(uri, folder))
    return Inputs(", ".join(uris), tuple(parts))


def list_inputs(source: Inputs, config: DatasetConfig, has_labels: bool) -> RawDataset:
    """List images, and the labels that belong to them.

    A label has its image's stem. It lies in the last source where there is one for labels, else in a folder `labels`
    next to the image or its folder. A tile is called as its image; images of one name by their folders too.

    Args:
        source: what :func:`open_inputs` returned.
        config: how to read them.
        has_labels: whether the last source is that of the labels.

    Raises:
        DataError: there are no images.
    """
    listed = source.files()
    images, labels = file_list(), file_list()
    last = f"{len(source.parts) - 1}/"
    files = _of_split(visible(listed))
    foreign = headerless(file.path for file in files)
    for file in files:
        folders = file.path.split("/")
        suffix = split_suffix(file.path)[1]
        if file.path in foreign:
            continue
        if has_labels and file.path.startswith(last):
            labels.extend([file] if suffix in LABEL_SUFFIXES else [])
        elif _LABELS in folders[1:-1]:
            labels.extend([file] if suffix in LABEL_SUFFIXES and not has_labels else [])
        elif suffix in IMAGE_SUFFIXES:
            images.append(file)
    if not images:
        raise DataError(source.uri, f"expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    pairing = Pairing()
    tiles = _pair(source, images, labels, has_labels, pairing.findings)
    pairing.tiles[SPLIT] = in_order(tiles, lambda tile: tile.id, tile_list)
    pairing.add_sidecars(files)
    pairing.findings += mask_files(source, pairing.tiles, files, config)
    return RawDataset(source, fingerprint_of(listed), config, FILE_NAME, pairing)


def _with_neighbours(name: str) -> list[str]:
    """A file, and what those may be called that say where it lies, how it is read and what it leaves out."""
    return [name, *sidecar_names(name), name + MASK_SUFFIX]


def _open(uri: str, scratch: Path) -> Source:
    if storage.is_s3(uri):
        if not uri.endswith("/") and not uri.lower().endswith((".zip", ".tar")) and storage.stat(uri) is not None:
            return _OneObject(storage.parent(uri), uri.rpartition("/")[2])
        return open_source(uri, scratch)
    path = Path(uri)
    if not path.exists():
        raise DataError(uri, "no such file or folder")
    if path.is_file() and split_suffix(uri)[1] not in (".zip", ".tar"):
        resolved = path.absolute()
        return _OneFile(str(resolved.parent), resolved.name)
    return open_source(uri, scratch)


def _of_split(files: Sequence[SourceFile]) -> Sequence[SourceFile]:
    """Of a source that is laid out as a dataset, the files of the split `test`; of others, all."""
    whole = {file.path.partition("/")[0] for file in files if file.path.split("/")[1:3] == [SPLIT, "images"]}
    return file_list(file for file in files if (parts := file.path.split("/"))[0] not in whole or parts[1] == SPLIT)


def _pair(
    source: Inputs,
    images: Sequence[SourceFile],
    labels: Sequence[SourceFile],
    has_labels: bool,
    findings: list[Finding],
) -> Iterable[SourceTile]:
    stems = Counter(_stem(file.path) for file in images)
    by_key = {(_stem(file.path) if has_labels else _key(file.path)): file for file in labels}
    taken: dict[str, SourceFile] = {}
    for image in images:
        stem = _stem(image.path)
        tile_id = stem if stems[stem] == 1 else _long_name(image.path)
        if problem := _problem(source, image, tile_id, taken.get(tile_id)):
            findings.append(Finding.of(DataError(source.where(image.path), *problem), SPLIT, tile_id))
            continue
        taken[tile_id] = image
        label = by_key.get(stem if has_labels else _key(image.path))
        if label is None and labels:
            where = source.where(image.path)
            error = DataError(where, "image without label, while others have one", "add it, or predict it on its own")
            findings.append(Finding.of(error, SPLIT, tile_id))
        else:
            yield SourceTile(SPLIT, tile_id, image, label)


def _stem(path: str) -> str:
    return unicodedata.normalize("NFC", split_suffix(path.rpartition("/")[2])[0])  # macOS writes "é" as two characters


def _long_name(path: str) -> str:
    """The stem with the folders that lead to it."""
    return "__".join([*path.split("/")[1:-1], _stem(path)])


def _key(path: str) -> str:
    """The path without what tells a label from its image."""
    folders = [part for part in path.split("/")[:-1] if part not in ("images", _LABELS)]
    return "/".join([*folders, _stem(path)])


def _problem(source: Inputs, file: SourceFile, tile_id: str, other: SourceFile | None) -> tuple[str, str] | None:
    if other is not None:
        return f"{source.where(other.path)} has the same name", "rename one: maps are called as their images"
    if not tile_id.isprintable() or "\\" in tile_id:
        return "the file name holds characters that are not allowed", "rename it"
    if (size := len(tile_id.encode(errors="surrogateescape"))) > MAX_TILE_ID_BYTES:
        return f"expected a name of at most {MAX_TILE_ID_BYTES} bytes, found {size}", "rename it"
    return too_large(file)
