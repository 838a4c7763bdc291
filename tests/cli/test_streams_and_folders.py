"""Closed and broken streams, and folders that cannot be written: quiet ends, or one line before the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from landseg.cli.main import main

DRAW = ("make-sample-data", "--train=2", "--val=2", "--test=1", "--size=32")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    assert main([*DRAW, str(tmp_path / "raw")]) == 0
    return tmp_path / "raw"


def shell(script: str, *arguments: str, unbuffered: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", script, sys.executable, *arguments]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirected", ["| true", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_nobody_reads(redirected: str, unbuffered: str, raw: Path, tmp_path: Path) -> None:
    stage = f'"$0" -m landseg stage-data "$@" {redirected}; echo "${{PIPESTATUS[0]}}" >"{tmp_path}/status"'
    flags = [f"--source={raw}", f"--storage-uri={tmp_path}/store", f"--output-dir={tmp_path}/out"]
    done = shell(stage, *flags, unbuffered=unbuffered)
    assert (tmp_path / "status").read_text() == "0\n"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert (tmp_path / "out" / "dataset.json").exists()
    refused = stage.replace("stage-data", "status")
    shell(refused, f"--storage-uri={tmp_path}/store", "--run-id=none", unbuffered=unbuffered)
    assert (tmp_path / "status").read_text() == "2\n"


def test_letters_that_the_locale_lacks_are_escaped(tmp_path: Path) -> None:
    """After the work: what it says goes to a file whose encoding nobody has chosen."""
    drawn = shell('PYTHONIOENCODING=latin-1 "$0" -m landseg "$@"', *DRAW, f"{tmp_path}/水", unbuffered="")
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert r"/\u6c34: 2 train" in drawn.stdout


def test_output_that_cannot_be_written_is_one_line(raw: Path, tmp_path: Path) -> None:
    done = shell('"$0" -m landseg "$@" >/dev/full', "--version", unbuffered="")
    assert (done.returncode, done.stderr) == (2, "landseg: error: stdout: cannot be written: no space left on device\n")


@pytest.mark.parametrize("flag", ["--scratch", "--output-dir", "TMPDIR"])
@pytest.mark.parametrize("folder", ["/etc/hostname", "/etc/hostname/x", "/proc/nope"])
def test_folders_that_cannot_be_written(
    flag: str,
    folder: str,
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["stage-data", f"--source={raw}", f"--storage-uri={tmp_path}/store"]
    if flag == "TMPDIR":
        monkeypatch.setenv("TMPDIR", folder)
    else:
        flags.append(f"{flag}={folder}")
    capsys.readouterr()
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"landseg stage-data: error: {flag}: expected a folder") and error.count("\n") == 1
    assert folder in error
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("flag", ["--scratch", "--output-dir", "--png-dir"])
def test_an_unset_variable_is_no_folder(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["average-probs", f"--storage-uri={tmp_path}", "--run-id=r", f"{flag}="])
    assert f"argument {flag}: expected a folder, found nothing" in capsys.readouterr().err


def test_sample_data_has_nowhere_to_go(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("/proc/nope", "/etc/hostname"):
        assert main(["make-sample-data", folder]) == 2
        assert f"DIR: expected a folder that can be written, found {folder}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["make-sample-data", ""])
    assert "expected a folder, found nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("s3://bucket/out", "expected a local folder, found s3://bucket/out"),
        ("s3:/bucket", "a folder of that name is ./s3:/bucket"),
        ("gs://bucket/out", "found the scheme 'gs'"),
    ],
)
@pytest.mark.parametrize("flag", ["--scratch", "--output-dir", "--png-dir"])
def test_an_address_is_no_local_folder(
    flag: str,
    value: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["average-probs", "--storage-uri=store", "--run-id=r", f"{flag}={value}"])
    assert done.value.code == 2
    assert f"argument {flag}: " in (line := capsys.readouterr().err)
    assert said in line
    assert not list(tmp_path.iterdir())
