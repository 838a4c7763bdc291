"""The team of processes that train together: one per GPU, or several on the CPU, started and ended together."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from landseg import storage
from landseg.cli import console
from landseg.contracts.errors import ConfigError, LandsegError

J = TypeVar("J")

_COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=10)
"""A process that waits longer than this for another fails instead of hanging."""
TERMINATED_STATUS = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Team:
    """The processes that train one model together, seen from one of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process publishes and prints."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: Any) -> Any:
        """The leader's value, in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def share_buffers(self, model: torch.nn.Module) -> None:
        """Give every process the leader's buffers (BatchNorm's running statistics)."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


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

    A single process is this one. Several are started and watched by torchrun's agent, which passes SIGTERM on to them.

    Raises:
        LandsegError: the error that a process raised, unchanged.
        SystemExit: the processes were asked to stop and did.
    """
    if processes == 1:
        function(job, Team(device=_device(on_gpu, 0)))
        return
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"landseg-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        start_method="spawn",
    )
    failures = scratch / "failures"
    failures.mkdir(parents=True, exist_ok=True)
    # Otherwise each process would use every core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the error is raised once, below
    try:
        elastic_launch(config, _process)(
            function, job, on_gpu, failures, console.verbosity(), storage.endpoint_has_answered()
        )
    except ChildFailedError as err:
        _raise_first(failures)
        if any(failure.exitcode == TERMINATED_STATUS for failure in err.failures.values()):
            raise SystemExit(TERMINATED_STATUS) from err
        raise _failed(err) from err
    except SignalException as err:
        _raise_first(failures)
        raise SystemExit(128 + err.sigval) from err


def _process(
    function: Callable[[J, Team], None],
    job: J,
    on_gpu: bool,
    failures: Path,
    verbosity: console.Verbosity,
    storage_answered: bool,
) -> None:
    console.begin(verbosity)
    storage.expect_answers(storage_answered)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = _device(on_gpu, int(os.environ["LOCAL_RANK"]))
    try:
        with _group(device):
            function(job, Team(rank, size, device))
    except LandsegError as err:
        (failures / f"{rank}.pickle").write_bytes(pickle.dumps(err))
        raise SystemExit(2) from err


@contextlib.contextmanager
def _group(device: torch.device) -> Iterator[None]:
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=_COLLECTIVE_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    yield
    dist.destroy_process_group()  # not after an error: it might wait forever, and the process ends anyway


def _device(on_gpu: bool, index: int) -> torch.device:
    if not on_gpu:
        return torch.device("cpu")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _raise_first(failures: Path) -> None:
    """Raise the error that the first failing process wrote; the others may have failed because of it."""
    written = sorted(failures.glob("*.pickle"), key=lambda path: path.stat().st_mtime_ns)
    if written:
        error: LandsegError = pickle.loads(written[0].read_bytes())
        raise error


def _failed(err: ChildFailedError) -> Exception:
    """A killed process is an error for the user; an exception other than LandsegError is a bug."""
    rank, failure = err.get_first_failure()
    if failure.exitcode >= 0:
        return RuntimeError(f"training process {rank} failed:\n{failure.message}")
    name = signal.Signals(-failure.exitcode).name
    likely = ", probably out of memory" if name == "SIGKILL" else ""
    return LandsegError(
        "training",
        f"process {rank} was killed by {name}{likely}",
        "the same command resumes from the newest checkpoint",
    )
