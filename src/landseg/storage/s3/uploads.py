"""Writing objects: checked by the endpoint, large ones in parallel parts, and only where there is none if asked to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3transfer.utils import ReadFileChunk

from landseg.contracts.errors import StorageError
from landseg.storage.connection import connection
from landseg.storage.parallel import parallel
from landseg.storage.s3.file_md5 import file_md5
from landseg.storage.s3.folders import stat
from landseg.storage.s3.requests import PART_BYTES, PARTS_AT_ONCE, ask, code, object_of, request

_MAX_PARTS = 10_000
_UPLOAD_STARTS = 10
_EXISTS = ("PreconditionFailed", "ConditionalRequestConflict")
_NO_CONDITIONS = ("NotImplemented", "InvalidArgument", "InvalidRequest")


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
        md5 = _base64(hashlib.md5(content, usedforsecurity=False).digest())
        ask(uri, "put_object", **object_of(uri), Body=content, ContentMD5=md5, **condition)
    else:
        put_file(uri, content, **condition)


def put_file(uri: str, source: Path, **condition: str) -> None:
    """Write an object from a file, which is sent as it is read; a large one in parallel parts."""
    size = source.stat().st_size
    if size <= 2 * PART_BYTES:
        request(uri, lambda client: _put_whole(client, source, size, **object_of(uri), **condition))
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


def _put_whole(client: Any, source: Path, size: int, **arguments: str) -> None:
    with _sent(source, 0, size) as body:
        client.put_object(**arguments, **body)


def _put_parts(uri: str, source: Path, size: int, condition: dict[str, str]) -> None:
    where = object_of(uri)
    part_bytes = max(PART_BYTES, -(-size // _MAX_PARTS))
    upload = {**where, "UploadId": request(uri, lambda client: client.create_multipart_upload(**where)["UploadId"])}

    def put_part(offset: int) -> dict[str, Any]:
        number = offset // part_bytes + 1

        def put(client: Any) -> str:
            with _sent(source, offset, min(part_bytes, size - offset)) as body:
                return str(client.upload_part(**upload, PartNumber=number, **body)["ETag"])

        return {"PartNumber": number, "ETag": request(uri, put)}

    try:
        uploaded = parallel(put_part, range(0, size, part_bytes), workers=PARTS_AT_ONCE)
        parts = sorted(uploaded, key=lambda part: int(part["PartNumber"]))
        ask(uri, "complete_multipart_upload", **upload, MultipartUpload={"Parts": parts}, **condition)
    except BaseException:
        with contextlib.suppress(Exception):  # one try: the error at hand matters more
            connection().client(uri).abort_multipart_upload(**upload)
        raise


@contextlib.contextmanager
def _sent(source: Path, offset: int, length: int) -> Iterator[dict[str, Any]]:
    """Arguments of a request that sends a part of a file, as it is read."""
    md5 = _base64(file_md5(source, offset, length))
    with ReadFileChunk.from_filename(source, offset, length) as body:
        if len(body) != length:
            raise StorageError(source, "the file changed while it was uploaded")
        yield {"Body": body, "ContentMD5": md5}


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
