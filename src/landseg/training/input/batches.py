"""Batches of training tiles: which tiles, in what order, read and transformed.

Everything is a function of (seed, epoch, position): a restart in the middle of an epoch continues with the very next
batch, and neither the number of loader processes nor that of the team's processes changes what is trained on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from landseg.contracts.dataset import Split, Tile
from landseg.contracts.errors import ConfigError
from landseg.dataset.reader import StagedDataset
from landseg.training.input.pipeline import SEG_PAD_VALUE, Pipeline, target_size
from landseg.training.input.transforms import Image, Label, seeded

Batch = dict[str, Any]
"""img (N, B, H, W) float32, gt_semantic_seg (N, 1, H, W) uint8, img_metas: N dicts."""
Key = tuple[int, int]
"""(epoch, index of the tile)."""


@dataclass(frozen=True)
class BatchOrder:
    """Which tiles make which batch.

    A global batch is `batch_size * world_size` tiles of the epoch's permutation; process `rank` takes every
    `world_size`-th of them. So 2 processes with 4 tiles each train on the same tiles as 1 process with 8. The tiles
    that do not fill a last batch are left out of the epoch, as in mmseg.

    Attributes:
        num_tiles: tiles to train on.
        batch_size: tiles per process and iteration.
        world_size: processes of the team.
        rank: this process's number among them, from 0.
        seed: of the permutations.

    Raises:
        ConfigError: there are fewer tiles than in one global batch.
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
        """This process's tiles of the batches of iterations `start` to `stop`."""
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
        dataset: the staged dataset.
        splits: the splits to train on.
        pipeline: the transforms.
        seed: of the transforms' draws.
    """

    def __init__(self, dataset: StagedDataset, splits: Sequence[Split], pipeline: Pipeline, seed: int) -> None:
        self.dataset, self.pipeline, self.seed = dataset, pipeline, seed
        self.tiles: list[tuple[Split, Tile]] = [(split, tile) for split in splits for tile in dataset.tiles(split)]
        self._ignored = dataset.manifest.class_schema.ignore_index

    def __len__(self) -> int:
        return len(self.tiles)

    def check_sizes(self, batch_size: int) -> None:
        """Refuse tiles that no batch can hold before training starts rather than in the middle of it.

        mmseg's own steps may crop to one size, so what they return is checked as it comes.

        Raises:
            DataError: a tile is larger than the config's size, or tiles differ in size and nothing pads them.
        """
        if self.pipeline.mmseg_steps or (self.pipeline.size is None and batch_size == 1):
            return
        size = self.pipeline.size
        for _, tile in self.tiles:
            size = target_size(self.pipeline, size, (tile.height, tile.width), tile.id)

    @functools.cached_property
    def tile_size(self) -> tuple[int, int]:
        """(height, width) of the largest tile, before any step of the pipeline."""
        return max(tile.height for _, tile in self.tiles), max(tile.width for _, tile in self.tiles)

    @property
    def largest_size(self) -> tuple[int, int]:
        """(height, width) that no sample exceeds, unless a step of mmseg's own enlarges it."""
        return self.pipeline.size or self.pipeline.padded(self.tile_size)

    def read(self, keys: Sequence[Key], buffer: torch.Tensor | None = None) -> Batch:
        """Read and transform the tiles of a batch.

        Args:
            keys: which tiles, and in which epoch.
            buffer: (bytes,) uint8, large enough, to write the batch to; None for new memory.

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
        image = self.dataset.read_image(split, tile)
        label: Label = self.dataset.read_label(split, tile)
        if self._ignored != SEG_PAD_VALUE:  # the value that the loss ignores
            label = np.where(label == self._ignored, np.uint8(SEG_PAD_VALUE), label)
        with seeded(self.seed, epoch, index):
            return self.pipeline.augment(image, label)


def _batch_tensors(
    buffer: torch.Tensor | None, num_tiles: int, bands: int, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of a batch, one after the other in a buffer or in new memory."""
    pixels = num_tiles * size[0] * size[1]
    if buffer is None:
        buffer = torch.empty(pixels * (4 * bands + 1), dtype=torch.uint8)
    images, labels = buffer[: 4 * bands * pixels], buffer[4 * bands * pixels : (4 * bands + 1) * pixels]
    return images.view(torch.float32).view(num_tiles, bands, *size), labels.view(num_tiles, 1, *size)
