"""Batches of training tiles: which tiles, in what order, read and transformed in worker processes.

Everything is a function of (seed, epoch, position): a restart in the middle of an epoch goes on with the very next
batch, and neither the number of workers nor that of processes that share a batch changes what is trained on.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from landseg.data.dataset import StagedDataset
from landseg.data.manifest import Split, Tile
from landseg.errors import ConfigError, LandsegError
from landseg.segmentation.transforms import Image, Label, Pipeline, seeded, target_size

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


@dataclass(frozen=True)
class _Slice:
    """The batch sampler of a DataLoader: a range of iterations."""

    schedule: Schedule
    start: int
    stop: int

    def __iter__(self) -> Iterator[list[Key]]:
        return self.schedule.batches(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start


class TileBatches(Dataset[Batch]):
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
        # The loss ignores 255; a dataset may use another value for it.
        self._labels = np.arange(256, dtype=np.uint8)
        self._labels[staged.manifest.class_schema.ignore_index] = 255

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitems__(self, keys: list[Key]) -> Batch | LandsegError:
        """A batch; an error is returned, because a DataLoader cannot carry exceptions that take several arguments."""
        try:
            return self._batch(keys)
        except LandsegError as err:
            return err

    def _batch(self, keys: list[Key]) -> Batch:
        samples = [self._sample(*key) for key in keys]
        names = [self.tiles[index][1].id for _, index in keys]
        size = target_size(self.pipeline, [label.shape for _, label, _ in samples], names)
        images = torch.empty((len(keys), samples[0][0].shape[2], *size), dtype=torch.float32)
        labels = torch.empty((len(keys), 1, *size), dtype=torch.uint8)
        metas = []
        for (image, label, pending), planes, target, name in zip(
            samples, images.numpy(), labels.numpy(), names, strict=True
        ):
            self.pipeline.write(image, label, pending, planes, target[0])
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
        label: Label = self._labels[self.staged.read_label(split, tile)]
        with seeded(self.seed, epoch, index):
            return self.pipeline.augment(image, label)


def _as_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # one core per worker
    # Both may be sent to the whole process group. The training process decides when to stop; workers end with it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_batches(
    dataset: TileBatches, schedule: Schedule, start: int, stop: int, *, num_workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    """The batches of iterations `start` to `stop`; workers live and read ahead across epochs, until it is closed.

    Raises:
        ConfigError: shared memory is too small for the workers' batches.
        DataError: a tile cannot be read.
    """
    if num_workers:
        check_shared_memory(dataset, schedule.batch_size, num_workers)
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_sampler=_Slice(schedule, start, stop),
        collate_fn=_as_is,
        num_workers=num_workers,
        worker_init_fn=_start_worker,
        prefetch_factor=_PREFETCH if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # leaves the model's random numbers alone
    )
    for batch in loader:
        if isinstance(batch, LandsegError):
            raise batch
        yield batch


def check_shared_memory(dataset: TileBatches, batch_size: int, num_workers: int) -> None:
    """Refuse to start where workers would die of a full /dev/shm, which tells nobody why.

    Raises:
        ConfigError: it has less room than the workers' batches take.
    """
    if not SHARED_MEMORY.is_dir():
        return
    tile = dataset.tiles[0][1]
    height, width = dataset.pipeline.size or (tile.height, tile.width)
    sample = height * width * (4 * len(dataset.pipeline.mean) + 1)
    needed, free = sample * batch_size * num_workers * (_PREFETCH + 1), shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise ConfigError(
            str(SHARED_MEMORY),
            f"expected room for {needed >> 20} MiB of batches from {num_workers} workers, found {free >> 20} MiB",
            "give the container more shared memory (docker: --shm-size; Kubernetes: an emptyDir of medium Memory), "
            "or lower --num-workers",
        )
