"""A folder as object storage: the same functions as :mod:`landseg.storage.s3`, for laptops and shared disks."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

from landseg.contracts.errors import ObjectNotFoundError, StorageError
from landseg.storage.object_info import ObjectInfo, check_size

CLEANED = ".landseg-cleaned"
"""The file whose time says when what killed writers left in a folder was last looked for."""
_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`, renamed to it on success: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def errors(uri: str) -> Iterator[None]:
    """Turn errors of the file system into one clear line."""
    try:
        yield
    except FileNotFoundError as err:
        raise ObjectNotFoundError(err.filename or uri, "no such file") from err
    except OSError as err:
        # A copy that fails on the way has two names: what is written is at fault, whose own name is temporary.
        name = str(err.filename2 or err.filename or uri)
        where = uri if _is_partial(Path(name)) else name
        raise StorageError(where, (err.strerror or str(err)).lower()) from err


def put_bytes(uri: str, data: bytes) -> None:
    """Write a file."""
    with errors(uri), atomic(Path(uri)) as partial:
        partial.write_bytes(data)


def put_file(uri: str, source: Path) -> None:
    """Copy a file in."""
    with errors(uri), atomic(Path(uri)) as partial:
        shutil.copyfile(source, partial)


def create(uri: str, content: bytes | Path) -> bool:
    """Write a file unless there is one; of several that try at once, one succeeds."""
    path = Path(uri)
    with errors(uri):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            if isinstance(content, bytes):
                partial.write_bytes(content)
            else:
                shutil.copyfile(content, partial)
            return _claim(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _claim(partial: Path, path: Path) -> bool:
    """Give a complete file its name, unless another has it."""
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        partial.replace(path)
    return True


def get_bytes(
    uri: str, byte_range: tuple[int, int] | None, *, confirm: bool, most: int | None = None
) -> tuple[bytes, bool]:
    """Read a file or (offset, length) of it; the file system vouches for the bytes."""
    with errors(uri), _open(uri) as reader:
        if byte_range is None:
            check_size(uri, os.fstat(reader.fileno()).st_size, most)
            return reader.read(), confirm
        reader.seek(byte_range[0])
        return reader.read(byte_range[1]), confirm


def _open(uri: str) -> io.BufferedReader:
    """Open a regular file: a pipe would be waited for, and a device has no end."""
    reader = open(uri, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not S_ISREG(os.fstat(reader.fileno()).st_mode):
        reader.close()
        raise StorageError(uri, "expected a regular file, found something else")
    return reader


def get_file(uri: str, target: Path, *, confirm: bool) -> bool:
    """Copy a file out; the file system vouches for the bytes."""
    with errors(uri):
        _open(uri).close()
        shutil.copyfile(uri, target)
    return confirm


def checksum(uri: str) -> tuple[int, str]:
    """Size and SHA-256 of a file, read in blocks."""
    with errors(uri), _open(uri) as reader:
        sha256 = hashlib.file_digest(reader, "sha256").hexdigest()
        return reader.tell(), sha256


def stat(uri: str) -> ObjectInfo | None:
    """Size of a file, or None where there is none."""
    with errors(uri):
        try:
            status = Path(uri).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return ObjectInfo(uri, status.st_size, status.st_mtime) if S_ISREG(status.st_mode) else None


def list_objects(uri: str) -> list[ObjectInfo]:
    """All files below a folder, except half-written ones and the storage's own stamp."""
    with errors(uri):
        whole = (path for path in _files(Path(uri)) if not _is_partial(path) and path.name != CLEANED)
        return [info for path in whole if (info := stat(str(path)))]


def links(uri: str) -> list[str]:
    """All symbolic links at or below a folder: listings leave out what lies behind those to folders."""
    with errors(uri):
        if Path(uri).is_symlink():
            return [uri]
        found = (Path(at, name) for at, folders, files in os.walk(uri) for name in (*folders, *files))
        return sorted(str(path) for path in found if path.is_symlink())


def delete(uri: str) -> None:
    """Remove a file."""
    with errors(uri):
        Path(uri).unlink(missing_ok=True)


def clean_abandoned(uri: str, older_than_s: float) -> int:
    """Remove files that killed writers left half-written; those that others are writing may go meanwhile."""
    removed = 0
    with errors(uri):
        for path in filter(_is_partial, Path(uri).rglob(".*.partial")):
            left = stat(str(path))
            if left is not None and time.time() - left.modified_s > older_than_s:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _is_partial(path: Path) -> bool:
    return _PARTIAL.fullmatch(path.name) is not None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
