"""Objects written by URI, to S3 or to a folder: atomically, and those of a result never over another's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from landseg.contracts.documents import Blob, sha256_hex
from landseg.contracts.errors import DamagedObjectError, ObjectNotFoundError, StorageError
from landseg.storage import local
from landseg.storage.folders import stat
from landseg.storage.parallel import parallel
from landseg.storage.reading import check, file_sha256
from landseg.storage.stores import store_of
from landseg.storage.uris import join


def put_bytes(uri: str, data: bytes) -> None:
    """Write an object atomically."""
    store_of(uri).put_bytes(uri, data)


def put_file(uri: str, source: Path) -> None:
    """Write an object atomically from a local file of any size."""
    with local.errors(str(source)):
        store_of(uri).put_file(uri, source)


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


def try_writing(folder: str) -> None:
    """See that objects can be written in a folder, by writing one and deleting it.

    Args:
        folder: URI.

    Raises:
        StorageError: one cannot be written. Where it cannot be deleted, it stays.
    """
    uri = join(folder, "writable")
    put_bytes(uri, b"writable\n")
    with contextlib.suppress(StorageError):  # rights to write but not to delete are common
        store_of(uri).delete(uri)


def create(uri: str, content: bytes | Path) -> bool:
    """Write an object unless there is one under that name, whatever it holds.

    Returns:
        Whether it was written.
    """
    return store_of(uri).create(uri, content)


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
