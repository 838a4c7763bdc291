"""Objects read by URI, from S3 or from a folder, and checked on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from landseg.contracts.documents import sha256_hex
from landseg.contracts.errors import DamagedObjectError, ObjectNotFoundError, StorageError
from landseg.storage import local
from landseg.storage.stores import store_of

T = TypeVar("T")

_FETCHES = 10


def get_bytes(
    uri: str, *, byte_range: tuple[int, int] | None = None, sha256: str | None = None, most: int | None = None
) -> bytes:
    """Read an object, or `byte_range` = (offset, length) of it, and check it.

    Where no checksum is known, the object's ETag must agree; where that says nothing (a range, an encrypted object),
    the bytes are read until two reads agree.

    Args:
        uri: the object.
        byte_range: what to read of it.
        sha256: its checksum, where that is known.
        most: bytes of a whole object; a larger one is not read.

    Raises:
        ObjectNotFoundError: there is none.
        ContractError: it is larger than it may be.
        DamagedObjectError: the bytes are not those that were written, or end before the range does.
        StorageError: out of reach or refused.
    """
    store = store_of(uri)
    if byte_range is not None and byte_range[1] == 0:
        return b""

    def fetch() -> tuple[bytes, bool, str]:
        data, confirmed = store.get_bytes(uri, byte_range, confirm=sha256 is None, most=most)
        if byte_range is not None and len(data) != byte_range[1]:
            raise DamagedObjectError(
                uri, f"expected {byte_range[1]} bytes at offset {byte_range[0]}, found {len(data)}"
            )
        return data, confirmed, "" if confirmed else sha256_hex(data)

    return _intact(uri, sha256, fetch)


def get_spans(uri: str, spans: Sequence[tuple[int, int, str | None]]) -> list[bytes]:
    """Read several parts of an object in one request, with what lies between them, and check each.

    Args:
        uri: the object.
        spans: offset, length and checksum of each part; near each other, since what lies between is read too.

    Raises:
        As :func:`get_bytes`, which reads a part again that is not what its checksum says.
    """
    start, end = min(offset for offset, _, _ in spans), max(offset + length for offset, length, _ in spans)
    data, _ = store_of(uri).get_bytes(uri, (start, end - start), confirm=False)
    found = []
    for offset, length, sha256 in spans:
        part = data[offset - start : offset - start + length]
        intact = sha256 is not None and sha256_hex(part) == sha256
        found.append(part if intact else get_bytes(uri, byte_range=(offset, length), sha256=sha256))
    return found


def get_file(uri: str, target: Path, *, sha256: str | None = None) -> None:
    """Copy an object of any size to a local file, atomically, and check it.

    Where no checksum is known, the object's ETag must agree; where that says nothing (encrypted objects), the object is
    read until two copies agree.
    """
    store = store_of(uri)
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
    store = store_of(uri)
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


def file_sha256(path: Path) -> str:
    """SHA-256 of a local file, read in blocks."""
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()
