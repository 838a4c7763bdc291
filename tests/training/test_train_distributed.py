"""Several processes train what one does; the end of one is the end of all."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import team_failures
import team_work
import torch
import torch.distributed as dist
from training_data import make_job, stage

from benchmarks.processes import descendants, session_of
from landseg.contracts.errors import ConfigError, DataError, LandsegError
from landseg.training import session
from landseg.training.checkpoint.publishing import Publisher
from landseg.training.distributed import processes as team_processes
from landseg.training.distributed.processes import count_processes, run_processes
from landseg.training.distributed.stop_requests import StopRequests
from landseg.training.distributed.team import Team
from landseg.training.input.batches import BatchOrder


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
from landseg.training.distributed.processes import run_processes
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
    deadline = time.monotonic() + 180
    while not all((folder / f"ready-{rank}").exists() for rank in range(2)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


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
    for send in senders:
        send(process.pid, number)
        time.sleep(0.3)
    assert process.wait(timeout=180) == status
    assert (tmp_path / "published").exists()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    deadline = time.monotonic() + 60  # multiprocessing's resource tracker ends after its parent
    while left := session_of(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_no_port_is_open_beyond_the_loopback_interface(tmp_path: Path) -> None:
    process = start_team("meet", tmp_path)
    inodes = set()
    for pid in [process.pid, *descendants(process.pid)]:
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
    assert process.wait(timeout=180) == 0
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
    with pytest.raises(ConfigError, match=r"expected at most 6 tiles in a batch.*found 4 x 2 processes"):
        BatchOrder(6, 4, 2, 0, 0)  # of 7, mmseg draws one twice


def test_a_team_of_one_needs_no_group() -> None:
    team = Team()
    assert team.leads
    assert team.gather(3) == [3]
    assert team.from_leader("x") == "x"
    assert team.sum(torch.ones(2)).tolist() == [1, 1]


def test_objects_and_what_the_leader_does_alone_go_over_gloo_with_a_limit_of_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of GPUs go over NCCL, in minutes. The group is a stand-in: there is no GPU here."""
    made: dict[str, Any] = {}

    class Group(dist.ProcessGroup):
        pass

    def init(backend: str, **options: Any) -> None:
        made["gradients"] = (backend, options["timeout"], options["device_id"])

    def new_group(backend: str, timeout: datetime.timedelta) -> dist.ProcessGroup:
        made["objects"] = (backend, timeout)
        return group

    group, passed = Group(0, 2), []
    monkeypatch.setattr(dist, "init_process_group", init)
    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "all_gather_object", lambda values, value, group: passed.append(group))
    monkeypatch.setattr(dist, "broadcast_object_list", lambda values, src, group: passed.append(group))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
    device = torch.device("cuda", 1)
    with team_processes.joined(tmp_path, 1, 2, device) as objects:
        team = Team(1, 2, device, objects)
        team.gather("value")
        team.from_leader("a checkpoint")
        team.barrier()
    assert passed == [group] * 3
    assert made["gradients"] == ("cpu:gloo,cuda:nccl", datetime.timedelta(minutes=10), device)
    backend, limit = made["objects"]
    assert backend == "gloo"
    assert limit >= datetime.timedelta(hours=1)
    assert {os.environ[name] for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")} == {"lo"}


@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_wait_over_gloo_while_the_leader_keeps_the_best_weights(rank: int) -> None:
    """Where storage is slow, that may take longer than a process waits for the leader's gradients."""
    steps: list[str] = []

    class Watched(Team):
        def barrier(self) -> None:
            steps.append("barrier")

    watched = SimpleNamespace(
        job=SimpleNamespace(selection=SimpleNamespace(ships_best=True)),
        team=Watched(rank, 2),
        order=SimpleNamespace(iters_per_epoch=1),
    )
    best = SimpleNamespace(scratch=MagicMock(), publish=lambda *args: steps.append("publish"))
    publisher: Any = MagicMock(session=watched, best=best)
    publisher._best_evaluation.return_value = {"iteration": 3}
    Publisher.keep_if_best(publisher, 3)
    assert steps == (["publish", "barrier"] if rank == 0 else ["barrier"])


@pytest.mark.parametrize(
    ("statuses", "requested", "raised"),
    [
        ([143, 143], True, r"^143$"),
        ([0, 143], True, r"^143$"),  # the leader had finished
        ([143, 130], True, r"^143$"),  # a terminal's Ctrl-C reached it first
        ([143, None], True, r"^143$"),  # what hangs has nothing to publish
        ([-15, -15], True, r"^143$"),  # before training had begun
        ([143, 143], False, r"^143$"),  # one of them was asked to stop, not their parent
        ([None, 143], True, "process 0 had not published its last checkpoint"),
        ([None, 1], True, "process 1 ended with status 1"),
        ([None, 1], False, "process 1 ended with status 1"),
        ([-9, None], True, "process 0 was killed by SIGKILL"),
        ([-15, None], False, "process 0 was killed by SIGTERM"),
    ],
)
def test_143_means_that_the_leader_has_published(
    statuses: list[int | None], requested: bool, raised: str, tmp_path: Path
) -> None:
    received = StopRequests()
    if requested:
        received.add(signal.SIGTERM)
    ended = dict(enumerate(statuses))
    with pytest.raises((SystemExit, Exception), match=raised):
        team_processes._raise_first(tmp_path, team_processes._killed(ended, received))
        team_processes._raise_status(ended, received)


@pytest.mark.parametrize(("error", "destroyed"), [(None, 1), (SystemExit(143), 1), (RuntimeError("a peer is gone"), 0)])
def test_the_group_is_destroyed_where_all_leave_together(
    error: BaseException | None, destroyed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL complains of a group that was not; after an error destroying it might wait for a process that is gone."""
    calls: list[None] = []
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **options: None)
    monkeypatch.setattr(dist, "new_group", lambda **options: dist.ProcessGroup(0, 2))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append(None))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
    with (
        contextlib.nullcontext() if error is None else pytest.raises(type(error)),
        team_processes.joined(tmp_path, 0, 2, torch.device("cpu")),
    ):
        if error is not None:
            raise error
    assert len(calls) == destroyed


def test_every_process_has_the_leaders_buffers_whatever_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm in evaluation mode computes with them; torch 2.11 shares none where `broadcast_buffers` is off."""
    steps: list[Any] = []

    class Watched(Team):
        def share_buffers(self, model: torch.nn.Module) -> None:
            steps.append(model)

    class OfTorch211:
        def __init__(
            self, module: Any, *, device_ids: Any, find_unused_parameters: bool, broadcast_buffers: bool
        ) -> None:
            steps.append(broadcast_buffers)

    monkeypatch.setattr(session, "DistributedDataParallel", OfTorch211)
    model, config = torch.nn.BatchNorm2d(2), SimpleNamespace(get=lambda name, default: default)
    session._wrapped(model, config, Watched(1, 2))
    assert steps == [model, False]
