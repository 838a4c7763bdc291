"""Objects by URI, in S3 or in a folder: written atomically, and checked when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar, cast

from landseg.contracts.documents import Blob, sha256_hex
from landseg.contracts.errors import DamagedObjectError, ObjectNotFoundError, StorageError
from landseg.storage import local
from landseg.storage.object_info import ObjectInfo
from landseg.storage.parallel import parallel
from landseg.storage.uris import is_s3, join

T = TypeVar("T")

_FETCHES = 10
_DAY_S = 86_400.0


class _Store(Protocol):
    """What both kinds of storage can do: :mod:`landseg.storage.local` and :mod:`landseg.storage.s3`."""

    def put_bytes(self, uri: str, data: bytes) -> None: ...
    def put_file(self, uri: str, source: Path) -> None: ...
    def create(self, uri: str, content: bytes | Path) -> bool: ...
    def get_bytes(self, uri: str, byte_range: tuple[int, int] | None, *, confirm: bool) -> tuple[bytes, bool]: ...
    def get_file(self, uri: str, target: Path, *, confirm: bool) -> bool: ...
    def checksum(self, uri: str) -> tuple[int, str]: ...
    def stat(self, uri: str) -> ObjectInfo | None: ...
    def list_objects(self, uri: str) -> list[ObjectInfo]: ...
    def links(self, uri: str) -> list[str]: ...
    def delete(self, uri: str) -> None: ...
    def clean_abandoned(self, uri: str, older_than_s: float) -> int: ...


def _store(uri: str) -> _Store:
    if not is_s3(uri):
        return cast(_Store, local)
    from landseg.storage import s3  # boto3 takes a third of a second to import: not for local paths and --help

    return cast(_Store, s3)


def put_bytes(uri: str, data: bytes) -> None:
    """Write an object atomically."""
    _store(uri).put_bytes(uri, data)


def put_file(uri: str, source: Path) -> None:
    """Write an object atomically from a local file of any size."""
    with local.errors(str(source)):
        _store(uri).put_file(uri, source)


def put_if_absent(uri: str, content: bytes | Path) -> bool:
    """Write an object whose name follows from its content (its checksum), unless it already exists.

    An object of another size under that name is damaged and is replaced.

    Returns:
        Whether it was written.
    """
    present = stat(uri)
    with local.errors(str(content)):
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if present is not None and present.size_bytes == size:
        return False
    _put(uri, content)
    return True


def _put(uri: str, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        put_bytes(uri, content)
    else:
        put_file(uri, content)


def create(uri: str, content: bytes | Path) -> bool:
    """Write an object unless there is one under that name, whatever it holds.

    Returns:
        Whether it was written.
    """
    return _store(uri).create(uri, content)


def put_once(folder: str, path: str, content: bytes | Path) -> Blob:
    """Write an object of a result, never over another's.

    Several processes may compute the same result at once. Mostly its bytes are the same, and one object serves all.
    Where an object with other bytes has the name, this one gets a name of its own, with its checksum.

    Args:
        folder: URI of the result's folder.
        path: the object's name in the folder.
        content: bytes or a local file.

    Returns:
        The object, as a manifest lists it.
    """
    if isinstance(content, bytes):
        size, sha256 = len(content), sha256_hex(content)
    else:
        size, sha256 = content.stat().st_size, file_sha256(content)
    uri = join(folder, path)
    if not create(uri, content) and not _holds(uri, size, sha256):
        stem, dot, suffix = path.rpartition(".")
        path = f"{stem}-{sha256[:12]}{dot}{suffix}"
        put_if_absent(join(folder, path), content)
    return Blob(path=path, size_bytes=size, sha256=sha256)


def _holds(uri: str, size: int, sha256: str) -> bool:
    try:
        check(uri, size_bytes=size, sha256=sha256)
    except (ObjectNotFoundError, DamagedObjectError):
        return False
    return True


def put_many(objects: Iterable[tuple[str, bytes | Path]], *, workers: int = 8) -> None:
    """Write many objects in parallel.

    Args:
        objects: (uri, bytes or local file); taken as threads come free, so a generator may produce them as it goes.
        workers: threads, each writing one object at a time.
    """
    for _ in parallel(lambda item: _put(*item), objects, workers=workers):
        pass


def get_bytes(uri: str, *, byte_range: tuple[int, int] | None = None, sha256: str | None = None) -> bytes:
    """Read an object, or `byte_range` = (offset, length) of it, and check it.

    Where no checksum is known, the object's ETag must agree; where that says nothing (a range, an encrypted object),
    the bytes are read until two reads agree.

    Raises:
        ObjectNotFoundError: there is none.
        DamagedObjectError: the bytes are not those that were written, or end before the range does.
        StorageError: out of reach or refused.
    """
    store = _store(uri)
    if byte_range is not None and byte_range[1] == 0:
        return b""

    def fetch() -> tuple[bytes, bool, str]:
        data, confirmed = store.get_bytes(uri, byte_range, confirm=sha256 is None)
        if byte_range is not None and len(data) != byte_range[1]:
            raise DamagedObjectError(
                uri, f"expected {byte_range[1]} bytes at offset {byte_range[0]}, found {len(data)}"
            )
        return data, confirmed, "" if confirmed else sha256_hex(data)

    return _intact(uri, sha256, fetch)


def get_file(uri: str, target: Path, *, sha256: str | None = None) -> None:
    """Copy an object of any size to a local file, atomically, and check it.

    Where no checksum is known, the object's ETag must agree; where that says nothing (encrypted objects), the object is
    read until two copies agree.
    """
    store = _store(uri)
    with local.errors(str(target)), local.atomic(target) as partial:

        def fetch() -> tuple[None, bool, str]:
            try:
                confirmed = store.get_file(uri, partial, confirm=sha256 is None)
            except StorageError as err:
                if isinstance(err.__cause__, OSError) and err.__cause__.filename2:  # not read, but written
                    raise StorageError(target, err.problem, "free some room, or set --scratch") from err
                raise
            return None, confirmed, "" if confirmed else file_sha256(partial)

        _intact(uri, sha256, fetch)


def check(uri: str, *, size_bytes: int, sha256: str) -> None:
    """Read an object and compare it with its known size and checksum; nothing is kept.

    Raises:
        ObjectNotFoundError: there is none.
        DamagedObjectError: it has another size or other bytes.
        StorageError: out of reach or refused.
    """
    store = _store(uri)
    present = store.stat(uri)
    if present is None:
        raise ObjectNotFoundError(uri, "no such object")
    if present.size_bytes != size_bytes:
        raise DamagedObjectError(uri, f"expected {size_bytes} bytes, found {present.size_bytes}")
    _intact(uri, sha256, lambda: (None, False, store.checksum(uri)[1]))


def _intact(uri: str, expected: str | None, fetch: Callable[[], tuple[T, bool, str]]) -> T:
    """Fetch until the bytes are right.

    Bits do not flip in the same way twice. So where a checksum is known, reading the same wrong bytes twice means that
    the object itself is damaged. Where none is known, reading the same bytes twice means that they are right.

    Args:
        uri: the object.
        expected: its SHA-256, where that is known.
        fetch: returns a result, whether storage confirms the bytes, and where it does not, their SHA-256.
    """
    seen: set[str] = set()
    while True:
        result, confirmed, found = fetch()
        if confirmed or found == expected or (expected is None and found in seen):
            return result
        if expected is None and len(seen) == _FETCHES:
            raise DamagedObjectError(uri, "its bytes differed each time it was read", "check the network")
        if found in seen or len(seen) == _FETCHES:
            raise DamagedObjectError(
                uri, f"expected bytes with sha256 {expected}, found {found}", "the object is damaged"
            )
        seen.add(found)


def stat(uri: str) -> ObjectInfo | None:
    """Size of an object, or None if it does not exist."""
    return _store(uri).stat(uri)


def list_objects(uri: str) -> list[ObjectInfo]:
    """All objects below a folder, sorted by URI."""
    return sorted(_store(uri).list_objects(uri), key=lambda info: info.uri)


def links(uri: str) -> list[str]:
    """All symbolic links at or below a local folder, in order; what lies behind one to a folder is not listed."""
    return _store(uri).links(uri)


def delete(uri: str) -> None:
    """Remove an object, if it exists."""
    _store(uri).delete(uri)


def delete_many(uris: Iterable[str]) -> None:
    """Remove objects, in no order; those in object storage 1,000 a request."""
    in_s3: list[str] = []
    in_folders: list[str] = []
    for uri in uris:
        (in_s3 if is_s3(uri) else in_folders).append(uri)
    if in_s3:
        from landseg.storage import s3

        s3.delete_many(in_s3)
    for _ in parallel(delete, in_folders):
        pass


def clean_abandoned(uri: str, *, older_than_s: float = _DAY_S) -> int:
    """Remove what killed writers left behind below a folder: multipart uploads, temporary files.

    Returns:
        How many were removed.
    """
    return _store(uri).clean_abandoned(uri, older_than_s)


def file_sha256(path: Path) -> str:
    """SHA-256 of a local file, read in blocks."""
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()
