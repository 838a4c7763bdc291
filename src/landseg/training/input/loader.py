"""The loader processes: they read and transform batches ahead of training, and hand them over in shared memory."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from landseg import storage
from landseg.cli.termination import held_back
from landseg.contracts.errors import ConfigError, KilledProcessError, LandsegError
from landseg.raw.processes import end_with_parent
from landseg.training.input.batches import Batch, BatchOrder, Key, TileBatches
from landseg.training.input.shards_ahead import ShardsAhead

SHARED_MEMORY = Path("/dev/shm")
_PREFETCH = 2
_END_S = 0.8
"""A loader process that needs longer to stop is killed."""
_REQUESTS_TO_END = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class _BatchRange:
    """The batch sampler of a DataLoader: a range of iterations, each with its number."""

    order: BatchOrder
    start: int
    stop: int

    def __iter__(self) -> Iterator[tuple[int, list[Key]]]:
        return enumerate(self.order.batches(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


class _BatchDataset(Dataset[Batch]):
    """What loader processes run: it writes batches to slots of shared memory in turn.

    Memory that is shared, mapped and touched only once spares the kernel thousands of new pages per batch, which would
    take a quarter as long as everything else.
    """

    def __init__(self, tiles: TileBatches, slots: Sequence[torch.Tensor]) -> None:
        self.tiles, self.slots = tiles, slots

    def __getitems__(self, request: tuple[int, list[Key]]) -> Batch | LandsegError:
        """A batch, or the error that reading it raised.

        pytorch: torch/_utils.py, ExceptionWrapper.reraise rebuilds an exception from its message alone; one that takes
        several arguments becomes a RuntimeError around a traceback.
        """
        number, keys = request
        try:
            return self.tiles.read(keys, self.slots[number % len(self.slots)] if self.slots else None)
        except LandsegError as err:
            return err


def _as_is(batch: Any) -> Any:
    return batch


def _start_loader_process(storage_answered: bool, number: int) -> None:
    storage.expect_answers(storage_answered)
    cv2.setNumThreads(0)  # one core per process
    # Both may be sent to the whole process group. The training process decides when to stop; its loaders end with it,
    # also where it is killed.
    end_with_parent()
    for request in _REQUESTS_TO_END:
        signal.signal(request, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTS_TO_END)


def training_batches(
    tiles: TileBatches, order: BatchOrder, start: int, stop: int, *, num_workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    """The batches of iterations `start` to `stop`; loader processes read ahead across epochs until it is closed.

    With loader processes, a batch is valid until the next one is requested: its memory is then reused.

    Raises:
        ConfigError: shared memory is too small for the batches.
        DataError: a tile cannot be read.
        LandsegError: a loader process ended before it had delivered its batches.
    """
    slots: list[torch.Tensor] = []
    if num_workers:
        slots = _shared_slots(tiles, order.batch_size, num_workers)
    loader: DataLoader[Batch] = DataLoader(
        _BatchDataset(tiles, slots),
        batch_sampler=_BatchRange(order, start, stop),  # type: ignore[arg-type]
        collate_fn=_as_is,
        num_workers=num_workers,
        worker_init_fn=partial(_start_loader_process, storage.endpoint_has_answered()),
        prefetch_factor=_PREFETCH if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # does not touch the model's random numbers
    )
    with _without_child_handler(), held_back(), _blocked():
        batches: Any = iter(loader)
    processes = batches._workers if num_workers else []
    ahead = None
    if order.shards is not None and order.rank == 0 and tiles.dataset.is_cached and start < stop:
        ahead = ShardsAhead(tiles.dataset, order, tiles.shards, max(1, num_workers * _PREFETCH), stop)
    try:
        for iteration in itertools.count(start):
            if ahead is not None and iteration < stop:
                ahead.reach(iteration)
            try:
                with _without_thread_traceback(getattr(batches, "_pin_memory_thread", None)):
                    batch = next(batches, None)
            except (RuntimeError, OSError, EOFError) as err:
                raise _explained(err, processes) from err
            if batch is None:
                return
            if isinstance(batch, LandsegError):
                raise batch
            yield batch
    finally:
        if ahead is not None:
            ahead.close()
        if num_workers:
            with _without_thread_traceback(getattr(batches, "_pin_memory_thread", None)):
                _end(batches)


def _end(batches: Any) -> None:
    """End a DataLoader's processes and threads now.

    Left to the garbage collector they may meet the interpreter's exit, where no thread can be started any more to tell
    the processes to stop, and where multiprocessing joins them without a limit: they ignore SIGTERM. The pin-memory
    thread keeps the iterator alive until then (pytorch: torch/utils/data/dataloader.py, "Data Loader Multiprocessing
    Shutdown Logic").
    """
    if batches._shutdown:
        return
    if pinning := getattr(batches, "_pin_memory_thread", None):
        batches._pin_memory_thread_done_event.set()
        batches._worker_result_queue.put((None, None))
        pinning.join(_END_S / 2)
    batches._workers_done_event.set()
    for number, is_available in enumerate(batches._workers_status):
        if is_available:
            batches._mark_worker_as_unavailable(number, shutdown=True)
    deadline = time.monotonic() + _END_S
    for process in batches._workers:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in batches._workers:
        if process.is_alive():
            process.kill()
            process.join()
    # Queues are left. A process that was killed may hold their lock, so they are not waited for without a limit.
    closing = threading.Thread(target=batches._shutdown_workers, name="end of loading", daemon=True)
    closing.start()
    closing.join(_END_S / 2)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Keep requests to end from reaching this thread, and the processes that it starts until they ignore them.

    pytorch: torch/utils/data/_utils/worker.py, `_worker_loop` sets a handler that ends the process on SIGTERM before
    it calls `worker_init_fn`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS_TO_END)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_child_handler() -> Iterator[None]:
    """Undo the SIGCHLD handler that torch installs, which raises in the main thread when a loader process ends.

    pytorch: torch/utils/data/_utils/signal_handling.py. If a process that is still needed ends, :func:`next` notices
    within seconds, where the error can be explained; one that ends after its last batch does no harm.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


@contextlib.contextmanager
def _without_thread_traceback(thread: threading.Thread | None) -> Iterator[None]:
    """Keep a thread's traceback from hiding the error it leads to: the pin-memory thread fails after its processes."""
    if thread is None:
        yield
        return
    before = threading.excepthook
    threading.excepthook = lambda args: None if args.thread is thread else before(args)
    try:
        yield
    finally:
        threading.excepthook = before


def _explained(err: Exception, processes: Sequence[Any]) -> Exception:
    """Torch's error about a loader process, with the likely cause and what to do about it; other errors unchanged."""
    text = str(err).splitlines()[0] if str(err) else type(err).__name__
    if isinstance(err, ConnectionError | EOFError):  # its pipes close a moment before a killed process is known to be
        until = time.monotonic() + 1
        while all(process.exitcode is None for process in processes) and time.monotonic() < until:
            time.sleep(0.01)
    signals = {-process.exitcode for process in processes if process.exitcode is not None and process.exitcode < 0}
    if signal.SIGBUS in signals or "shared memory" in text or "</torch_" in text:
        hint = "give the container more shared memory, or use fewer --num-workers"
        return LandsegError("data loading", f"{SHARED_MEMORY} is full: {text}", hint)
    if signals or "exited unexpectedly" in text or isinstance(err, ConnectionError | EOFError):
        names = " and ".join(signal.Signals(number).name for number in sorted(signals))
        how = f"was killed ({names})" if names else "ended unexpectedly"
        return KilledProcessError(
            "data loading", f"a loader process {how}, probably out of memory: {text}", "use fewer --num-workers"
        )
    return err


def _shared_slots(tiles: TileBatches, batch_size: int, num_workers: int) -> list[torch.Tensor]:
    """Shared memory for the batches that may be requested ahead, and for the one in use.

    There are no slots where a step of mmseg's own decides the size of each batch: each then gets new memory.

    Raises:
        ConfigError: there is less room than the batches take; loader processes would be killed without an explanation.
    """
    height, width = tiles.largest_size
    count, size = num_workers * _PREFETCH + 1, batch_size * height * width * (4 * len(tiles.pipeline.mean) + 1)
    needed = count * size
    if SHARED_MEMORY.is_dir() and needed > (free := shutil.disk_usage(SHARED_MEMORY).free):
        raise ConfigError(
            str(SHARED_MEMORY),
            f"expected {needed / 2**20:.1f} MiB for the batches of {num_workers} loader processes, "
            f"found {free / 2**20:.1f} MiB",
            "give the container more shared memory (docker: --shm-size; Kubernetes: an emptyDir of medium Memory), "
            "or lower --num-workers",
        )
    if tiles.pipeline.size is None and tiles.pipeline.mmseg_steps:
        return []
    return [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(count)]  # type: ignore[no-untyped-call]
