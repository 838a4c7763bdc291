"""What lies in a bucket: looked up, listed and removed."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from landseg.contracts.errors import ObjectNotFoundError, StorageError
from landseg.storage.object_info import ObjectInfo
from landseg.storage.parallel import parallel
from landseg.storage.s3.requests import ask, code, object_of, request
from landseg.storage.uris import split

_DELETED_AT_ONCE = 1000


def stat(uri: str) -> ObjectInfo | None:
    """What is known of an object without reading it; None where there is none."""
    where = object_of(uri)

    def read(client: Any) -> ObjectInfo:
        head = client.head_object(**where)
        return ObjectInfo(uri, int(head["ContentLength"]), head["LastModified"].timestamp(), _etag(head))

    try:
        return request(uri, read)
    except ObjectNotFoundError:
        return None


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    """All objects below a folder, page by page, except the empty objects with which consoles mark folders."""
    bucket, _ = split(uri)
    for page in _pages(uri, "list_objects_v2", {"ContinuationToken": "NextContinuationToken"}):
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):
                where = f"s3://{bucket}/{item['Key']}"
                yield ObjectInfo(where, int(item["Size"]), item["LastModified"].timestamp(), _etag(item))


def _etag(found: dict[str, Any]) -> str:
    """The ETag in what S3 says of an object, empty where it has none."""
    return str(found.get("ETag", "")).strip('"')


def links(uri: str) -> list[str]:
    """None: object storage has no links."""
    return []


def delete(uri: str) -> None:
    """Remove an object."""
    where = object_of(uri)
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


def _pages(uri: str, operation: str, markers: dict[str, str]) -> Iterator[dict[str, Any]]:
    """All pages of a listing below a folder; each page is a separate request, repeated if it fails."""
    bucket, key = split(uri)
    arguments = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else ""}
    is_truncated = True
    while is_truncated:
        page = ask(uri, operation, **arguments)
        yield page
        is_truncated = bool(page.get("IsTruncated"))
        if is_truncated:
            arguments |= {name: page[source] for name, source in markers.items()}
