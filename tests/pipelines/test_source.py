from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest

from pipelines.source import fingerprint


def test_a_folders_fingerprint_follows_what_is_in_it(tmp_path: Path) -> None:
    assert fingerprint(str(tmp_path)) == ""
    tile = tmp_path / "train" / "images" / "a.tif"
    tile.parent.mkdir(parents=True)
    tile.write_bytes(b"one")
    first = fingerprint(str(tmp_path))
    assert len(first) == 16
    assert fingerprint(str(tmp_path)) == first
    tile.write_bytes(b"other")
    second = fingerprint(str(tmp_path))
    tile.rename(tile.with_name("b.tif"))
    assert len({first, second, fingerprint(str(tmp_path))}) == 3


def test_a_prefixs_fingerprint_follows_what_is_in_it(s3: Any) -> None:
    client = boto3.client("s3")
    bucket, _, prefix = s3.uri.removeprefix("s3://").partition("/")
    assert fingerprint(s3.uri) == ""
    client.put_object(Bucket=bucket, Key=f"{prefix}/a.tif", Body=b"one")
    client.put_object(Bucket=bucket, Key=f"{prefix}-other/a.tif", Body=b"not below the prefix")
    first = fingerprint(s3.uri)
    assert fingerprint(f"{s3.uri}/") == first
    client.put_object(Bucket=bucket, Key=f"{prefix}/a.tif", Body=b"two")
    assert fingerprint(s3.uri) not in ("", first)


def test_what_cannot_be_seen_has_none(monkeypatch: pytest.MonkeyPatch, s3: Any) -> None:
    assert fingerprint("s3://no-such-bucket/tiles") == ""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert fingerprint(s3.uri) == ""
    assert fingerprint("/no/such/folder") == ""
