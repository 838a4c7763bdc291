"""Reading all the files of an image from a source."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from landseg.contracts.errors import DataError
from landseg.raw.georeference.sidecars import MAX_SIDECAR_BYTES
from landseg.raw.images.formats import driver_of
from landseg.raw.images.vrt import referenced_files
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.files import ImageFiles
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import BandFiles, HeadedFile, SourceFile
from landseg.raw.tiff.decoding import MAX_FILE_BYTES

MAPPED_BYTES = 64 << 20
"""Files from this size on are not held in memory, where they lie on a local disk."""


def read_image(source: Source, tile: SourceTile) -> ImageFiles:
    """The bytes of an image's files.

    Raises:
        DataError: one cannot be read, or lies outside the dataset.
    """
    image = _read_image(source, tile)
    return replace(image, sidecars=read_sidecars(source, tile.sidecars)) if tile.sidecars else image


def read_sidecars(source: Source, files: Iterable[SourceFile]) -> dict[str, bytes | None]:
    """The bytes of sidecars by path; None of one that is too large."""
    return {file.path: source.read(file) if file.size_bytes <= MAX_SIDECAR_BYTES else None for file in files}


def read_header(source: Source, file: SourceFile) -> bytes:
    """The bytes of a file's header, where that is a file of its own; empty without one, or where it is too large."""
    if not isinstance(file, HeadedFile) or file.header.size_bytes > MAX_SIDECAR_BYTES:
        return b""
    return source.read(file.header)


def _content(source: Source, file: SourceFile) -> tuple[bytes | memoryview, Path | None]:
    """The bytes of a file; of a large one on a local disk a map of them, and its path."""
    path = source.local_path(file) if file.size_bytes >= MAPPED_BYTES else None
    if path is None:
        return source.read(file), None
    try:
        with path.open("rb") as opened:
            return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)), path
    except (OSError, ValueError) as err:  # ValueError: it is empty by now
        raise DataError(source.where(file.path), f"cannot be read: {getattr(err, 'strerror', None) or err}") from err


def _read_image(source: Source, tile: SourceTile) -> ImageFiles:
    if isinstance(tile.image, BandFiles):
        found = [_content(source, file) for file in tile.image.bands]
        first, *others = (data for data, _ in found)
        headers = tuple(read_header(source, file) for file in tile.image.bands)
        paths = tuple(path for _, path in found)
        return ImageFiles(first, bands=tuple(others), paths=paths, headers=headers)
    data, local = _content(source, tile.image)
    if driver_of(data) != "VRT":
        return ImageFiles(data, paths=(local,))
    data = bytes(data)
    where = source.where(tile.image.path)
    left = MAX_FILE_BYTES

    def read(path: str) -> bytes:
        nonlocal left
        file = source.file(path)
        if file is None:
            raise DataError(where, f"refers to {path}, which is not in the dataset", "add the file, or build it again")
        left -= file.size_bytes
        if left < 0:
            raise DataError(where, f"refers to more than {MAX_FILE_BYTES >> 20} MiB of files", "cut it into tiles")
        return source.read(file)

    referenced = referenced_files(data, tile.image.path, where, read)
    return ImageFiles(data, path=tile.image.path, referenced=referenced)
