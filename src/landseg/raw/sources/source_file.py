"""A file of a raw dataset, and lists of millions of them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from landseg.raw.compact_list import CompactList, Selection, in_order

_HIDDEN = frozenset(
    ("__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "icon\r")
)
"""What operating systems put next to files, in lower case."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source.

    Attributes:
        path: relative to the source.
        size_bytes: its size.
        offset: where another file holds it.
        version: another number whenever the file has changed, known without reading it; 0 where it is not known.
    """

    path: str
    size_bytes: int
    offset: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class BandFiles(SourceFile):
    """An image in several files; `path` is that of one file in their place, named after the tile alone."""

    bands: tuple[SourceFile, ...] = ()


@dataclass(frozen=True, slots=True)
class HeadedFile(SourceFile):
    """A label or a band whose header is a file of its own, as of ENVI."""

    header: SourceFile = SourceFile("", 0)


def parts_of(file: SourceFile) -> tuple[SourceFile, ...]:
    """The files that hold the pixels of a tile's file: those of its bands, or itself."""
    return file.bands if isinstance(file, BandFiles) else (file,)


def files_of(file: SourceFile) -> tuple[SourceFile, ...]:
    """All the files that a file of a tile consists of."""
    if isinstance(file, BandFiles):
        return tuple(one for band in file.bands for one in files_of(band))
    return (file, file.header) if isinstance(file, HeadedFile) else (file,)


def to_row(file: SourceFile) -> tuple[Any, ...]:
    """A file as a row of a :class:`CompactList`."""
    own = file.path, file.size_bytes, file.offset, file.version
    if isinstance(file, HeadedFile):
        return (*own, (), to_row(file.header))
    return (*own, tuple(map(to_row, file.bands))) if isinstance(file, BandFiles) else own


def from_row(row: tuple[Any, ...]) -> SourceFile:
    """The file of such a row."""
    path, size_bytes, offset, version, *parts = row
    if not parts:
        return SourceFile(path, size_bytes, offset, version)
    if len(parts) > 1:
        return HeadedFile(path, size_bytes, offset, version, from_row(parts[1]))
    return BandFiles(path, size_bytes, offset, version, tuple(map(from_row, parts[0])))


def file_list(files: Iterable[SourceFile] = ()) -> CompactList[SourceFile]:
    """Files in little memory: there may be millions."""
    found = CompactList(to_row, from_row)
    found.extend(files)
    return found


def sorted_files(files: Iterable[SourceFile]) -> CompactList[SourceFile]:
    """Files sorted by path, in little memory."""
    return in_order(files, _path, file_list)


def _path(file: SourceFile) -> str:
    return file.path


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: hidden, or put there by the operating system."""
    return name.startswith(".") or name.lower() in _HIDDEN


def visible(files: Sequence[SourceFile]) -> Sequence[SourceFile]:
    """The files that are not hidden, and in no hidden folder."""
    folders: dict[str, bool] = {}

    def is_visible(path: str) -> bool:
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            folders[folder] = any(map(is_hidden, folder.split("/")))
        return not folders[folder] and not is_hidden(name)

    return chosen(files, is_visible)


def paths_of(files: Sequence[SourceFile]) -> Iterator[str]:
    """The paths of many files."""
    rows = files.encoded() if isinstance(files, CompactList | Selection) else None
    return (file.path for file in files) if rows is None else (row[0] for row in rows)


def chosen(files: Sequence[SourceFile], is_chosen: Callable[[str], bool]) -> Sequence[SourceFile]:
    """Some of many files, by their paths."""
    found = array("I", (number for number, path in enumerate(paths_of(files)) if is_chosen(path)))
    return files if len(found) == len(files) else selected(files, found)


def selected(files: Sequence[SourceFile], numbers: array[int]) -> Selection[SourceFile]:
    """The files at some positions, ascending; a run of neighbours is kept as a range, not as a list."""
    are_neighbours = bool(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1
    return Selection(files, range(numbers[0], numbers[-1] + 1) if are_neighbours else numbers)
