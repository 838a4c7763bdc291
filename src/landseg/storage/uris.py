"""URIs: `s3://bucket/key` or a local path, nothing else. Documents carry them, so they are untrusted input."""

from __future__ import annotations

import re
from pathlib import Path

from landseg.contracts.errors import StorageError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_MAX_KEY_BYTES = 1024
_SLIP = re.compile(r"(?:s3|s3a|s3n|gs|minio|oci|az|https?|hdfs|file):", re.IGNORECASE)
"""What begins like this is meant as a URI: a folder of that name would be nobody's wish."""


def is_s3(uri: str) -> bool:
    """Whether the URI is an S3 one; False for a local path.

    Raises:
        StorageError: another scheme, nothing at all, or characters that no path should have.
    """
    if not uri.strip() or _CONTROL.search(uri):
        raise StorageError(repr(uri), "expected s3://bucket/key or a local path without control characters")
    scheme, separator, _ = uri.partition("://")
    if separator and scheme != "s3":
        raise StorageError(uri, f"expected s3://bucket/key or a local path, found the scheme {scheme!r}")
    if not separator and _SLIP.match(uri):
        hint = f"a folder of that name is ./{uri}"
        raise StorageError(uri, "expected s3://bucket/key with two slashes, or a local path", hint)
    return bool(separator)


def folder(given: str) -> str:
    """A folder as a command is given it: without a slash at its end, a local one as an absolute path.

    Raises:
        StorageError: it is empty, of another scheme, or names no bucket.
    """
    if not is_s3(given):
        return str(Path(given).resolve())
    uri = given.rstrip("/")
    split(uri if uri.startswith("s3://") else given)
    return uri


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
    """Append path parts. None may climb, apart from `../shards/…`, which is where a dataset's shards lie.

    Raises:
        StorageError: a part would climb.
    """
    for part in parts:
        names = part.split("/")
        if names[0] == ".." and names[1:2] == ["shards"]:
            uri, names = parent(uri), names[1:]
        if ".." in names:
            raise StorageError(uri, f"expected the name of something below it, found {part!r}")
        for name in names:
            uri = f"{uri.rstrip('/')}/{name}"
    return uri


def is_below(uri: str, folder: str) -> bool:
    """Whether a URI, untrusted, lies in a folder or its folders, without climbing on the way."""
    inner = uri.removeprefix(f"{folder.rstrip('/')}/")
    return inner != uri and {"", ".", ".."}.isdisjoint(inner.split("/")) and not _CONTROL.search(uri)


def parent(uri: str) -> str:
    """The folder of a URI.

    Raises:
        StorageError: a bucket has none.
    """
    folder = uri.rstrip("/").rpartition("/")[0]
    if uri.startswith("s3://") and len(folder) <= len("s3://"):
        raise StorageError(uri, "a bucket has no folder above it")
    return folder
