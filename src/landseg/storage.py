"""Object storage: verified, atomic reads and writes by URI.

A URI is `s3://bucket/key` or a local path; no other scheme. Credentials, endpoint and region come from the environment,
as boto3 reads them: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_REGION`. They are not
parameters because parameters end up in compiled YAML, cache keys and logs.

Every write is atomic: a reader sees the whole object or none.
"""

from __future__ import annotations

import functools
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

import boto3
import botocore.exceptions
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from landseg.documents import Document, Reference, parse_json, sha256_hex
from landseg.errors import ObjectNotFoundError, StorageError

D = TypeVar("D", bound=Document)
P = ParamSpec("P")
R = TypeVar("R")

_TRANSFER = TransferConfig(multipart_threshold=32 << 20, multipart_chunksize=16 << 20, max_concurrency=8)


@dataclass(frozen=True)
class ObjectInfo:
    """An object in storage: its URI and size."""

    uri: str
    size_bytes: int


@dataclass(frozen=True)
class Loaded(Generic[D]):
    """A manifest together with where it was read and the checksum of its bytes."""

    uri: str
    sha256: str
    document: D


def join(uri: str, *parts: str) -> str:
    """Append path parts; `..` climbs one folder, as a manifest's shard paths need."""
    for part in parts:
        for name in part.split("/"):
            uri = uri.rstrip("/").rpartition("/")[0] if name == ".." else f"{uri.rstrip('/')}/{name}"
    return uri


def parent(uri: str) -> str:
    """The folder of a URI."""
    return uri.rstrip("/").rpartition("/")[0]


def is_s3(uri: str) -> bool:
    """Whether the URI is an S3 one; False for a local path.

    Raises:
        StorageError: another scheme.
    """
    scheme, separator, _ = str(uri).partition("://")
    if separator and scheme != "s3":
        raise StorageError(uri, f"expected s3://bucket/key or a local path, found the scheme {scheme!r}")
    return bool(separator)


def _translated(function: Callable[P, R]) -> Callable[P, R]:
    """Turn what boto3 raises into one clear StorageError; the first argument is the URI."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        uri = args[0]
        try:
            return function(*args, **kwargs)
        except botocore.exceptions.ClientError as err:
            code = str(err.response.get("Error", {}).get("Code", ""))
            status = err.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code == "NoSuchBucket":
                raise StorageError(uri, "the bucket does not exist", "create it first") from err
            if code in {"NoSuchKey", "404", "NotFound"}:
                raise ObjectNotFoundError(uri, "no such object") from err
            if status in {401, 403}:
                raise StorageError(
                    uri,
                    f"access denied by object storage ({code})",
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
                ) from err
            raise StorageError(uri, f"object storage answered {status} {code}: {err}") from err
        except botocore.exceptions.NoCredentialsError as err:
            raise StorageError(
                uri, "no credentials for object storage", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from err
        except (botocore.exceptions.BotoCoreError, boto3.exceptions.Boto3Error) as err:
            raise StorageError(uri, f"object storage is out of reach: {err}", "check AWS_ENDPOINT_URL") from err
        except FileNotFoundError as err:
            raise ObjectNotFoundError(uri, "no such file") from err

    return wrapper


@functools.cache
def _client() -> Any:
    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=32,
        s3={"addressing_style": os.environ.get("LANDSEG_S3_ADDRESSING", "path")},
    )
    return boto3.client("s3", config=config)


def _bucket_key(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


@_translated
def put_bytes(uri: str, data: bytes) -> None:
    """Write an object atomically."""
    if is_s3(uri):
        _client().put_object(**_bucket_key(uri), Body=data)
        return
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@_translated
def put_file(uri: str, source: Path) -> None:
    """Write an object atomically from a local file of any size."""
    if is_s3(uri):
        where = _bucket_key(uri)
        _client().upload_file(str(source), where["Bucket"], where["Key"], Config=_TRANSFER)
        return
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with source.open("rb") as reader, partial.open("wb") as writer:
            while block := reader.read(8 << 20):
                writer.write(block)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@_translated
def get_bytes(uri: str, *, byte_range: tuple[int, int] | None = None, sha256: str | None = None) -> bytes:
    """Read an object, or `byte_range` = (offset, length) of it, and check it where its checksum is known.

    Raises:
        ObjectNotFoundError: there is none.
        StorageError: out of reach, refused, or the bytes are not those that were written.
    """
    if is_s3(uri):
        extra = {}
        if byte_range is not None:
            extra["Range"] = f"bytes={byte_range[0]}-{byte_range[0] + byte_range[1] - 1}"
        data = cast(bytes, _client().get_object(**_bucket_key(uri), **extra)["Body"].read())
    else:
        with Path(uri).open("rb") as reader:
            if byte_range is not None:
                reader.seek(byte_range[0])
            data = reader.read(-1 if byte_range is None else byte_range[1])
    if sha256 is not None and sha256_hex(data) != sha256:
        raise StorageError(
            uri, f"expected bytes with sha256 {sha256}, found {sha256_hex(data)}", "the object is damaged"
        )
    return data


@_translated
def get_file(uri: str, target: Path, *, sha256: str | None = None) -> None:
    """Copy an object of any size to a local file, atomically, and check it where its checksum is known."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        if is_s3(uri):
            where = _bucket_key(uri)
            _client().download_file(where["Bucket"], where["Key"], str(partial), Config=_TRANSFER)
        else:
            with Path(uri).open("rb") as reader, partial.open("wb") as writer:
                while block := reader.read(8 << 20):
                    writer.write(block)
        if sha256 is not None:
            found = file_sha256(partial)
            if found != sha256:
                raise StorageError(uri, f"expected bytes with sha256 {sha256}, found {found}", "the object is damaged")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@_translated
def stat(uri: str) -> ObjectInfo | None:
    """Size of an object, or None where there is none."""
    if is_s3(uri):
        try:
            head = _client().head_object(**_bucket_key(uri))
        except botocore.exceptions.ClientError as err:
            if err.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return None
            raise
        return ObjectInfo(uri, int(head["ContentLength"]))
    path = Path(uri)
    return ObjectInfo(uri, path.stat().st_size) if path.is_file() else None


@_translated
def list_objects(uri: str) -> list[ObjectInfo]:
    """All objects below a folder, sorted by URI."""
    if is_s3(uri):
        where = _bucket_key(uri.rstrip("/") + "/")
        pages = (
            _client().get_paginator("list_objects_v2").paginate(Bucket=where["Bucket"], Prefix=where["Key"].lstrip("/"))
        )
        found = [
            ObjectInfo(f"s3://{where['Bucket']}/{item['Key']}", int(item["Size"]))
            for page in pages
            for item in page.get("Contents", [])
        ]
    else:
        found = [ObjectInfo(str(path), path.stat().st_size) for path in _files(Path(uri))]
    return sorted(found, key=lambda info: info.uri)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@_translated
def delete(uri: str) -> None:
    """Remove an object; nothing happens where there is none."""
    if is_s3(uri):
        _client().delete_object(**_bucket_key(uri))
    else:
        Path(uri).unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a local file, read in blocks."""
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def read_document(kind: type[D], ref: str) -> Loaded[D]:
    """Read a manifest by its URI, by local path, or through the reference file that KFP carries.

    Raises:
        ContractError: another kind of document, or a version that is not known.
        StorageError: it cannot be read, or is not the one that the reference names.
    """
    data = get_bytes(ref)
    obj = parse_json(data, ref)
    if isinstance(obj, dict) and obj.get("kind") == Reference.model_fields["kind"].default:
        reference = Reference.parse(data, ref)
        data = get_bytes(reference.uri, sha256=reference.sha256)
        ref = reference.uri
    return Loaded(ref, sha256_hex(data), kind.parse(data, ref))


def write_document(uri: str, document: D) -> Loaded[D]:
    """Write a manifest: the last write of a stage, whose presence means done."""
    data = document.to_bytes()
    put_bytes(uri, data)
    return Loaded(uri, sha256_hex(data), document)
