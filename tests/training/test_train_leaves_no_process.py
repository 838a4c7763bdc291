"""However a team of training processes ends, none of them outlives it; for one, see tests/stages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_data import stage

from benchmarks.processes import session_of

ARGUMENTS = ("--name=swin", "--config=swin_tiny", "--run-id=r", "--gpus=0", "--num-workers=2", "--pretrained=none")


def start(root: Path, dataset: str, *more: str) -> subprocess.Popen[str]:
    places = [f"--storage-uri={root / 'store'}", f"--output-dir={root / 'out'}", f"--dataset={dataset}"]
    return subprocess.Popen(
        [sys.executable, "-m", "landseg", "train", *ARGUMENTS, *places, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_checkpoint(process: subprocess.Popen[str], root: Path) -> None:
    deadline = time.monotonic() + 280
    while not list((root / "store").glob("runs/**/checkpoints/*.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_that_none_is_left(process: subprocess.Popen[str], status: int) -> None:
    output = process.communicate(timeout=280)[0]
    assert process.returncode == status, output
    wait_until_none_is_left(process.pid)


def wait_until_none_is_left(leader: int) -> None:
    deadline = time.monotonic() + 30  # multiprocessing's resource tracker ends after its parent
    while left := session_of(leader):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.slow
def test_after_success(tmp_path: Path) -> None:
    check_that_none_is_left(start(tmp_path, stage(tmp_path), "--epochs=1", "--cpu-processes=2"), 0)


@pytest.mark.slow
def test_after_sigterm(tmp_path: Path) -> None:
    """Sent to all, as some runtimes do."""
    process = start(tmp_path, stage(tmp_path), "--epochs=5000", "--checkpoint-interval=1", "--cpu-processes=2")
    wait_for_checkpoint(process, tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    check_that_none_is_left(process, 143)


@pytest.mark.slow
def test_after_a_process_of_the_team_was_killed(tmp_path: Path) -> None:
    process = start(tmp_path, stage(tmp_path), "--epochs=5000", "--checkpoint-interval=1", "--cpu-processes=2")
    wait_for_checkpoint(process, tmp_path)
    parents = session_of(process.pid)
    ranks = [pid for pid, parent in parents.items() if parent == process.pid and pid in parents.values()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    check_that_none_is_left(process, 2)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_with_attempts_a_killed_process_costs_what_no_checkpoint_has(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed is the whole training where it is one process, a process of the team where it is two."""
    monkeypatch.setenv("LANDSEG_ATTEMPT_PAUSE_S", "0")
    options = ("--epochs=6", "--checkpoint-interval=1", f"--cpu-processes={processes}", "--attempts=2")
    process = start(tmp_path, stage(tmp_path), *options)
    wait_for_checkpoint(process, tmp_path)
    parents = session_of(process.pid)
    (attempt,) = [pid for pid, parent in parents.items() if parent == process.pid]
    team = [pid for pid, parent in parents.items() if parent == attempt and pid in parents.values()]
    os.kill(attempt if processes == 1 else team[0], signal.SIGKILL)
    output = process.communicate(timeout=280)[0]
    assert process.returncode == 0, output
    assert "attempt 1 of 2 " in output
    assert "attempt 2 of 2 succeeded" in output
    assert "resuming after" in output
    wait_until_none_is_left(process.pid)
