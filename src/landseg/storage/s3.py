"""An S3-compatible endpoint as object storage: checked uploads, and parallel parts for large objects.

Every upload carries its Content-MD5, which an endpoint must check before it accepts the bytes.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from landseg.contracts.errors import ObjectNotFoundError, StorageError
from landseg.storage.connection import UPLOAD_THREADS, connection
from landseg.storage.object_info import ObjectInfo
from landseg.storage.parallel import parallel
from landseg.storage.retry import TransientError
from landseg.storage.s3_requests import ask, code, request
from landseg.storage.uris import split

_PART = 16 << 20
_MAX_PARTS = 10_000
_UPLOAD_STARTS = 10
_DELETED_AT_ONCE = 1000
_EXISTS = ("PreconditionFailed", "ConditionalRequestConflict")
_NO_CONDITIONS = ("NotImplemented", "InvalidArgument", "InvalidRequest")
_USUAL_PARTS_MIB = (5, 8, 10, 15, 16, 20, 32, 50, 64, 100, 128, 256, 512)


def _where(uri: str) -> dict[str, str]:
    bucket, key = split(uri)
    if not key or key.endswith("/"):
        raise StorageError(uri, "expected an object s3://bucket/key, found a bucket or a folder")
    return {"Bucket": bucket, "Key": key}


def _md5(data: bytes | bytearray) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def put_bytes(uri: str, data: bytes) -> None:
    """Write an object in one request."""
    _put(uri, data)


def create(uri: str, content: bytes | Path) -> bool:
    """Write an object unless there is one.

    Of several that try at once, one succeeds, where the endpoint knows conditional writes (`If-None-Match`); others
    ignore the condition, or refuse it. There, the last of those that found none within the same moment remains.
    """
    if stat(uri) is not None:
        return False
    try:
        _put(uri, content, IfNoneMatch="*")
    except StorageError as err:
        if code(err) not in {*_EXISTS, *_NO_CONDITIONS}:
            raise
        if stat(uri) is not None:
            return False
        _put(uri, content)
    return True


def _put(uri: str, content: bytes | Path, **condition: str) -> None:
    if isinstance(content, bytes):
        ask(uri, "put_object", **_where(uri), Body=content, ContentMD5=_md5(content), **condition)
    else:
        put_file(uri, content, **condition)


def put_file(uri: str, source: Path, **condition: str) -> None:
    """Write an object from a file, a large one in parallel parts."""
    size = source.stat().st_size
    if size <= 2 * _PART:
        _put(uri, source.read_bytes(), **condition)
        return
    starts = 0
    while True:
        try:
            _put_parts(uri, source, size, condition)
            return
        except StorageError as err:
            # The endpoint dropped the upload: it restarted, rejected a damaged part for good, or had completed the
            # upload when its answer got lost. Uploading again is the remedy for all of these.
            starts += 1
            if code(err) not in {"NoSuchUpload", "InvalidPart"} or starts == _UPLOAD_STARTS:
                raise


def _put_parts(uri: str, source: Path, size: int, condition: dict[str, str]) -> None:
    where = _where(uri)
    buffers = connection().upload_buffers
    part_bytes = max(_PART, -(-size // _MAX_PARTS))
    upload = {**where, "UploadId": request(uri, lambda client: client.create_multipart_upload(**where)["UploadId"])}

    def put_part(number: int) -> dict[str, Any]:
        try:
            data = buffers.popleft() if part_bytes == _PART else bytearray(part_bytes)
        except IndexError:
            data = bytearray(part_bytes)
        with source.open("rb") as reader:
            reader.seek((number - 1) * part_bytes)
            length = reader.readinto(data)
        if length != min(part_bytes, size - (number - 1) * part_bytes):
            raise StorageError(source, "the file changed while it was uploaded")
        del data[length:]
        part = {**upload, "PartNumber": number, "Body": data, "ContentMD5": _md5(data)}
        etag = request(uri, lambda client: client.upload_part(**part)["ETag"])
        if len(data) == _PART:
            buffers.append(data)
        return {"PartNumber": number, "ETag": etag}

    try:
        numbers = range(1, -(-size // part_bytes) + 1)
        parts = sorted(parallel(put_part, numbers, workers=UPLOAD_THREADS), key=lambda part: int(part["PartNumber"]))
        ask(uri, "complete_multipart_upload", **upload, MultipartUpload={"Parts": parts}, **condition)
    except BaseException:
        with contextlib.suppress(Exception):  # one try: the error at hand matters more
            connection().client(uri).abort_multipart_upload(**upload)
        raise


def get_bytes(uri: str, byte_range: tuple[int, int] | None, *, confirm: bool) -> tuple[bytes, bool]:
    """Read an object or (offset, length) of it.

    Returns:
        The bytes, and whether the object's ETag confirms them: that of a whole object, unless it is encrypted or was
        uploaded in parts; False where that is not asked for.
    """
    where = _where(uri)
    if byte_range is not None:
        where["Range"] = f"bytes={byte_range[0]}-{byte_range[0] + byte_range[1] - 1}"

    def read(client: Any) -> tuple[bytes, bool]:
        answer = client.get_object(**where)
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
            lambda offset: _get_part(uri, offset, etag, write), range(_PART, size, _PART), workers=UPLOAD_THREADS
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
        return _file_md5(path, 0, size).hex() == etag
    for part_bytes in (mib << 20 for mib in _USUAL_PARTS_MIB):
        if -(-size // part_bytes) == int(parts):
            digests = b"".join(_file_md5(path, offset, part_bytes) for offset in range(0, size, part_bytes))
            if hashlib.md5(digests, usedforsecurity=False).hexdigest() == md5:
                return True
    return False


def _file_md5(path: Path, offset: int, length: int) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as reader:
        reader.seek(offset)
        while length > 0 and (block := reader.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return digest.digest()


def checksum(uri: str) -> tuple[int, str]:
    """Size and SHA-256 of an object, read in parts and not kept."""
    digest = hashlib.sha256()
    part = bytearray(_PART)
    offset, size, etag = 0, 1, None
    while offset < size:

        def keep(at: int, block: bytes, start: int = offset) -> None:
            part[at - start : at - start + len(block)] = block

        size, etag = _get_part(uri, offset, etag, keep)
        digest.update(memoryview(part)[: min(_PART, size - offset)])
        offset += _PART
    return size, digest.hexdigest()


def _get_part(uri: str, offset: int, etag: str | None, keep: Callable[[int, bytes], None]) -> tuple[int, str]:
    """Read up to `_PART` bytes from `offset`; `keep` gets (offset, block), again for whatever is read again.

    Returns:
        Size and ETag of the whole object.
    """
    where = _where(uri)
    where["Range"] = f"bytes={offset}-{offset + _PART - 1}"
    if etag is not None:
        where["IfMatch"] = etag

    def read(client: Any) -> tuple[int, str]:
        answer = client.get_object(**where)
        size = int(answer["ContentRange"].rpartition("/")[2])
        if answer["ContentLength"] != min(_PART, size - offset):
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


def stat(uri: str) -> ObjectInfo | None:
    """Size of an object, or None where there is none."""
    where = _where(uri)

    def read(client: Any) -> ObjectInfo:
        head = client.head_object(**where)
        return ObjectInfo(uri, int(head["ContentLength"]), head["LastModified"].timestamp())

    try:
        return request(uri, read)
    except ObjectNotFoundError:
        return None


def list_objects(uri: str) -> list[ObjectInfo]:
    """All objects below a folder, except the empty objects with which consoles mark folders."""
    bucket, _ = split(uri)
    pages = _pages(uri, "list_objects_v2", {"ContinuationToken": "NextContinuationToken"})
    items = [item for page in pages for item in page.get("Contents", [])]
    return [
        ObjectInfo(
            f"s3://{bucket}/{item['Key']}",
            int(item["Size"]),
            item["LastModified"].timestamp(),
            item.get("ETag", "").strip('"'),
        )
        for item in items
        if not item["Key"].endswith("/")
    ]


def links(uri: str) -> list[str]:
    """None: object storage has no links."""
    return []


def delete(uri: str) -> None:
    """Remove an object."""
    where = _where(uri)
    ask(uri, "delete_object", **where)


def delete_many(uris: list[str]) -> None:
    """Remove objects, 1,000 a request; one by one what an endpoint does not remove in this way."""

    def remove(bucket: str, keys: list[str]) -> list[str]:
        """Returns the keys of those that are still there."""
        uri = f"s3://{bucket}/{keys[0]}"
        arguments = {"Bucket": bucket, "Delete": {"Objects": [{"Key": key} for key in keys], "Quiet": True}}
        try:
            answer = ask(uri, "delete_objects", **arguments)
        except StorageError as err:
            if code(err) in {"", "NoSuchBucket"}:
                raise
            return keys
        return [error["Key"] for error in answer.get("Errors", [])]

    by_bucket: dict[str, list[str]] = {}
    for uri in uris:
        bucket, key = split(uri)
        by_bucket.setdefault(bucket, []).append(key)
    batches = [
        (bucket, keys[start : start + _DELETED_AT_ONCE])
        for bucket, keys in by_bucket.items()
        for start in range(0, len(keys), _DELETED_AT_ONCE)
    ]
    for bucket, left in parallel(lambda batch: (batch[0], remove(*batch)), batches):
        for _ in parallel(delete, [f"s3://{bucket}/{key}" for key in left]):
            pass


def clean_abandoned(uri: str, older_than_s: float) -> int:
    """Abort multipart uploads whose writers were killed; they are invisible, and providers charge for them."""
    bucket, _ = split(uri)
    markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
    aborted = 0
    try:
        for page in _pages(uri, "list_multipart_uploads", markers):
            for upload in page.get("Uploads", []):
                age = datetime.datetime.now(datetime.UTC) - upload["Initiated"]
                if age.total_seconds() > older_than_s:
                    which = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    ask(uri, "abort_multipart_upload", **which)
                    aborted += 1
    except StorageError as err:
        # Not every endpoint can list uploads, and not every user may: tidying up must not stop the work.
        if code(err) in {"", "NoSuchBucket"}:
            raise
    return aborted


def _pages(uri: str, operation: str, markers: dict[str, str]) -> list[dict[str, Any]]:
    """All pages of a listing below a folder; each page is a separate request, repeated if it fails."""
    bucket, key = split(uri)
    arguments = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else ""}
    pages: list[dict[str, Any]] = []
    while not pages or pages[-1].get("IsTruncated"):
        if pages:
            arguments |= {name: pages[-1][source] for name, source in markers.items()}
        pages.append(ask(uri, operation, **arguments))
    return pages
