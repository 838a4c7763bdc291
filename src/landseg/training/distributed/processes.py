"""The team of processes that train together: one per GPU, or several on the CPU, started and ended together.

Not through torchrun: its rendezvous store listens on all addresses and unpickles what anybody sends
(pytorch: torch/distributed/elastic/rendezvous/dynamic_rendezvous.py), and it kills processes 30 s after SIGTERM.
"""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist

from landseg import storage
from landseg.cli import console
from landseg.cli.termination import handled_by
from landseg.contracts.errors import ConfigError, KilledProcessError, LandsegError
from landseg.raw.processes import end_with_parent, num_cpus
from landseg.training.distributed.stop_requests import StopRequests
from landseg.training.distributed.team import Team

J = TypeVar("J")

_GRADIENTS_TIMEOUT = datetime.timedelta(minutes=10)
"""A process that waits longer than this for another's gradients fails instead of hanging."""
_OBJECTS_TIMEOUT = datetime.timedelta(hours=12)
"""The same where the others wait for what the leader does alone: reading or publishing a checkpoint, with retries."""
_POLL_S = 0.5
_STOP_LIMIT_S = 900.0
"""What the leader may take to publish its last checkpoint once another process has ended: 1.5 GB, slow network."""
_FAILURE_LIMIT_S = 10.0
TERMINATED_STATUS = 128 + signal.SIGTERM
_STOPPED = (128 + signal.SIGINT, -signal.SIGTERM)
"""Of a process that a terminal asked to stop too, and of one that was asked before it could have published anything."""


def count_processes(gpus: int | None, cpu_processes: int) -> tuple[int, bool]:
    """How many processes train, and whether on GPUs.

    Args:
        gpus: the number requested; 0 for the CPU, None for all visible GPUs, or the CPU where there are none.
        cpu_processes: processes on the CPU.

    Raises:
        ConfigError: fewer GPUs are visible than requested, or several CPU processes are requested with GPUs.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = visible if gpus is None else gpus
    if wanted > visible:
        raise ConfigError(
            "--gpus",
            f"expected {wanted} visible GPUs, found {visible}",
            f"ask for {visible}, or give the container more (nvidia.com/gpu, CUDA_VISIBLE_DEVICES)",
        )
    if wanted and cpu_processes > 1:
        raise ConfigError("--cpu-processes", f"expected 1 where GPUs train, found {cpu_processes}", "pass --gpus 0")
    return (wanted, True) if wanted else (cpu_processes, False)


def run_processes(function: Callable[[J, Team], None], job: J, processes: int, on_gpu: bool, scratch: Path) -> None:
    """Run `function(job, team)` in each process; when one fails, all are ended.

    A single process is this one. Several are started here and meet through a file in `scratch`, which is this user's
    alone: no port of theirs is open to other machines, or to anything but the loopback interface.

    SIGTERM and SIGINT are passed on, and this function waits until the processes have published what they have.
    Pressing Ctrl-C again kills them.

    Raises:
        LandsegError: the error that a process raised, unchanged; or a process was killed.
        SystemExit: the processes were asked to stop and did.
    """
    if processes == 1:
        if not on_gpu:  # torch looks at the machine's cores, not at a container's limit
            torch.set_num_threads(min(torch.get_num_threads(), num_cpus()))
        function(job, Team(device=_device(on_gpu, 0)))
        return
    meeting = scratch / "team"
    meeting.mkdir(mode=0o700, parents=True)
    # Otherwise each process would use every core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cpus() // processes)))
    context = multiprocessing.get_context("spawn")
    start = _Start(processes, on_gpu, meeting, console.verbosity(), storage.endpoint_has_answered())
    ranks = [context.Process(target=_process, args=(function, job, start, rank)) for rank in range(processes)]
    with _passing_on_signals(ranks) as received:
        try:
            for rank in ranks:
                rank.start()
            _wait(ranks, received)
            ended = {number: rank.exitcode for number, rank in enumerate(ranks)}
        finally:
            for rank in ranks:
                if rank.is_alive():
                    rank.kill()
                    rank.join()
    _raise_first(meeting, _killed(ended, received))
    _raise_status(ended, received)


@dataclass(frozen=True)
class _Start:
    """What a process of the team has to know before it can join it."""

    size: int
    on_gpu: bool
    meeting: Path
    verbosity: console.Verbosity
    storage_answered: bool


def _wait(ranks: Sequence[BaseProcess], received: StopRequests) -> None:
    """Wait until all have ended. Once one has failed, the others get a moment to end on their own."""
    deadline = None
    while alive := [rank for rank in ranks if rank.is_alive()]:
        wait([rank.sentinel for rank in alive], timeout=_POLL_S)
        failed = any(rank.exitcode not in (None, 0) for rank in ranks)
        if failed and deadline is None:
            # After a request to stop each process ends on its own, the leader last; otherwise the others wait for the
            # one that failed, for as long as their collectives may take.
            deadline = time.monotonic() + (_STOP_LIMIT_S if received else _FAILURE_LIMIT_S)
        if received.insistent:
            raise KeyboardInterrupt
        if deadline is not None and time.monotonic() > deadline:
            return


@contextlib.contextmanager
def _passing_on_signals(ranks: Sequence[BaseProcess]) -> Iterator[StopRequests]:
    """Pass SIGTERM and SIGINT on to the processes, as SIGTERM, and collect them.

    A terminal sends SIGINT to the processes themselves as well; as SIGTERM the second one interrupts nothing.
    """
    received = StopRequests()

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.add(number)
        for rank in ranks:
            if rank.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank.pid, signal.SIGTERM)

    with handled_by(pass_on):
        yield received


def _process(function: Callable[[J, Team], None], job: J, start: _Start, rank: int) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it here too; the parent passes it on
    console.begin(start.verbosity)
    storage.expect_answers(start.storage_answered)
    device = _device(start.on_gpu, rank)
    try:
        with joined(start.meeting, rank, start.size, device) as objects:
            function(job, Team(rank, start.size, device, objects))
    except LandsegError as err:
        _leave(start.meeting / f"{rank}.pickle", pickle.dumps(err))
        raise SystemExit(2) from None
    except Exception:
        _leave(start.meeting / f"{rank}.txt", traceback.format_exc().encode())
        raise SystemExit(1) from None


def _leave(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


@contextlib.contextmanager
def joined(meeting: Path, rank: int, size: int, device: torch.device) -> Iterator[dist.ProcessGroup]:
    """Join the team of `size` processes that meets in a folder; yields the group that passes Python objects."""
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting / 'store'}",
        rank=rank,
        world_size=size,
        timeout=_GRADIENTS_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    objects = dist.new_group(backend="gloo", timeout=_OBJECTS_TIMEOUT)
    assert isinstance(objects, dist.ProcessGroup), "every process of the team is a member"
    try:
        yield objects
    except SystemExit:  # asked to stop, they have met and leave together
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()  # not after an error: it might wait forever, and the process ends anyway


def _device(on_gpu: bool, index: int) -> torch.device:
    if not on_gpu:
        return torch.device("cpu")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _raise_first(meeting: Path, killed: Exception | None) -> None:
    """Raise the error that the first failing process left; the others may have failed because of it.

    So they may where a process was killed and left nothing: their connections to it broke.
    """
    left = sorted(
        (path for path in meeting.iterdir() if path.suffix in {".pickle", ".txt"}),
        key=lambda path: path.stat().st_mtime_ns,
    )
    if left and left[0].suffix == ".pickle":
        error: LandsegError = pickle.loads(left[0].read_bytes())
        raise error
    if killed is not None:
        raise killed
    if left:
        raise RuntimeError(f"training process {left[0].stem} failed:\n{left[0].read_text()}")


def _killed(ended: Mapping[int, int | None], received: StopRequests) -> Exception | None:
    """The error of the first process that a signal ended, if there is one.

    Args:
        ended: exit statuses by rank; None of those that had not ended in time.
        received: requests to stop. As they are passed on, they end a process that has not begun to train.
    """
    for rank, status in ended.items():
        if status is not None and status < 0 and not (received and status == -signal.SIGTERM):
            return _failed(rank, status)
    return None


def _raise_status(ended: Mapping[int, int | None], received: StopRequests) -> None:
    """Raise what the statuses of processes say that have left no error.

    Args:
        ended: as for :func:`_killed`.
        received: likewise.

    Raises:
        SystemExit: the processes were asked to stop, and the leader has published what it had.
    """
    for rank, status in ended.items():
        if status not in (None, 0, TERMINATED_STATUS) and not (received and status in _STOPPED):
            raise _failed(rank, status)
    if received and ended[0] is None:
        raise LandsegError(
            "training",
            "asked to stop, process 0 had not published its last checkpoint when its time was over",
            "the same command resumes from the newest checkpoint",
        )
    if received:
        raise SystemExit(received.exit_status)
    if TERMINATED_STATUS in ended.values():
        raise SystemExit(TERMINATED_STATUS)


def _failed(rank: int, status: int) -> Exception:
    """A process that left no error: killed, or ended by something that is no exception."""
    if status >= 0:
        return RuntimeError(f"training process {rank} ended with status {status}")
    name = signal.Signals(-status).name
    likely = ", probably out of memory" if name == "SIGKILL" else ""
    return KilledProcessError(
        "training",
        f"process {rank} was killed by {name}{likely}",
        "the same command resumes from the newest checkpoint",
    )
