"""Reading objects: whole, a range, or in parallel parts into a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from landseg.contracts.errors import StorageError
from landseg.storage.object_info import check_size
from landseg.storage.parallel import parallel
from landseg.storage.retry import TransientError
from landseg.storage.s3.file_md5 import file_md5
from landseg.storage.s3.requests import PART_BYTES, PARTS_AT_ONCE, code, object_of, request

_USUAL_PARTS_MIB = (5, 8, 10, 15, 16, 20, 32, 50, 64, 100, 128, 256, 512)


def get_bytes(
    uri: str, byte_range: tuple[int, int] | None, *, confirm: bool, most: int | None = None
) -> tuple[bytes, bool]:
    """Read an object or (offset, length) of it.

    Returns:
        The bytes, and whether the object's ETag confirms them: that of a whole object, unless it is encrypted or was
        uploaded in parts; False where that is not asked for.
    """
    where = object_of(uri)
    if byte_range is not None:
        where["Range"] = f"bytes={byte_range[0]}-{byte_range[0] + byte_range[1] - 1}"

    def read(client: Any) -> tuple[bytes, bool]:
        answer = client.get_object(**where)
        if byte_range is None:
            check_size(uri, answer["ContentLength"], most)
        data: bytes = answer["Body"].read()
        if not confirm or byte_range is not None:
            return data, False
        return data, hashlib.md5(data, usedforsecurity=False).hexdigest() == answer["ETag"].strip('"')

    try:
        return request(uri, read)
    except StorageError as err:
        if code(err) == "InvalidRange":  # it begins beyond the end
            return b"", False
        raise


def get_file(uri: str, target: Path, *, confirm: bool) -> bool:
    """Read an object into a file, a large one in parallel parts.

    Returns:
        Whether the object's ETag confirms the bytes; False where that is not asked for (it costs an MD5).
    """
    with target.open("wb") as writer:

        def write(offset: int, block: bytes) -> None:
            os.pwrite(writer.fileno(), block, offset)

        size, etag = _get_part(uri, 0, None, write)
        for _ in parallel(
            lambda offset: _get_part(uri, offset, etag, write),
            range(PART_BYTES, size, PART_BYTES),
            workers=PARTS_AT_ONCE,
        ):
            pass
    return confirm and (size == 0 or etag_confirms(etag.strip('"'), target))


def etag_confirms(etag: str, path: Path) -> bool:
    """Whether an ETag is one that S3 gives to an object with these bytes.

    That is the MD5 of the bytes or, of an object that was uploaded in N parts, the MD5 of the parts' MD5s and `-N`; the
    size of the parts is not recorded, so those that common programs use are tried. The ETag of an encrypted object is
    something else.
    """
    md5, _, parts = etag.partition("-")
    size = path.stat().st_size
    if not parts.isdecimal():
        return file_md5(path, 0, size).hex() == etag
    for part_bytes in (mib << 20 for mib in _USUAL_PARTS_MIB):
        if -(-size // part_bytes) == int(parts):
            digests = b"".join(file_md5(path, offset, part_bytes) for offset in range(0, size, part_bytes))
            if hashlib.md5(digests, usedforsecurity=False).hexdigest() == md5:
                return True
    return False


def checksum(uri: str) -> tuple[int, str]:
    """Size and SHA-256 of an object, read in parts and not kept."""
    digest = hashlib.sha256()
    offset, size, etag = 0, 1, None
    while offset < size:

        def take(at: int, block: bytes, start: int = offset, before: hashlib._Hash = digest) -> None:
            nonlocal digest
            if at == start:  # a part that is read again begins anew
                digest = before.copy()
            digest.update(block)

        size, etag = _get_part(uri, offset, etag, take)
        offset += PART_BYTES
    return size, digest.hexdigest()


def _get_part(uri: str, offset: int, etag: str | None, keep: Callable[[int, bytes], None]) -> tuple[int, str]:
    """Read up to `PART_BYTES` bytes from `offset`; `keep` gets (offset, block) in order, each attempt from the first.

    Returns:
        Size and ETag of the whole object.
    """
    where = object_of(uri)
    where["Range"] = f"bytes={offset}-{offset + PART_BYTES - 1}"
    if etag is not None:
        where["IfMatch"] = etag

    def read(client: Any) -> tuple[int, str]:
        answer = client.get_object(**where)
        size = int(answer["ContentRange"].rpartition("/")[2])
        if answer["ContentLength"] != min(PART_BYTES, size - offset):
            raise TransientError(StorageError(uri, "object storage answered another range than it was asked for"))
        at = offset
        for block in answer["Body"].iter_chunks(1 << 20):
            keep(at, block)
            at += len(block)
        return size, str(answer["ETag"])

    try:
        return request(uri, read)
    except StorageError as err:
        if code(err) == "InvalidRange" and offset == 0:  # an empty object has no first byte
            return 0, ""
        if code(err) in {"PreconditionFailed", "InvalidRange"}:
            raise StorageError(uri, "the object was replaced while it was read") from err
        raise
