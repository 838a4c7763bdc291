"""Endpoints that refuse what others take: the stages and `make submit` come to terms with the same ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import company_ca
from picky_s3 import PickyS3

from landseg import storage
from landseg.contracts.errors import StorageError
from landseg.storage.connection import connection
from pipelines.cluster import preflight
from pipelines.errors import UserError
from pipelines.object_storage import s3_client


def by_stage() -> None:
    storage.put_bytes("s3://bucket/a", b"landseg")


def by_submit() -> None:
    note = preflight.check_storage("s3://bucket/a")
    if note:
        raise UserError(note)


BOTH = pytest.mark.parametrize("write", [by_stage, by_submit])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "LANDSEG_")) or name == "REQUESTS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "landseg")


@BOTH
def test_no_checksums_that_older_endpoints_refuse(write: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    with PickyS3(refuses_checksums=True) as picky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", picky.endpoint)
        write()
    assert picky.written


def test_files_are_sent_unannounced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"landseg")
    with PickyS3(refuses_checksums=True) as picky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", picky.endpoint)
        storage.put_file("s3://bucket/a", tmp_path / "file")
    assert [headers["content-length"] for headers in picky.written] == ["7"]
    assert "expect" not in picky.written[0], "many endpoints never answer that, and each file would wait a second"


@BOTH
@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_of_the_environment(
    write: Callable[[], None], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PickyS3(region="gra") as picky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", picky.endpoint)
        monkeypatch.setenv(variable, "gra")
        write()
    assert picky.written


@BOTH
def test_encryption_that_a_bucket_demands(write: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    with PickyS3(encryption="aws:kms") as picky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", picky.endpoint)
        with pytest.raises((StorageError, UserError), match="AccessDenied"):
            write()
        monkeypatch.setenv("LANDSEG_S3_SSE", "aws:kms:key-1")
        write()
    assert picky.written[0]["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    monkeypatch.setenv("LANDSEG_S3_SSE", "aes256")
    with pytest.raises((StorageError, UserError), match="LANDSEG_S3_SSE: expected AES256, aws:kms or"):
        write()


@BOTH
def test_a_certificate_authority_of_ones_own(
    write: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ca, context = company_ca(tmp_path)
    with PickyS3(context=context) as picky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", picky.endpoint)
        with pytest.raises((StorageError, UserError), match="certificate") as caught:
            write()
        if write is by_stage:
            assert picky.num_connections == 1  # another attempt would not trust it either
            assert "is not signed by the usual authorities: " in str(caught.value)
            assert "set AWS_CA_BUNDLE to a file" in str(caught.value)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ca))
        write()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "gone"))
    if write is by_stage:
        with pytest.raises(StorageError, match="AWS_CA_BUNDLE: expected the file of a certificate authority"):
            write()


@pytest.mark.parametrize("variables", [{}, {"LANDSEG_S3_ADDRESSING": "virtual", "AWS_REGION": "r"}, {"AWS_REGION": ""}])
def test_both_are_set_up_alike(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", **variables}.items():
        monkeypatch.setenv(name, value)
    mine, theirs = connection().client("s3://bucket/a").meta, s3_client().meta
    assert (mine.endpoint_url, mine.region_name) == (theirs.endpoint_url, theirs.region_name)
    for name in (
        "request_checksum_calculation",
        "response_checksum_validation",
        "s3",
        "tcp_keepalive",
        "signature_version",
    ):
        assert getattr(mine.config, name) == getattr(theirs.config, name), name
