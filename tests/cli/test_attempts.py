"""`--attempts`: what starts a verb again, what does not, and what is left of a process that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from landseg.cli import attempts
from landseg.cli.main import main

SCRIPT = """
import os, pathlib, signal, sys
scratch, outcomes, log = pathlib.Path(sys.argv[1]), sys.argv[2].split(","), pathlib.Path(sys.argv[3])
(scratch / "left").touch()
number = len(log.read_text().splitlines()) if log.exists() else 0
with log.open("a") as file:
    print(scratch, file=file)
outcome = outcomes[number]
if outcome == "wait":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    (log.parent / "waiting").touch()
    signal.pause()
if outcome.startswith("-"):
    os.kill(os.getpid(), -int(outcome))
sys.exit(int(outcome))
"""


class Verb:
    """Stands in for a verb: each of its processes ends as the list says, and leaves a file in its scratch folder."""

    def __init__(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log, self.monkeypatch = log, monkeypatch

    def run(self, outcomes: str, most: int) -> int:
        """Status of the whole."""

        def command(_: object, scratch: str) -> list[str]:
            return [sys.executable, "-S", "-E", "-c", SCRIPT, scratch, outcomes, str(self.log)]

        self.monkeypatch.setattr(attempts, "_command", command)
        self.log.unlink(missing_ok=True)
        return attempts.run(["train"], most)

    @property
    def scratch_folders(self) -> list[Path]:
        """Of the attempts so far."""
        return [Path(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verb:
    monkeypatch.setenv(attempts.PAUSE_VARIABLE, "0")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Verb(tmp_path / "log", monkeypatch)


@pytest.mark.parametrize(
    ("outcomes", "status", "lines"),
    [
        ("0", 0, []),
        ("2", 2, []),
        ("143", 143, []),
        ("130", 130, []),
        ("-15", 143, []),
        ("-9,1,0", 0, ["1 of 3 was killed by SIGKILL", "2 of 3 failed with status 1", "3 of 3 succeeded"]),
        ("75,2", 2, ["1 of 3 failed for a reason that may pass"]),
        ("75,75,75", 2, [f"{number} of 3 failed for a reason that may pass" for number in (1, 2, 3)]),
        ("1,-9,-9", 137, ["1 of 3 failed", "2 of 3 was killed", "3 of 3 was killed by SIGKILL"]),
    ],
)
def test_what_is_tried_again(
    outcomes: str, status: int, lines: list[str], verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb.run(outcomes, 3) == status
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(lines)
    assert all(f"landseg train: attempt {line}" in one for line, one in zip(lines, told, strict=True))
    folders = verb.scratch_folders
    assert len(set(folders)) == len(outcomes.split(","))
    assert not any(folder.exists() for folder in folders)


def test_sigterm_is_passed_on_and_ends_it(verb: Verb, tmp_path: Path) -> None:
    sender = f"until test -e {tmp_path}/waiting; do sleep 0.02; done; kill {os.getpid()}"
    with subprocess.Popen(["sh", "-c", sender]):
        assert verb.run("wait,0", 3) == 143
    assert len(verb.scratch_folders) == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_ends_a_pause(verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(attempts.PAUSE_VARIABLE, "60")
    said = tmp_path / "said"
    sender = f"until grep -q 'the next begins in 60 s' {said}; do sleep 0.02; done; kill {os.getpid()}"
    started = time.monotonic()
    with said.open("w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with subprocess.Popen(["sh", "-c", sender]):
            assert verb.run("1,0", 3) == 143
    assert time.monotonic() - started < 50


def arguments_without_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("LANDSEG_S3_RETRY_S", "0")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    return ["plan-export", "--dataset", "s3://bucket/d.json", "--storage-uri", str(tmp_path)]


def test_what_may_pass_is_told_from_what_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = arguments_without_storage(tmp_path, monkeypatch)
    assert main([*arguments, "--attempts=3"], is_attempt=True) == attempts.TRANSIENT_STATUS
    assert main([*arguments, "--workers=0"], is_attempt=True) == 2
    assert main(arguments) == 2


@pytest.mark.slow
def test_storage_that_is_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(attempts.PAUSE_VARIABLE, "0")
    assert main([*arguments_without_storage(tmp_path, monkeypatch), "--attempts=2"]) == 2
    told = capfd.readouterr().err
    assert told.count("is out of reach: connection refused") == 2
    assert "attempt 1 of 2 failed for a reason that may pass (see above); the next begins in 0 s" in told


@pytest.mark.parametrize("given", ["0", "21", "many", ""])
def test_a_number_that_is_none(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["plan-export", "--storage-uri=x", "--dataset=x", f"--attempts={given}"])
    assert f"--attempts: expected a number from 1 to 20, found {given!r}" in capsys.readouterr().err
