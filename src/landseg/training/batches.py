"""Batches of training tiles: which tiles, in what order, read and transformed in worker processes.

Everything is a function of (seed, epoch, position): a restart in the middle of an epoch goes on with the very next
batch, and neither the number of workers nor that of processes that share a batch changes what is trained on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from landseg import storage
from landseg.contracts.dataset import Split, Tile
from landseg.contracts.errors import ConfigError, LandsegError
from landseg.dataset.reader import StagedDataset
from landseg.training.transforms import SEG_PAD_VALUE, Image, Label, Pipeline, seeded, target_size

SHARED_MEMORY = Path("/dev/shm")
_PREFETCH = 2

Batch = dict[str, Any]
"""img (N, B, H, W) float32, gt_semantic_seg (N, 1, H, W) uint8, img_metas: N dicts."""
Key = tuple[int, int]
"""(epoch, index of the tile)."""


@dataclass(frozen=True)
class Schedule:
    """Which tiles make which batch.

    A global batch is `batch_size * world_size` tiles of the epoch's permutation; process `rank` takes every
    `world_size`-th of them. So 2 processes with 4 tiles each train on what 1 process with 8 does. The tiles that do not
    fill a last batch are left out of the epoch, as mmseg does.
    """

    num_tiles: int
    batch_size: int
    world_size: int
    rank: int
    seed: int

    def __post_init__(self) -> None:
        if self.iters_per_epoch == 0:
            raise ConfigError(
                "--batch-per-gpu",
                f"expected at most {self.num_tiles} tiles in a batch, the number of training tiles, found "
                f"{self.batch_size} x {self.world_size} processes",
                "use a smaller batch",
            )

    @property
    def iters_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return self.num_tiles // (self.batch_size * self.world_size)

    def batches(self, start: int, stop: int) -> Iterator[list[Key]]:
        """This process's share of the batches of iterations `start` to `stop`."""
        size = self.batch_size * self.world_size
        epoch, order = -1, np.empty(0, np.int64)
        for iteration in range(start, stop):
            if epoch != iteration // self.iters_per_epoch:
                epoch = iteration // self.iters_per_epoch
                order = np.random.default_rng([self.seed, epoch]).permutation(self.num_tiles)
            first = iteration % self.iters_per_epoch * size
            yield [(epoch, int(index)) for index in order[first + self.rank : first + size : self.world_size]]


class TileBatches:
    """Training batches from a staged dataset.

    Args:
        staged: the dataset.
        splits: the splits to train on.
        pipeline: the transforms.
        seed: of the transforms' draws.
    """

    def __init__(self, staged: StagedDataset, splits: Sequence[Split], pipeline: Pipeline, seed: int) -> None:
        self.staged, self.pipeline, self.seed = staged, pipeline, seed
        self.tiles: list[tuple[Split, Tile]] = [(split, tile) for split in splits for tile in staged.tiles(split)]
        self._ignored = staged.manifest.class_schema.ignore_index

    def __len__(self) -> int:
        return len(self.tiles)

    def check_sizes(self, batch_size: int) -> None:
        """Refuse tiles that no batch could hold, before training starts rather than in the middle of it.

        Steps of mmseg's may crop to one size, so what they make is looked at when it is made.

        Raises:
            DataError: a tile is larger than the config's size, or tiles differ in size and nothing pads them.
        """
        if self.pipeline.mmseg_steps or (self.pipeline.size is None and batch_size == 1):
            return
        size = self.pipeline.size
        for _, tile in self.tiles:
            size = target_size(self.pipeline, size, (tile.height, tile.width), tile.id)

    @property
    def largest_size(self) -> tuple[int, int]:
        """(height, width) that no sample exceeds, where no step of mmseg's makes larger ones."""
        sizes = [(tile.height, tile.width) for _, tile in self.tiles]
        return self.pipeline.size or (max(height for height, _ in sizes), max(width for _, width in sizes))

    def read(self, keys: Sequence[Key], buffer: torch.Tensor | None = None) -> Batch:
        """Read and transform the tiles of a batch.

        Args:
            keys: which tiles, and in which epoch.
            buffer: (bytes,) uint8, large enough, that the batch is written to; None for new memory.

        Raises:
            DataError: a tile cannot be read, or does not fit.
        """
        images = labels = torch.empty(0)
        metas: list[dict[str, Any]] = []
        size = self.pipeline.size
        for number, (epoch, index) in enumerate(keys):
            name = self.tiles[index][1].id
            image, label, pending = self._sample(epoch, index)
            size = target_size(self.pipeline, size, label.shape, name)
            if number == 0:
                images, labels = _batch_tensors(buffer, len(keys), image.shape[2], size)
            self.pipeline.write(image, label, pending, images[number].numpy(), labels[number, 0].numpy())
            shape = (*label.shape, image.shape[2])
            metas.append(
                {
                    "filename": name,
                    "ori_filename": name,
                    "ori_shape": shape,
                    "img_shape": shape,
                    "pad_shape": (*size, image.shape[2]),
                    "scale_factor": 1.0,
                    "flip": False,
                    "flip_direction": None,
                }
            )
        return {"img": images, "gt_semantic_seg": labels, "img_metas": metas}

    def _sample(self, epoch: int, index: int) -> tuple[Image, Label, Image | None]:
        split, tile = self.tiles[index]
        image = self.staged.read_image(split, tile)
        label: Label = self.staged.read_label(split, tile)
        if self._ignored != SEG_PAD_VALUE:  # what the loss ignores
            label = np.where(label == self._ignored, np.uint8(SEG_PAD_VALUE), label)
        with seeded(self.seed, epoch, index):
            return self.pipeline.augment(image, label)


def _batch_tensors(
    buffer: torch.Tensor | None, num_tiles: int, bands: int, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of a batch, one behind the other in a buffer or in new memory."""
    pixels = num_tiles * size[0] * size[1]
    if buffer is None:
        buffer = torch.empty(pixels * (4 * bands + 1), dtype=torch.uint8)
    images, labels = buffer[: 4 * bands * pixels], buffer[4 * bands * pixels : (4 * bands + 1) * pixels]
    return images.view(torch.float32).view(num_tiles, bands, *size), labels.view(num_tiles, 1, *size)


@dataclass(frozen=True)
class _Slice:
    """The batch sampler of a DataLoader: a range of iterations, each with its number."""

    schedule: Schedule
    start: int
    stop: int

    def __iter__(self) -> Iterator[tuple[int, list[Key]]]:
        return enumerate(self.schedule.batches(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


class _Filler(Dataset[Batch]):
    """What workers run: batches, written to slots of shared memory in turn.

    Memory that is shared, mapped and touched once saves each batch the kernel's work on thousands of new pages, which
    takes a quarter as long as all the rest.
    """

    def __init__(self, tiles: TileBatches, slots: Sequence[torch.Tensor]) -> None:
        self.tiles, self.slots = tiles, slots

    def __getitems__(self, request: tuple[int, list[Key]]) -> Batch | LandsegError:
        """A batch; an error is returned, because a DataLoader cannot carry exceptions that take several arguments."""
        number, keys = request
        try:
            return self.tiles.read(keys, self.slots[number % len(self.slots)] if self.slots else None)
        except LandsegError as err:
            return err


def _as_is(batch: Any) -> Any:
    return batch


def _start_worker(storage_answered: bool, worker: int) -> None:
    storage.expect_answers(storage_answered)
    cv2.setNumThreads(0)  # one core per worker
    # Both may be sent to the whole process group. The training process decides when to stop; workers end with it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_batches(
    dataset: TileBatches, schedule: Schedule, start: int, stop: int, *, num_workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    """The batches of iterations `start` to `stop`; workers live and read ahead across epochs, until it is closed.

    With workers, a batch is valid until the next one is asked for: its memory is then used again.

    Raises:
        ConfigError: shared memory is too small for the workers' batches.
        DataError: a tile cannot be read.
        LandsegError: a worker died before its batches were there.
    """
    slots: list[torch.Tensor] = []
    if num_workers:
        slots = _shared_slots(dataset, schedule.batch_size, num_workers)
    loader: DataLoader[Batch] = DataLoader(
        _Filler(dataset, slots),
        batch_sampler=_Slice(schedule, start, stop),  # type: ignore[arg-type]
        collate_fn=_as_is,
        num_workers=num_workers,
        worker_init_fn=partial(_start_worker, storage.endpoint_has_answered()),
        prefetch_factor=_PREFETCH if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # leaves the model's random numbers alone
    )
    with _unwatched():
        batches = iter(loader)
    workers = multiprocessing.active_children() if num_workers else []
    while True:
        try:
            batch = next(batches, None)
        except (RuntimeError, OSError, EOFError) as err:
            raise _explained(err, workers) from err
        if batch is None:
            return
        if isinstance(batch, LandsegError):
            raise batch
        yield batch


@contextlib.contextmanager
def _unwatched() -> Iterator[None]:
    """Keep torch from raising, wherever the main thread then is, when a worker dies; it installs a handler for that.

    A worker that is still needed is missed by :func:`next`, within seconds and where it can be explained; the death of
    one that has done its work, in the moment when training ends, is nobody's concern.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _explained(err: Exception, workers: Sequence[Any]) -> Exception:
    """What torch says of dead workers, with what to do about it; other errors as they are."""
    text = str(err).splitlines()[0] if str(err) else type(err).__name__
    signals = {-worker.exitcode for worker in workers if worker.exitcode is not None and worker.exitcode < 0}
    if signal.SIGBUS in signals or "shared memory" in text or "</torch_" in text:
        hint = "give the container more shared memory, or use fewer --num-workers"
        return LandsegError("data loading", f"{SHARED_MEMORY} is full: {text}", hint)
    if signals or "exited unexpectedly" in text or isinstance(err, ConnectionError | EOFError):
        how = " and ".join(signal.Signals(number).name for number in sorted(signals)) or "an error"
        return LandsegError(
            "data loading", f"a worker died of {how}, most likely for memory: {text}", "use fewer --num-workers"
        )
    return err


def _shared_slots(dataset: TileBatches, batch_size: int, num_workers: int) -> list[torch.Tensor]:
    """Shared memory for the batches that workers may be asked for ahead, and for the one in use.

    There are none where a step of mmseg's decides the size of each batch: workers then make new memory for each.

    Raises:
        ConfigError: there is less room than the batches take; workers would die of that, which tells nobody why.
    """
    height, width = dataset.largest_size
    count, size = num_workers * _PREFETCH + 1, batch_size * height * width * (4 * len(dataset.pipeline.mean) + 1)
    needed = count * size
    if SHARED_MEMORY.is_dir() and needed > (free := shutil.disk_usage(SHARED_MEMORY).free):
        raise ConfigError(
            str(SHARED_MEMORY),
            f"expected {needed / 2**20:.1f} MiB for batches from {num_workers} workers, found {free / 2**20:.1f} MiB",
            "give the container more shared memory (docker: --shm-size; Kubernetes: an emptyDir of medium Memory), "
            "or lower --num-workers",
        )
    if dataset.pipeline.size is None and dataset.pipeline.mmseg_steps:
        return []
    return [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(count)]  # type: ignore[no-untyped-call]
