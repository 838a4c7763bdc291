import json

import pytest

from landseg.cli import main


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    return {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_reports_this_machine_and_its_storage(tmp_path, capsys):
    assert main(["doctor", "--json", "--storage-uri", str(tmp_path)]) == 0
    found = findings(capsys)
    assert found["object storage"]["ok"] is True
    assert "numpy" in str(found["packages"]["found"])
    assert not list(tmp_path.rglob("probe"))


def test_names_every_failure_in_one_line(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    status = main(["doctor", "--min-scratch-gb", "1e9", "--gpus", "99", "--storage-uri", str(blocked)])
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert "scratch: expected 1e+09 GiB" in error
    assert "GPUs: expected 99" in error
    assert "object storage" in error


def test_wrong_credentials_are_named(s3, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert main(["doctor", "--storage-uri", s3.uri]) == 2
    assert "AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err
