"""However `landseg train` ends, none of its processes outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_data import stage

from landseg.dataset.reader import StagedDataset

ARGUMENTS = ("--name=swin", "--config=swin_tiny", "--run-id=r", "--gpus=0", "--num-workers=2", "--pretrained=none")


def session(leader: int) -> dict[int, int]:
    """The processes of a session, each with its parent."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found[int(stat.parent.name)] = int(fields[1])
    return found


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
    deadline = time.monotonic() + 120
    while not list((root / "store").glob("runs/**/checkpoints/*.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_that_none_is_left(process: subprocess.Popen[str], status: int) -> None:
    leader = process.pid
    output = process.communicate(timeout=120)[0]
    assert process.returncode == status, output
    deadline = time.monotonic() + 2  # multiprocessing's resource tracker ends after its parent
    while left := session(leader):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_after_success(processes: int, tmp_path: Path) -> None:
    check_that_none_is_left(start(tmp_path, stage(tmp_path), "--epochs=1", f"--cpu-processes={processes}"), 0)


def test_after_an_error_that_the_user_can_fix(tmp_path: Path) -> None:
    dataset = stage(tmp_path)
    opened = StagedDataset.open(dataset, tmp_path / "cache")
    tile = opened.tiles("train")[5]
    with opened.shard_path("train", tile.shard).open("r+b") as shard:
        shard.seek(tile.image[0] + 4)
        shard.write(b"\xff" * 4)
    check_that_none_is_left(start(tmp_path, dataset, "--epochs=1", "--batch-per-gpu=2"), 2)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_after_sigterm(processes: int, tmp_path: Path) -> None:
    """Sent to all, as some runtimes do."""
    process = start(
        tmp_path, stage(tmp_path), "--epochs=5000", "--checkpoint-interval=1", f"--cpu-processes={processes}"
    )
    wait_for_checkpoint(process, tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    check_that_none_is_left(process, 143)


@pytest.mark.slow
def test_after_a_process_of_the_team_was_killed(tmp_path: Path) -> None:
    process = start(tmp_path, stage(tmp_path), "--epochs=5000", "--checkpoint-interval=1", "--cpu-processes=2")
    wait_for_checkpoint(process, tmp_path)
    parents = session(process.pid)
    ranks = [pid for pid, parent in parents.items() if parent == process.pid and pid in parents.values()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    check_that_none_is_left(process, 2)
