"""Many objects at once: threads with a bounded look-ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def parallel(function: Callable[[T], R], items: Iterable[T], *, workers: int = 8) -> Iterator[R]:
    """Apply `function` to items in threads; yields results as they come, not in order.

    Items are taken from the iterable only as threads come free, so it may be endless or expensive to produce. The
    first exception ends it: calls that are running are waited for, the others never begin.
    """
    source = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="landseg-storage") as pool:
        pending: set[Future[R]] = {pool.submit(function, item) for item in islice(source, 2 * workers)}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                pending |= {pool.submit(function, item) for item in islice(source, len(done))}
                for future in done:
                    yield future.result()
        finally:
            for future in pending:
                future.cancel()
