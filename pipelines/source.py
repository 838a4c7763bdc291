"""Digests of what is stored at an address.

KFP's cache knows a source of tiles and a config by their addresses alone: changed content at the same address would go
unnoticed. So a digest is passed along, as a parameter of its own or appended to the address.
"""

from __future__ import annotations

import ast
import hashlib
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import botocore.exceptions
import requests

from pipelines.object_storage import s3_client
from pipelines.timeouts import TIMEOUT_S

_MAX_CONFIG_BYTES = 1 << 20
_MAX_CONFIGS = 100


class Listing(NamedTuple):
    """What lies below a source.

    Attributes:
        digest: 16 hexadecimal digits, of names, sizes and entity tags (times, for a folder).
        size_bytes: of all files.
    """

    digest: str
    size_bytes: int


def listing(source: str) -> Listing | None:
    """What lies below a source; None where nothing can be seen from here."""
    if source.startswith("s3://") and "AWS_ACCESS_KEY_ID" not in os.environ:
        return None
    digest, size_bytes = hashlib.sha256(), 0
    try:
        entries = sorted(_objects(source) if source.startswith("s3://") else _files(Path(source)))
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, OSError):
        return None
    for name, size, version in entries:
        digest.update(f"{name} {size} {version}".encode(errors="surrogateescape") + b"\0")
        size_bytes += size
    return Listing(digest.hexdigest()[:16], size_bytes) if entries else None


def pin_configs(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a pipeline, with `#<digest>` appended to the address of each config that can be read from here."""
    configs = {name: value for name, value in arguments.items() if name == "config" or name.endswith("_config")}
    return {**arguments, **{name: _pinned(str(value)) for name, value in configs.items()}}


def _pinned(config: str) -> str:
    if "#" in config or not ("/" in config or config.endswith((".py", ".json", ".yaml", ".yml"))):
        return config  # pinned already, or the name of a bundled config, which the image's tag identifies
    digest = hashlib.sha256()
    try:
        for text in _config_texts(config, set()):
            digest.update(text + b"\0")
    except (
        *(botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, OSError),
        *(SyntaxError, ValueError, TypeError, RecursionError, MemoryError),
    ):
        return config  # the stage will report what is wrong with it
    return f"{config}#{digest.hexdigest()[:16]}"


def _config_texts(config: str, seen: set[str]) -> Iterator[bytes]:
    """A config file and its bases, which it gives as paths relative to its own.

    Raises:
        ValueError: a file is larger than a config can be, is no file, or there are too many; one is its own base.
    """
    if config in seen or len(seen) == _MAX_CONFIGS:
        raise ValueError(f"{config}: its bases lead back to it, or are more than {_MAX_CONFIGS}")
    seen.add(config)
    if config.startswith("s3://"):
        bucket, _, key = config.removeprefix("s3://").partition("/")
        text = s3_client().get_object(Bucket=bucket, Key=key)["Body"].read(_MAX_CONFIG_BYTES + 1)
    elif "://" in config:
        with requests.get(config, timeout=TIMEOUT_S, stream=True) as answer:
            answer.raise_for_status()  # a kind of OSError
            text = next(answer.iter_content(_MAX_CONFIG_BYTES + 1), b"")
    else:
        if not Path(config).is_file():  # reading a pipe would wait forever
            raise ValueError(f"{config} is no file")
        with Path(config).open("rb") as reader:
            text = reader.read(_MAX_CONFIG_BYTES + 1)
    if len(text) > _MAX_CONFIG_BYTES:
        raise ValueError(f"{config} is larger than {_MAX_CONFIG_BYTES} bytes")
    yield text
    for node in ast.parse(text).body if config.endswith(".py") else ():
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "_base_" for target in node.targets):
            named = ast.literal_eval(node.value)
            scheme, separator, place = config.rpartition("://")
            for base in [named] if isinstance(named, str) else named:
                path = posixpath.normpath(posixpath.join(place, "..", base))
                yield from _config_texts(f"{scheme}{separator}{path}", seen)


def _objects(source: str) -> Iterator[tuple[str, int, str]]:
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
        for item in page.get("Contents", []):
            yield item["Key"].removeprefix(folder), item["Size"], item["ETag"]


def _files(folder: Path) -> Iterator[tuple[str, int, str]]:
    for path in folder.rglob("*"):
        if path.is_file():
            status = path.stat()
            yield str(path.relative_to(folder)), status.st_size, str(status.st_mtime_ns)
