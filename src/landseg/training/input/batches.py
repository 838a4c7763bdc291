"""Batches of training tiles: which tiles, in what order, read and transformed.

Everything is a function of (seed, epoch, position): a restart in the middle of an epoch continues with the very next
batch, and neither the number of loader processes nor that of the team's processes changes what is trained on.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError
from landseg.contracts.tile import Tile
from landseg.dataset.reader import StagedDataset
from landseg.dataset.table import one_of_each_size
from landseg.training.input import sampling
from landseg.training.input.decoded_tiles import DecodedTiles
from landseg.training.input.pipeline import Pipeline, target_size
from landseg.training.input.shard_order import ShardOrder
from landseg.training.input.transforms import Image, Label, seeded

Batch = dict[str, Any]
"""img (N, B, H, W) float32, gt_semantic_seg (N, 1, H, W) uint8, img_metas: N dicts."""
Key = tuple[int, int]
"""(draw, index of the tile): the draw is the epoch; where a tile is drawn again in it, another number."""

_REPEATS = 1 << 20
"""Drawn again in an epoch, a tile's draw is the epoch plus this for each time before: its transforms differ."""
_AGAIN = 1 << 52
"""The same for tiles drawn again so that every process has as many; more than any number of repeats adds."""


@dataclass(frozen=True)
class BatchOrder:
    """Which tiles make which batch.

    A global batch is `batch_size * world_size` tiles of the epoch's permutation; process `rank` takes every
    `world_size`-th of them. So 2 processes with 4 tiles each train on the same tiles as 1 process with 8. As in mmseg,
    an epoch's tiles are made to divide by the number of processes, by drawing the first ones again, and those that
    then do not fill a last batch of each process are left out.

    Attributes:
        num_tiles: tiles to train on.
        batch_size: tiles per process and iteration.
        world_size: processes of the team.
        rank: this process's number among them, from 0.
        seed: of the permutations.
        probabilities: (T,) of the tiles to be drawn; None: each is drawn once in an epoch.
        shards: puts the tiles of an epoch into an order that needs few shards at a time; None: any order.

    Raises:
        ConfigError: there are fewer tiles than one global batch needs.
    """

    num_tiles: int
    batch_size: int
    world_size: int
    rank: int
    seed: int
    probabilities: NDArray[np.float64] | None = None
    shards: ShardOrder | None = None

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
        return -(-self.num_tiles // self.world_size) // self.batch_size

    @property
    def global_batch_size(self) -> int:
        """Tiles per iteration, of all processes."""
        return self.batch_size * self.world_size

    def shards_in_order(self, epoch: int) -> NDArray[np.int64]:
        """The shards of an epoch's tiles in order, where it has an order of shards."""
        assert self.shards is not None
        order, _ = self._epoch(epoch)
        return self.shards.shards[order[: self.iters_per_epoch * self.global_batch_size]]

    def batches(self, start: int, stop: int) -> Iterator[list[Key]]:
        """This process's tiles of the batches of iterations `start` to `stop`."""
        size = self.global_batch_size
        epoch = -1
        order = draws = np.empty(0, np.int64)
        for iteration in range(start, stop):
            if epoch != iteration // self.iters_per_epoch:
                epoch = iteration // self.iters_per_epoch
                order, draws = self._epoch(epoch)
            first = iteration % self.iters_per_epoch * size
            mine = slice(first + self.rank, first + size, self.world_size)
            yield [(int(draw), int(index)) for draw, index in zip(draws[mine], order[mine], strict=True)]

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of an epoch's tiles in order, and their draws."""
        if self.probabilities is None:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_tiles)
            draws = np.full(self.num_tiles, epoch)
        else:
            order, earlier = sampling.draw(self.probabilities, self.seed, epoch)
            draws = epoch + _REPEATS * earlier
        times, again = np.divmod(np.arange(-self.num_tiles % self.world_size), self.num_tiles)
        order, draws = (
            np.concatenate([order, order[again]]),
            np.concatenate([draws, draws[again] + _AGAIN * (times + 1)]),
        )
        if self.shards is None:
            return order, draws
        places = self.shards.arrange(order, self.seed, epoch)
        return order[places], draws[places]


class TileBatches:
    """Training batches from a staged dataset.

    Args:
        dataset: the staged dataset.
        splits: the splits to train on.
        pipeline: the transforms.
        seed: of the transforms' draws.

    Attributes:
        decoding: reads tiles before they are transformed, and may keep them.
    """

    def __init__(self, dataset: StagedDataset, splits: Sequence[Split], pipeline: Pipeline, seed: int) -> None:
        self.dataset, self.pipeline, self.seed = dataset, pipeline, seed
        self._indexes = [(split, dataset.index(split)) for split in splits]
        self._starts = list(itertools.accumulate((len(index) for _, index in self._indexes), initial=0))
        self.decoding = DecodedTiles(dataset, self._indexes)

    def __len__(self) -> int:
        return self._starts[-1]

    def tile(self, number: int) -> tuple[Split, Tile]:
        """A tile and its split; read from the index on disk, as the rows of all would fill memory in each process."""
        position = bisect.bisect_right(self._starts, number) - 1
        split, index = self._indexes[position]
        return split, index.find(index.table.id(number - self._starts[position]))

    def size(self, number: int) -> tuple[int, int]:
        """A tile's (height, width), before any step of the pipeline."""
        _, tile = self.tile(number)
        return tile.height, tile.width

    def one_of_each_size(self, most: int) -> list[int]:
        """The number of a tile of each size, as in :func:`~landseg.dataset.table.one_of_each_size`."""
        sides = zip(*(index.table.sizes for _, index in self._indexes), strict=True)
        heights, widths = map(np.concatenate, sides)
        return one_of_each_size(heights, widths, most)

    @functools.cached_property
    def shards(self) -> list[tuple[Split, int]]:
        """Split and number of every shard."""
        splits = self.dataset.manifest.splits
        return [(split, number) for split, _ in self._indexes for number in range(len(splits[split].shards))]

    @property
    def shard_numbers(self) -> NDArray[np.int64]:
        """(T,) the position in :attr:`shards` of each tile's."""
        counts = [len(self.dataset.manifest.splits[split].shards) for split, _ in self._indexes]
        starts = itertools.accumulate(counts[:-1], initial=0)
        pairs = zip(starts, self._indexes, strict=True)
        own = [start + index.table.shards.astype(np.int64) for start, (_, index) in pairs]
        return np.concatenate(own)

    def rows(self) -> Iterator[Tile]:
        """Every tile, in order."""
        return itertools.chain.from_iterable(index for _, index in self._indexes)

    def check_sizes(self, batch_size: int) -> None:
        """Refuse tiles that no batch can hold before training starts rather than in the middle of it.

        mmseg's own steps may crop to one size, so what they return is checked as it comes.

        Raises:
            DataError: a tile is larger than the config's size, or tiles differ in size and nothing pads them.
        """
        if self.pipeline.mmseg_steps or (self.pipeline.size is None and batch_size == 1):
            return
        size = self.pipeline.size
        for _, index in self._indexes:
            for stored in index.table:
                size = target_size(self.pipeline, size, (stored.height, stored.width), stored.id)

    @functools.cached_property
    def tile_size(self) -> tuple[int, int]:
        """(height, width) of the largest tile, before any step of the pipeline."""
        sizes = [index.table.sizes for _, index in self._indexes if len(index)]
        return max(int(heights.max()) for heights, _ in sizes), max(int(widths.max()) for _, widths in sizes)

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
        for number, (draw, index) in enumerate(keys):
            split, tile = self.tile(index)
            name = tile.id
            image, label, pending = self._sample(split, tile, draw, index)
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

    def _sample(self, split: Split, tile: Tile, draw: int, index: int) -> tuple[Image, Label, Image | None]:
        image, label = self.decoding.read(index, split, tile)
        with seeded(self.seed, draw, index):
            return self.pipeline.augment(image, label, self)

    def decoded(self, number: int) -> tuple[Image, Label]:
        """A tile's image (H, W, B) and label (H, W), both uint8, before any transform.

        Raises:
            DataError: the tile cannot be read.
        """
        return self.decoding.read(number, *self.tile(number))


def _batch_tensors(
    buffer: torch.Tensor | None, num_tiles: int, bands: int, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of a batch, one after the other in a buffer or in new memory."""
    pixels = num_tiles * size[0] * size[1]
    if buffer is None:
        buffer = torch.empty(pixels * (4 * bands + 1), dtype=torch.uint8)
    images, labels = buffer[: 4 * bands * pixels], buffer[4 * bands * pixels : (4 * bands + 1) * pixels]
    return images.view(torch.float32).view(num_tiles, bands, *size), labels.view(num_tiles, 1, *size)
