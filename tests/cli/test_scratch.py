"""Scratch folders that killed processes leave are removed by the next, and those in use never are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from landseg.cli import scratch
from landseg.cli.main import main
from landseg.cli.scratch import remove_abandoned, scratch_folder

HOLDER = """
import os, sys, time
from pathlib import Path
from landseg.cli.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "some").mkdir()
    (folder / "some" / "file").write_text("x")
    child = os.fork() if len(sys.argv) > 2 else 1
    if child:
        print(folder, child, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Path, int]]]:
    """Starts a process with a scratch folder; returns it, the folder, and the process that it forked, if asked to."""
    started: list[int] = []

    def start(*more: str) -> tuple[subprocess.Popen[str], Path, int]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path), *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        folder, child = process.stdout.readline().split()
        started.extend([process.pid, *([int(child)] if more else [])])
        return process, Path(folder), int(child)

    yield start
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path, hold: Callable[..., Any]) -> None:
    killed, left, _ = hold()
    _, used, _ = hold()
    (tmp_path / "landseg-notes").mkdir()
    (tmp_path / "landseg-link").symlink_to(left)
    assert remove_abandoned(tmp_path) == []
    kill(killed)
    assert remove_abandoned(tmp_path) == [left]
    assert {path.name for path in tmp_path.iterdir()} == {used.name, "landseg-notes", "landseg-link"}
    assert (used / "some" / "file").exists()


def test_a_folder_stays_while_a_child_of_its_process_lives(tmp_path: Path, hold: Callable[..., Any]) -> None:
    process, folder, child = hold("fork")
    kill(process)
    assert remove_abandoned(tmp_path) == []
    os.kill(child, signal.SIGKILL)
    while Path(f"/proc/{child}/fd").exists() and not _is_zombie(child):
        pass
    assert remove_abandoned(tmp_path) == [folder]


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_folders_of_another_system_stay(
    tmp_path: Path, hold: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, folder, _ = hold()
    kill(process)
    monkeypatch.setattr(scratch, "_system", lambda: b"another machine, or this one before it was started again")
    assert remove_abandoned(tmp_path) == []
    assert folder.exists()


def test_nothing_is_left_of_a_folder_that_was_not_killed(tmp_path: Path) -> None:
    with scratch_folder(tmp_path, "name") as folder:
        assert folder.name.startswith("landseg-name-")
        assert remove_abandoned(tmp_path) == []
    assert not any(tmp_path.iterdir())
    assert remove_abandoned(tmp_path / "absent") == []


@pytest.mark.parametrize("attempts", ["1", "2"])
def test_a_stage_says_what_it_removes(
    attempts: str, tmp_path: Path, hold: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    process, folder, _ = hold()
    kill(process)
    places = ["--storage-uri", str(tmp_path / "store"), "--scratch", str(tmp_path), "--attempts", attempts]
    assert main(["stage-data", "--source", str(tmp_path / "absent"), *places]) == 2
    assert f"removed {folder}, which a stage that was killed had left" in capfd.readouterr().err
    assert not folder.exists()
