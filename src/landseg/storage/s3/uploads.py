"""Writing objects: checked by the endpoint, large ones in parallel parts, and only where there is none if asked to."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
from pathlib import Path
from typing import Any

from landseg.contracts.errors import StorageError
from landseg.storage.connection import UPLOAD_THREADS, connection
from landseg.storage.parallel import parallel
from landseg.storage.s3.folders import stat
from landseg.storage.s3.requests import PART_BYTES, ask, code, object_of, request

_MAX_PARTS = 10_000
_UPLOAD_STARTS = 10
_EXISTS = ("PreconditionFailed", "ConditionalRequestConflict")
_NO_CONDITIONS = ("NotImplemented", "InvalidArgument", "InvalidRequest")


_new_md5 = functools.partial(hashlib.md5, usedforsecurity=False)


def _md5(data: bytes | bytearray) -> str:
    return base64.b64encode(_new_md5(data).digest()).decode()


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
        ask(uri, "put_object", **object_of(uri), Body=content, ContentMD5=_md5(content), **condition)
    else:
        put_file(uri, content, **condition)


def put_file(uri: str, source: Path, **condition: str) -> None:
    """Write an object from a file, which is sent as it is read; a large one in parallel parts."""
    size = source.stat().st_size
    if size <= 2 * PART_BYTES:
        request(uri, lambda client: _send(client, source, **object_of(uri), **condition))
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


def _send(client: Any, source: Path, **arguments: str) -> None:
    with source.open("rb") as body:
        md5 = base64.b64encode(hashlib.file_digest(body, _new_md5).digest()).decode()
        body.seek(0)
        client.put_object(**arguments, Body=body, ContentMD5=md5)


def _put_parts(uri: str, source: Path, size: int, condition: dict[str, str]) -> None:
    where = object_of(uri)
    buffers = connection().upload_buffers
    part_bytes = max(PART_BYTES, -(-size // _MAX_PARTS))
    upload = {**where, "UploadId": request(uri, lambda client: client.create_multipart_upload(**where)["UploadId"])}

    def put_part(number: int) -> dict[str, Any]:
        try:
            data = buffers.popleft() if part_bytes == PART_BYTES else bytearray(part_bytes)
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
        if len(data) == PART_BYTES:
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
