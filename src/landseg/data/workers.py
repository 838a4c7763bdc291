"""Work spread over processes, results in order, memory bounded."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from landseg.errors import LandsegError

T = TypeVar("T")
R = TypeVar("R")


def num_cpus() -> int:
    """CPUs this process may use: its affinity, or a container's CPU limit where that is less."""
    available = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # noqa: PTH123 (a pseudo file)
            quota, period = file.read().split()
        limit = available if quota == "max" else max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return available
    return min(available, limit)


def ordered_map(function: Callable[[T], R], jobs: Iterable[T], num_workers: int) -> Iterator[R]:
    """Apply a picklable function in worker processes and yield the results in order.

    At most two jobs per worker are under way, so memory does not grow with their number. One worker means none: the
    work is done here.
    """
    if num_workers <= 1:
        yield from map(function, jobs)
        return
    # Not fork: this process has threads (uploads). The fork server forks from a process that has none.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, function.__module__])
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_end_with_parent) as pool:
        pending: deque[Future[R]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(function, job))
                if len(pending) >= 2 * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as err:
            raise LandsegError(
                "worker process", "was killed, most likely for memory", "use fewer --num-workers"
            ) from err
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
