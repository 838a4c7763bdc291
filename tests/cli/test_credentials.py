"""Credentials come from the environment and stay there: not in logs, error lines, artifacts, or compiled YAML."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_endpoint import S3

from components.images import ROOT
from landseg import storage
from landseg.cli import console
from landseg.cli.main import main
from landseg.contracts.errors import LandsegError, StorageError, masked, without_credentials
from pipelines.arguments import parse_parameters
from pipelines.dags.packages import package
from pipelines.errors import UserError

SECRET = "sEcr3t"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://AKIA:sEcr3t@bucket/a", "s3://***@bucket/a"),
        ("s3://AKIA:sEc/sEcr3t@bucket/a", "s3://***@bucket/a"),
        ("no route to http://me:sEcr3t@10.0.0.1:9000: refused", "no route to http://***@10.0.0.1:9000: refused"),
        ("https://sEcr3t@host/x", "https://***@host/x"),
        (
            "https://h/w.pth?versionId=3&X-Amz-Credential=sEcr3t%2F2026&X-Amz-Signature=sEcr3t",
            "https://h/w.pth?versionId=***&X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://h/w?sv=2020&sig=sEcr3t%3D (403)", "https://h/w?sv=***&sig=*** (403)"),
        ("https://h/w?AWSAccessKeyId=sEcr3t&Expires=1&Signature=sEcr3t#sha256=00",
         "https://h/w?AWSAccessKeyId=***&Expires=***&Signature=***#sha256=00"),
        ("https://h/w?access_token=sEcr3t", "https://h/w?access_token=***"),
        ("s3://bucket/a@b/2026-01-01T10:00@x.tif", "s3://bucket/a@b/2026-01-01T10:00@x.tif"),
        ("http://host:8080/a@b?id=7", "http://host:8080/a@b?id=***"),
        ("s3://bucket/a#b?c=7/tile.tif", "s3://bucket/a#b?c=7/tile.tif"),
        ("s3://bucket/a?X-Amz-Signature=sEcr3t", "s3://bucket/a?X-Amz-Signature=***"),
        ("(see https://h/w?pw=sEcr3t).", "(see https://h/w?pw=***)."),
        ("https://h/w?sEcr3t", "https://h/w?***"),
        ("https://h/w#sEcr3t, then", "https://h/w#***, then"),
        ("https://h/w#sha256=0a&jwt=sEcr3t", "https://h/w#sha256=0a&jwt=***"),
        ("https://kfp/#/runs/details/7", "https://kfp/#/runs/details/7"),
        ("https://kfp/#/login?t=sEcr3t", "https://kfp/#/login?t=***"),
        ("pretrained = 'HTTPS://h/w.pth?k=sEcr3t'\nlr = 1", "pretrained = 'HTTPS://h/w.pth?k=***'\nlr = 1"),
        ('{"a": "https://h/w?k=sEcr3t&amp;l=sEcr3t"}', '{"a": "https://h/w?k=***&amp;l=***"}'),
    ],
)  # fmt: skip
def test_credentials_are_taken_out_of_addresses(text, expected):
    assert without_credentials(text) == expected
    assert without_credentials(expected) == expected
    assert SECRET not in str(LandsegError(text, text))


def test_credentials_are_taken_out_of_every_text_of_a_document():
    address = f"https://h/x?k={SECRET}"
    assert masked({"a": [address, 1, None, {address: (address,)}]}) == {
        "a": ["https://h/x?k=***", 1, None, {"https://h/x?k=***": ["https://h/x?k=***"]}]
    }


def test_log_lines_are_cleaned(capsys):
    console.begin("verbose")
    logging.getLogger("landseg.test").debug("reads %s", f"https://h/x?X-Amz-Signature={SECRET}")
    logged = capsys.readouterr().err
    assert "reads https://h/x" in logged
    assert SECRET not in logged


@pytest.mark.parametrize(
    "uri", [f"s3://AKIA:{SECRET}@bucket/x", f"s3://AKIA:a/{SECRET}@b/x", f"https://me:{SECRET}@h/x"]
)
@pytest.mark.parametrize("flag", ["--source", "--storage-uri"])
def test_uris_with_passwords_are_refused_and_not_repeated(uri, flag, tmp_path, capsys):
    given = {"--source": str(tmp_path), "--storage-uri": str(tmp_path / "store"), flag: uri}
    assert main(["stage-data", *(part for pair in given.items() for part in pair), "-v"]) == 2
    said = capsys.readouterr()
    assert "expected s3://bucket/key" in said.err
    assert SECRET not in said.err + said.out


def test_parameters_of_a_run_hold_no_passwords():
    given = ["source=/tiles", f"storage_uri=s3://AKIA:{SECRET}@bucket/x", "run_id=7"]
    with pytest.raises(UserError, match="they belong in the secret") as caught:
        parse_parameters(package("train-and-ensemble"), given)
    assert SECRET not in str(caught.value)


def test_nothing_that_a_stage_writes_or_says_holds_the_keys(s3: S3, tmp_path: Path, capsys, monkeypatch):
    secrets = [s3.server.secret_key, s3.server.access_key, "my-session-token"]
    assert main(["make-sample-data", str(tmp_path / "raw"), "--size", "64", "--train", "2", "--val", "1"]) == 0
    argv = ["stage-data", "--source", str(tmp_path / "raw"), "--storage-uri", s3.uri]
    argv += ["--output-dir", str(tmp_path / "out"), "--num-workers", "1", "-v"]
    assert main(argv) == 0
    assert main(["doctor", "--storage-uri", s3.uri]) == 0
    monkeypatch.setenv("AWS_SESSION_TOKEN", secrets[2])
    main([*argv, "--output-dir", str(tmp_path / "out-2")])  # refused or not, it must not say the token
    monkeypatch.setattr("landseg.storage.retry.FIRST_CONTACT_S", 0.1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{secrets[2]}@127.0.0.1:9")
    with pytest.raises(StorageError) as caught:
        storage.get_bytes(f"{s3.uri}/x")
    said = capsys.readouterr()
    written = [
        path.read_bytes() for folder in (tmp_path / "out", s3.folder) for path in folder.rglob("*") if path.is_file()
    ]
    assert len(written) > 5
    everything = b"\n".join([*written, said.out.encode(), said.err.encode(), str(caught.value).encode()])
    assert not [secret for secret in secrets if secret.encode() in everything]


@pytest.mark.slow
def test_compiled_yaml_holds_no_keys_of_the_machine_that_compiles(tmp_path: Path):
    keys = {"AWS_ACCESS_KEY_ID": "AKIASECRET", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SECRET}
    command = [sys.executable, "-m", "pipelines", "compile", "--output-dir", str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, **keys}, cwd=ROOT, capture_output=True)
    compiled = [path.read_text() for path in tmp_path.rglob("*.yaml")]
    assert len(compiled) > 2
    assert not [text for text in compiled if "AKIASECRET" in text or SECRET in text]
    assert any("secretKey: AWS_SECRET_ACCESS_KEY" in text for text in compiled)
