"""Fingerprints of source data and configs, by which a changed one is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest

from pipelines.source import listing, pin_configs


def fingerprint(source: str) -> str:
    found = listing(source)
    return found.digest if found else ""


def test_a_folders_fingerprint_follows_what_is_in_it(tmp_path: Path) -> None:
    assert fingerprint(str(tmp_path)) == ""
    tile = tmp_path / "train" / "images" / "a.tif"
    tile.parent.mkdir(parents=True)
    tile.write_bytes(b"one")
    first = fingerprint(str(tmp_path))
    assert len(first) == 16
    assert fingerprint(str(tmp_path)) == first
    tile.write_bytes(b"other")
    found = listing(str(tmp_path))
    assert found
    assert found.size_bytes == 5
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


def pinned(config: str) -> str:
    return str(pin_configs({"swin_config": config, "epochs": 3})["swin_config"])


def test_a_config_in_storage_is_pinned_with_its_bases(s3: Any) -> None:
    client = boto3.client("s3")
    bucket, _, prefix = s3.uri.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=f"{prefix}/models/mine.py", Body=b"_base_ = ['../base.py']\nlr = 1\n")
    client.put_object(Bucket=bucket, Key=f"{prefix}/base.py", Body=b"epochs = 1\n")
    uri = f"{s3.uri}/models/mine.py"
    first = pinned(uri)
    assert first.startswith(f"{uri}#")
    assert pinned(uri) == pinned(first) == first
    client.put_object(Bucket=bucket, Key=f"{prefix}/base.py", Body=b"epochs = 2\n")
    assert pinned(uri) not in (uri, first)


def test_a_local_config_is_pinned_and_others_are_left_alone(tmp_path: Path, s3: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text("lr = 1\n")
    first = pinned(str(path))
    path.write_text("lr = 2\n")
    assert len({str(path), first, pinned(str(path))}) == 3
    path.write_text("_base_ = 'not there.py'\n")
    for config in ("swin", "swin_tiny", str(path), f"{s3.uri}/none.py", str(tmp_path / "none.py")):
        assert pinned(config) == config
    assert pin_configs({"config": "swin", "lr": 0.1}) == {"config": "swin", "lr": 0.1}
