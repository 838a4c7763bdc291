"""Where raw datasets come from: a folder, an `s3://` prefix, or an archive (:mod:`landseg.raw.sources.archives`)."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from landseg import storage
from landseg.contracts.documents import sha256_hex
from landseg.contracts.errors import DataError

_MAX_DEPTH = 8
"""Folders inside one another. A dataset has two, and one for each level of areas."""
_HIDDEN = frozenset(
    ("__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "icon\r")
)
"""What operating systems put next to files, in lower case."""
_TICK_NS = 50_000_000
"""Changes further apart than this have different times: the clocks of file systems tick every 1-10 ms."""
_COARSE_TICK_NS = 2_000_000_000
"""The same for file systems that store whole seconds."""
LAYOUT_HINT = "docs/contracts.md shows the layout"


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


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: hidden, or put there by the operating system."""
    return name.startswith(".") or name.lower() in _HIDDEN


def visible(files: Iterable[SourceFile]) -> list[SourceFile]:
    """The files that are not hidden, and in no hidden folder."""
    folders: dict[str, bool] = {}
    result = []
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if folder not in folders:
            folders[folder] = any(map(is_hidden, folder.split("/")))
        if not folders[folder] and not is_hidden(name):
            result.append(file)
    return result


@dataclass(frozen=True)
class Source(ABC):
    """A raw dataset. Cheap to send to other processes."""

    uri: str

    is_remote = False
    """Whether reads take long enough for several at once to pay off."""

    def where(self, path: str) -> str:
        """The full path or URI of a file, as it appears in error lines."""
        return f"{self.uri}/{path}"

    @abstractmethod
    def files(self) -> list[SourceFile]:
        """All files, sorted by path.

        Raises:
            DataError: there is no such dataset, or an archive that is not safe to read.
        """

    @abstractmethod
    def folders(self) -> set[str]:
        """Names of the folders at its top, even of empty ones, where the source knows of them."""

    @abstractmethod
    def inside(self, folder: str) -> Source:
        """The source that one of its folders is."""

    @abstractmethod
    def read(self, file: SourceFile) -> bytes:
        """The bytes of a file."""

    def file(self, path: str) -> SourceFile | None:
        """The file at a path; None where there is none."""
        return next((file for file in self.files() if file.path == path), None)

    def fingerprint(self) -> str | None:
        """A digest that changes with any file, computed without reading one; None where there can be none.

        Take it before :meth:`files`, so that what changes in between is noticed the next time.
        """
        return None


class FolderSource(Source):
    """A folder."""

    def files(self) -> list[SourceFile]:
        """See :meth:`Source.files`."""
        if not Path(self.uri).is_dir():
            raise DataError(self.uri, "no such dataset folder", LAYOUT_HINT)
        now_ns = time.time_ns()
        found = [
            SourceFile(path, status.st_size if status else 0, version=_version(_stamp(status, now_ns)))
            for path, status in _files_below(self.uri, "")
        ]
        if not found:
            raise DataError(self.uri, "an empty folder", LAYOUT_HINT)
        return sorted(found, key=lambda file: file.path)

    def file(self, path: str) -> SourceFile | None:
        """See :meth:`Source.file`."""
        found = Path(self.uri) / path
        if not f"{os.path.realpath(found)}/".startswith(f"{os.path.realpath(self.uri)}/") or not found.is_file():
            return None
        return SourceFile(path, found.stat().st_size)

    def fingerprint(self) -> str | None:
        """From sizes, modification times and inodes, as git does it.

        None while a file is so young that another change might leave its times unchanged.
        """
        if not Path(self.uri).is_dir():
            return None
        now_ns = time.time_ns()
        lines = []
        for path, status in _files_below(self.uri, ""):
            stamp = _stamp(status, now_ns)
            if stamp is None:
                return None
            lines.append(f"{path}\0{stamp}")
        return _digest(lines)

    def folders(self) -> set[str]:
        """See :meth:`Source.folders`."""
        return {entry.name for entry in Path(self.uri).iterdir() if not is_hidden(entry.name) and entry.is_dir()}

    def inside(self, folder: str) -> FolderSource:
        """See :meth:`Source.inside`."""
        return FolderSource(f"{self.uri}/{folder}")

    def read(self, file: SourceFile) -> bytes:
        """See :meth:`Source.read`."""
        path = Path(self.uri) / file.path
        try:
            if path.is_symlink():
                _refuse_leaving(str(path), self.uri)
            if path.exists() and not path.is_file():  # reading a pipe would wait forever
                raise DataError(self.where(file.path), "expected a file, found a pipe, a socket or a device")
            return path.read_bytes()
        except OSError as err:
            raise DataError(self.where(file.path), f"cannot be read: {err.strerror}") from err


class PrefixSource(Source):
    """Objects below an `s3://` prefix."""

    is_remote = True

    def files(self) -> list[SourceFile]:
        """See :meth:`Source.files`."""
        prefix = self.uri.rstrip("/") + "/"
        listed = storage.list_objects(self.uri)
        # Some programs write an empty object for each folder.
        found = [
            SourceFile(info.uri.removeprefix(prefix), info.size_bytes, version=_version(info.etag or None))
            for info in listed
            if not info.uri.endswith("/")
        ]
        if not found:
            raise DataError(self.uri, "no such dataset, or an empty one", LAYOUT_HINT)
        return found

    def fingerprint(self) -> str | None:
        """From sizes and ETags."""
        found = storage.list_objects(self.uri)
        if not all(info.etag for info in found):
            return None
        return _digest([f"{info.uri.removeprefix(self.uri)}\0{info.size_bytes} {info.etag}" for info in found])

    def file(self, path: str) -> SourceFile | None:
        """See :meth:`Source.file`."""
        info = storage.stat(self.where(path))
        return None if info is None else SourceFile(path, info.size_bytes)

    def folders(self) -> set[str]:
        """See :meth:`Source.folders`; object storage has no empty folders."""
        return set()

    def inside(self, folder: str) -> PrefixSource:
        """See :meth:`Source.inside`."""
        return PrefixSource(f"{self.uri}/{folder}")

    def read(self, file: SourceFile) -> bytes:
        """See :meth:`Source.read`."""
        return storage.get_bytes(self.where(file.path))


def _refuse_leaving(path: str, folder: str) -> None:
    """Refuse a link to something outside the dataset: raw folders come from others, and what is staged is handed on.

    Raises:
        DataError: it leaves the folder. One that leads nowhere fails when it is read.
    """
    target = os.path.realpath(path)
    if os.path.lexists(target) and not f"{target}/".startswith(f"{os.path.realpath(folder)}/"):
        raise DataError(
            path, "expected a file inside the dataset, found a link that leaves it", "put a copy in the link's place"
        )


def _stamp(status: os.stat_result | None, now_ns: int) -> str | None:
    """Size, times and inode of a file; None where it is so young that another change might leave them as they are."""
    if status is None:
        return None
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    if now_ns - changed_ns < (_TICK_NS if changed_ns % 1_000_000_000 else _COARSE_TICK_NS):
        return None
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _version(stamp: str | None) -> int:
    """A stamp as a number of 60 bits, which takes less memory where there are millions."""
    return int(sha256_hex(stamp.encode())[:15], 16) if stamp else 0


def _digest(lines: list[str]) -> str:
    return sha256_hex("\n".join(sorted(lines)).encode(errors="surrogateescape"))


def _files_below(
    folder: str, prefix: str, root: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, os.stat_result | None]]:
    """Paths and status of the files below a folder, one by one: there may be very many.

    Hidden folders are not entered. A folder too far down is listed as if it were a file, so that its content is not
    ignored silently; so are dangling links, which fail when they are read.

    Raises:
        DataError: a folder cannot be read, or a link leaves the dataset or leads to a folder that holds it.
    """
    root = root or folder
    above = (*above, os.path.realpath(folder))
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_symlink():
                    _refuse_leaving(entry.path, root)
                if not entry.is_dir():
                    yield path, entry.stat() if entry.is_file() else None
                elif is_hidden(entry.name):
                    continue
                elif entry.is_symlink() and os.path.realpath(entry.path) in above:
                    problem = "expected a folder, found a link to one that holds it"
                    raise DataError(entry.path, problem, "remove the link")
                elif prefix.count("/") < _MAX_DEPTH:
                    yield from _files_below(entry.path, f"{path}/", root, above)
                else:
                    yield f"{path}/", None
    except OSError as err:
        raise DataError(folder, f"cannot be read: {err.strerror}") from err
