"""URIs: `s3://bucket/key` or a local path, nothing else. Documents carry them, so they are untrusted input."""

from __future__ import annotations

import re

from landseg.contracts.errors import StorageError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_MAX_KEY_BYTES = 1024


def is_s3(uri: str) -> bool:
    """Whether the URI is an S3 one; False for a local path.

    Raises:
        StorageError: another scheme, nothing at all, or characters that no path should have.
    """
    if not uri or _CONTROL.search(uri):
        raise StorageError(repr(uri), "expected s3://bucket/key or a local path without control characters")
    scheme, separator, _ = uri.partition("://")
    if separator and scheme != "s3":
        raise StorageError(uri, f"expected s3://bucket/key or a local path, found the scheme {scheme!r}")
    return bool(separator)


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 URI; the key is empty for a whole bucket and may end with a slash.

    Raises:
        StorageError: a bucket name or a key that S3 or a file-backed endpoint would refuse or read otherwise.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not {":", "@"}.isdisjoint(bucket):  # not repeated here: it may be a password
        hint = "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, never from a URI"
        raise StorageError("s3://***", "expected s3://bucket/key, found a name or a port in it", hint)
    if not _BUCKET.fullmatch(bucket):
        raise StorageError(uri, f"expected s3://bucket/key, found the bucket name {bucket!r}")
    if key and not {"", ".", ".."}.isdisjoint(key.removesuffix("/").split("/")):
        raise StorageError(uri, "expected a key without '.', '..' and empty parts")
    if len(key.encode()) > _MAX_KEY_BYTES:
        raise StorageError(uri[:60] + "...", f"expected a key of at most {_MAX_KEY_BYTES} bytes")
    return bucket, key


def join(uri: str, *parts: str) -> str:
    """Append path parts; `..` climbs one folder, as a manifest's shard paths need.

    Raises:
        StorageError: it would climb out of the bucket.
    """
    for part in parts:
        for name in part.split("/"):
            uri = parent(uri) if name == ".." else f"{uri.rstrip('/')}/{name}"
    return uri


def parent(uri: str) -> str:
    """The folder of a URI.

    Raises:
        StorageError: a bucket has none.
    """
    folder = uri.rstrip("/").rpartition("/")[0]
    if uri.startswith("s3://") and len(folder) <= len("s3://"):
        raise StorageError(uri, "a bucket has no folder above it")
    return folder
