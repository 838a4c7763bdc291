"""Several processes train what one does; the end of one is the end of all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import team_failures
import team_work
import torch
from training_data import make_job, stage

from landseg.contracts.errors import ConfigError, DataError, LandsegError
from landseg.training.distributed import count_processes, run_processes
from landseg.training.input.batches import BatchOrder
from landseg.training.team import Team


def _one_iteration(
    root: Path, family: str, dataset: str, processes: int
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients, and the scores on val of the weights they were made with."""
    path = root / "gradients.pth"
    options: dict[str, Any] = {
        "model.decode_head.dropout_ratio": 0.0,
        "model.auxiliary_head.dropout_ratio": 0.0,
        "optimizer.lr": 0.0,
        "lr_config": None,
        "custom_hooks": [{"type": "FreezeNorms"}, {"type": "KeepGradients", "path": str(path)}],
    }
    job = make_job(root, family, dataset, iterations=1, options=options, batch_per_gpu=8 // processes)
    run_processes(team_work.train_on_one_thread, job, processes, False, job.scratch)
    result = json.loads((job.scratch / job.result).read_text())
    return torch.load(path, weights_only=True), result["evaluations"][-1]["scores"]


@pytest.mark.parametrize("family", ["swin", pytest.param("resnest", marks=pytest.mark.slow)])
def test_two_processes_do_what_one_does(family: str, tmp_path: Path) -> None:
    """2 x 4 tiles have the gradients of 1 x 8 (BatchNorm frozen), and the scores are equal, no tile counted twice."""
    dataset = stage(tmp_path, train=9, val=11)  # odd, and of two sizes
    one, scores = _one_iteration(tmp_path / "one", family, dataset, 1)
    two, scores_of_two = _one_iteration(tmp_path / "two", family, dataset, 2)
    assert scores_of_two == scores
    assert one.keys() == two.keys()
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    for name, gradient in one.items():
        torch.testing.assert_close(
            two[name], gradient, rtol=1e-4, atol=1e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_an_error_in_one_process_ends_all_and_is_what_the_user_reads(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^tile x: is broken$"):
        run_processes(team_failures.fail_in_second, None, 2, False, tmp_path)


RUN = """
import sys
from pathlib import Path
import team_failures
from landseg.training.distributed import run_processes
if __name__ == "__main__":
    run_processes(getattr(team_failures, sys.argv[1]), sys.argv[2], 2, False, Path(sys.argv[2]))
"""


def start_team(function: str, folder: Path) -> subprocess.Popen[str]:
    script = folder / "run.py"
    script.write_text(RUN)
    path = os.pathsep.join([str(Path(team_failures.__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(script), function, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not all((folder / f"ready-{rank}").exists() for rank in range(2)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def family(pid: int) -> set[int]:
    """A process and all that it has started, by /proc."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= family(int(child))
    return found


@pytest.mark.parametrize(
    ("number", "status", "senders"),
    [
        pytest.param(signal.SIGTERM, 143, [os.kill], id="SIGTERM"),
        pytest.param(signal.SIGTERM, 143, [os.killpg], id="SIGTERM-to-all", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, [os.kill], id="SIGINT", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, [os.killpg, os.kill], id="SIGINT-from-a-terminal-and-a-parent"),
    ],
)
def test_asked_to_stop_it_ends_when_the_leader_has_published(
    number: int, status: int, senders: list[Callable[[int, int], None]], tmp_path: Path
) -> None:
    process = start_team("publish_slowly_when_stopped", tmp_path)
    members = family(process.pid)
    for send in senders:
        send(process.pid, number)
        time.sleep(0.3)
    assert process.wait(timeout=60) == status
    assert (tmp_path / "published").exists()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    deadline = time.monotonic() + 10  # multiprocessing's resource tracker ends after its parent
    while left := [pid for pid in members if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_no_port_is_open_beyond_the_loopback_interface(tmp_path: Path) -> None:
    process = start_team("meet", tmp_path)
    inodes = set()
    for pid in family(process.pid):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(descriptor.readlink()))
            except OSError:
                continue
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listening.append(fields[1].partition(":")[0])
    (tmp_path / "seen").touch()
    assert process.wait(timeout=60) == 0
    loopback = {"0100007F", "00000000000000000000000001000000"}
    assert set(listening) <= loopback


@pytest.mark.slow
def test_a_killed_process_ends_all(tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match="process 1 was killed by SIGKILL, probably out of memory"):
        run_processes(team_failures.kill_second, None, 2, False, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at what happens where there is no GPU")
def test_fewer_gpus_than_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"--gpus: expected 2 visible GPUs, found 0 \(ask for 0"):
        count_processes(2, 1)
    assert count_processes(None, 3) == (3, False)
    assert count_processes(0, 1) == (1, False)


def test_a_batch_is_shared_out_among_the_processes() -> None:
    whole = list(BatchOrder(21, 8, 1, 0, 5).batches(0, 7))
    halves = [list(BatchOrder(21, 4, 2, rank, 5).batches(0, 7)) for rank in range(2)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert sorted(batch) == sorted(first + second)


def test_every_epoch_has_another_order_and_no_tile_twice() -> None:
    schedule = BatchOrder(20, 4, 1, 0, 0)
    epochs = [[key for batch in schedule.batches(5 * e, 5 * e + 5) for key in batch] for e in range(3)]
    for number, keys in enumerate(epochs):
        assert sorted(keys) == [(number, index) for index in range(20)]
    assert len({tuple(index for _, index in keys) for keys in epochs}) == 3
    assert list(schedule.batches(3, 12))[4:] == list(schedule.batches(7, 12))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected at most 7 tiles in a batch.*found 4 x 2 processes"):
        BatchOrder(7, 4, 2, 0, 0)


def test_a_team_of_one_needs_no_group() -> None:
    team = Team()
    assert team.leads
    assert team.gather(3) == [3]
    assert team.from_leader("x") == "x"
    assert team.sum(torch.ones(2)).tolist() == [1, 1]
