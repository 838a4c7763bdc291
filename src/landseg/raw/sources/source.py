"""Where raw datasets come from: a folder, an `s3://` prefix, or an archive (:mod:`landseg.raw.sources.archives`)."""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from landseg import storage
from landseg.contracts.documents import sha256_hex
from landseg.contracts.errors import DataError
from landseg.raw.sources.source_file import SourceFile, is_hidden, sorted_files

_MAX_DEPTH = 8
"""Folders inside one another. A dataset has two, and one for each level of areas."""
_TICK_NS = 50_000_000
"""Changes further apart than this have different times: the clocks of file systems tick every 1-10 ms."""
_COARSE_TICK_NS = 2_000_000_000
"""The same for file systems that store whole seconds."""
LAYOUT_HINT = "docs/contracts.md shows the layout"


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
    def files(self) -> Sequence[SourceFile]:
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

    def local_path(self, file: SourceFile) -> Path | None:
        """Where a file lies on a local disk, for one that is too large to hold in memory; None where it does not.

        Raises:
            DataError: as :meth:`read`.
        """
        return None

    def file(self, path: str) -> SourceFile | None:
        """The file at a path; None where there is none."""
        return next((file for file in self.files() if file.path == path), None)


def fingerprint_of(files: Iterable[SourceFile]) -> str | None:
    """A digest that changes with any file, computed without reading one; None where a file's version is not known.

    Args:
        files: all files of a source, in the order of its listing.
    """
    found = hashlib.sha256()
    for file in files:
        if not file.version:
            return None
        found.update(f"{file.path}\0{file.size_bytes} {file.version:x}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


class FolderSource(Source):
    """A folder."""

    def files(self) -> Sequence[SourceFile]:
        """See :meth:`Source.files`."""
        if not Path(self.uri).is_dir():
            raise DataError(self.uri, "no such dataset folder", LAYOUT_HINT)
        now_ns = time.time_ns()
        found = sorted_files(
            SourceFile(path, status.st_size if status else 0, version=version_of(stamp_of(status, now_ns)))
            for path, status in _files_below(self.uri, "")
        )
        if not found:
            raise DataError(self.uri, "an empty folder", LAYOUT_HINT)
        return found

    def file(self, path: str) -> SourceFile | None:
        """See :meth:`Source.file`."""
        found = Path(self.uri) / path
        if not f"{os.path.realpath(found)}/".startswith(f"{os.path.realpath(self.uri)}/") or not found.is_file():
            return None
        return SourceFile(path, found.stat().st_size)

    def folders(self) -> set[str]:
        """See :meth:`Source.folders`."""
        return {entry.name for entry in Path(self.uri).iterdir() if not is_hidden(entry.name) and entry.is_dir()}

    def inside(self, folder: str) -> FolderSource:
        """See :meth:`Source.inside`."""
        return FolderSource(f"{self.uri}/{folder}")

    def read(self, file: SourceFile) -> bytes:
        """See :meth:`Source.read`."""
        path = self.local_path(file)
        try:
            return path.read_bytes()
        except OSError as err:
            raise DataError(self.where(file.path), f"cannot be read: {err.strerror}") from err

    def local_path(self, file: SourceFile) -> Path:
        """See :meth:`Source.local_path`."""
        path = Path(self.uri) / file.path
        try:
            if path.is_symlink():
                _refuse_leaving(str(path), self.uri)
            if path.exists() and not path.is_file():  # reading a pipe would wait forever
                raise DataError(self.where(file.path), "expected a file, found a pipe, a socket or a device")
        except OSError as err:
            raise DataError(self.where(file.path), f"cannot be read: {err.strerror}") from err
        return path


class PrefixSource(Source):
    """Objects below an `s3://` prefix."""

    is_remote = True

    def files(self) -> Sequence[SourceFile]:
        """See :meth:`Source.files`."""
        prefix = self.uri.rstrip("/") + "/"
        # Some programs write an empty object for each folder.
        found = sorted_files(
            SourceFile(info.uri.removeprefix(prefix), info.size_bytes, version=version_of(info.etag))
            for info in storage.each_object(self.uri)
            if not info.uri.endswith("/")
        )
        if not found:
            raise DataError(self.uri, "no such dataset, or an empty one", LAYOUT_HINT)
        return found

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


def stamp_of(status: os.stat_result | None, now_ns: int) -> str | None:
    """Size, times and inode of a file; None where it is so young that another change might leave them as they are."""
    if status is None:
        return None
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    if now_ns - changed_ns < (_TICK_NS if changed_ns % 1_000_000_000 else _COARSE_TICK_NS):
        return None
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def version_of(stamp: str | None) -> int:
    """What tells a file's versions apart, its ETag or its times, as a number of 60 bits: there may be millions."""
    return int(sha256_hex(stamp.encode())[:15], 16) if stamp else 0


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
