"""What stands at a source of raw tiles, in one word.

KFP's cache knows a source by its URI alone: other tiles put at the same place would go unseen. So this goes along as a
parameter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import botocore.exceptions

from pipelines.preflight import s3_client


def fingerprint(source: str) -> str:
    """Digest of the names, sizes and entity tags (times, for a folder) below a source.

    Returns:
        16 hexadecimal digits, or nothing where the source cannot be seen from here.
    """
    if source.startswith("s3://") and "AWS_ACCESS_KEY_ID" not in os.environ:
        return ""
    digest, entries = hashlib.sha256(), 0
    try:
        for entry in sorted(_objects(source) if source.startswith("s3://") else _files(Path(source))):
            digest.update(entry.encode(errors="surrogateescape") + b"\0")
            entries += 1
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, OSError):
        return ""
    return digest.hexdigest()[:16] if entries else ""


def _objects(source: str) -> Iterator[str]:
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
        for item in page.get("Contents", []):
            yield f"{item['Key'].removeprefix(folder)} {item['Size']} {item['ETag']}"


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            status = path.stat()
            yield f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}"
