"""Work spread over processes, results in order, memory bounded."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Self, TypeVar

from landseg import storage
from landseg.cli.termination import held_back
from landseg.contracts.errors import KilledProcessError
from landseg.raw.shared_results import SharedResults

T = TypeVar("T")
R = TypeVar("R")


def num_cpus() -> int:
    """CPUs this process may use: its affinity, or a container's CPU limit where that is less."""
    available = len(os.sched_getaffinity(0))
    limit = _first_line("/sys/fs/cgroup/cpu.max")
    if limit is None:  # version 1 of control groups
        folder = "/sys/fs/cgroup/cpu"
        limit = f"{_first_line(f'{folder}/cpu.cfs_quota_us')} {_first_line(f'{folder}/cpu.cfs_period_us')}"
    try:
        quota, period = map(int, limit.split())
    except ValueError:  # "max" where there is no limit
        return available
    return min(available, max(1, round(quota / period))) if quota > 0 and period > 0 else available


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or a container's limit where that is less."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _first_line("/sys/fs/cgroup/memory.max") or _first_line("/sys/fs/cgroup/memory/memory.limit_in_bytes")
    try:
        return min(installed, int(limit or ""))
    except ValueError:  # likewise
        return installed


def _first_line(path: str) -> str | None:
    """Of a pseudo file; None where there is none."""
    try:
        with open(path) as file:  # noqa: PTH123
            return file.readline().strip()
    except OSError:
        return None


class ProcessPool:
    """Processes: `with ProcessPool(4) as processes: processes.map(...)`. With one, the work is done in this process."""

    def __init__(self, num_processes: int) -> None:
        self.num_processes = num_processes
        self._pool: ProcessPoolExecutor | None = None
        self._results: SharedResults | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._results is not None:
            self._results.close()

    def map(self, function: Callable[[T], R], jobs: Iterable[T]) -> Iterator[R]:
        """Apply a picklable function and yield the results in the order of the jobs.

        At most two jobs per process are under way, so memory does not grow with their number. A process keeps the
        functions it applied last, and with them what they hold: an open archive, say.
        """
        if self.num_processes <= 1:
            yield from map(function, jobs)
            return
        pool, results = self._started()
        pickled = pickle.dumps(function)
        pending: deque[tuple[int | None, Future[bytes]]] = deque()

        def take() -> R:
            slot, future = pending.popleft()
            try:
                result: R = results.take(slot, future.result())
            finally:
                results.release(slot)
            return result

        try:
            for job in jobs:
                slot = results.reserve()
                with held_back():  # it may start a process
                    pending.append((slot, pool.submit(_apply, pickled, job, slot)))
                if len(pending) >= 2 * self.num_processes:
                    yield take()
            while pending:
                yield take()
        except BrokenProcessPool as err:
            raise KilledProcessError(
                "checking tiles", "a process was killed, probably out of memory", "use fewer --num-workers"
            ) from err
        finally:
            for slot, future in pending:
                future.cancel()
                results.release_after(slot, future)

    def _started(self) -> tuple[ProcessPoolExecutor, SharedResults]:
        if self._pool is None or self._results is None:
            # Not fork: this process has threads (uploads). The fork server forks from a process that has none.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["landseg.raw.checks"])
            self._results = SharedResults(4 * self.num_processes)  # for two maps at once
            with held_back():
                self._pool = ProcessPoolExecutor(
                    self.num_processes,
                    mp_context=context,
                    initializer=_begin,
                    initargs=(dict(os.environ), storage.endpoint_has_answered(), self._results),
                )
        return self._pool, self._results


def _apply(pickled: bytes, job: Any, slot: int | None) -> bytes:
    return _results.put(slot, _function(pickled)(job))


_results: SharedResults
"""In the pool's processes."""


@functools.lru_cache(4)  # what maps that run at once need: one that checks tiles, one that cuts a scene
def _function(pickled: bytes) -> Callable[[Any], Any]:
    """A function that the parent sent, unpickled once per process rather than once per job."""
    function: Callable[[Any], Any] = pickle.loads(pickled)
    return function


def _begin(environment: dict[str, str], storage_answered: bool, results: SharedResults) -> None:
    """Take over the environment, leave Ctrl-C to the parent, and end when the parent is gone, however that ended."""
    global _results
    _results = results
    os.environ.update(environment)  # the fork server has that of its own start
    storage.expect_answers(storage_answered)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """From now on, end when the parent process is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
