"""Pixels sampled from the labelled tiles of a split, to which weights are fitted: read once, and kept on local disk."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import Split
from landseg.contracts.probabilities import StoredTile
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.averaging import Labels
from landseg.ensemble.members import Member, make_average, open_shards
from landseg.probabilities.codec import Dtype, Stored

_SAMPLES = 128
"""Fitting looks at a grid of at least this many pixels of a tile in both directions."""
_ROOM_SHARE = 0.5
"""How much of the room in the scratch folder samples may take; the rest is for shards that are being read."""


class _Sample(NamedTuple):
    """What is sampled of a tile.

    Attributes:
        tile_id: the tile.
        stored: (C, h, w) of each model.
        truth: (h, w).
    """

    tile_id: str
    stored: list[Stored]
    truth: Labels


@dataclass(eq=False)
class Samples:
    """Pixels sampled from the tiles of a split, shard by shard.

    The samples of a shard are kept when it is read for the first time, in a folder of their own. What the folder has no
    room for is read again each time.

    Attributes:
        members: the models.
        dataset: the dataset.
        split: the split.
        tiles: its tiles.
        wanted: the tiles that are sampled.
        folder: local folder, empty.
        num_threads: threads that read.
    """

    members: Sequence[Member]
    dataset: StagedDataset
    split: Split
    tiles: TileIndex
    wanted: frozenset[str]
    folder: Path
    num_threads: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kept_bytes: int = 0

    @functools.cached_property
    def dtypes(self) -> tuple[Dtype, ...]:
        """How each model's probabilities are stored."""
        return make_average(self.members).dtypes

    def ids(self, wanted: set[str]) -> list[str]:
        """The wanted tiles in the order of :meth:`map`."""
        return [tile.id for tile in self.members[0].reader.index(self.split).tiles() if tile.id in wanted]

    def map(
        self,
        label: str,
        wanted: set[str],
        work: Callable[[list[Stored], Labels, int], NDArray[Any]],
        reduce: Callable[[list[NDArray[Any]]], Any],
    ) -> list[Any]:
        """Apply `work` to the wanted tiles and `reduce` to its results for each shard; in the order of the shards.

        `work` takes the (C, h, w) stored values of each model, the (h, w) truth and the value in it that is ignored.
        """
        ignore_index = self.dataset.schema.ignore_index
        shards = self.members[0].reader.index(self.split)
        counts = [sum(tile.id in wanted for tile in shard.tiles) for shard in shards]
        chosen = [index for index, count in enumerate(counts) if count]

        def process(index: int) -> tuple[int, int, Any]:
            found = (sample for sample in self._samples(index) if sample.tile_id in wanted)
            results = [work(sample.stored, sample.truth, ignore_index) for sample in found]
            return index, len(results), reduce(results)

        by_shard = {}
        with Progress(label, sum(counts), "tiles") as progress:
            for index, done, result in storage.parallel(process, chosen, workers=self.num_threads):
                by_shard[index] = result
                progress.advance(done)
        return [by_shard[index] for index in chosen]  # floating-point sums must not depend on which shard was first

    def _samples(self, index: int) -> Iterator[_Sample]:
        path = self.folder / f"{index}.raw"
        wanted = [tile for tile in self.members[0].reader.index(self.split)[index].tiles if tile.id in self.wanted]
        if path.exists():
            yield from self._load(path, wanted)
            return
        samples = []
        with open_shards(self.members, self.split, index) as readers:
            truths = self.dataset.read_labels(self.split, [self.tiles.find(tile.id) for tile in wanted])
            positions = {tile.id: position for position, tile in enumerate(readers[0].shard.tiles)}
            for tile in wanted:
                every, position = _every(tile), positions[tile.id]
                stored = [np.ascontiguousarray(one.read(position)[:, ::every, ::every]) for one in readers]
                sample = _Sample(tile.id, stored, np.ascontiguousarray(truths[tile.id][::every, ::every]))
                samples.append(sample)
                yield sample
        if self._has_room(sum(array.nbytes for sample in samples for array in (*sample.stored, sample.truth))):
            _save(path, samples)

    @functools.cached_property
    def _limit_bytes(self) -> int:
        return int(_ROOM_SHARE * storage.scratch_room(self.folder))

    def _has_room(self, size_bytes: int) -> bool:
        with self._lock:
            if self._kept_bytes + size_bytes > self._limit_bytes:
                return False
            self._kept_bytes += size_bytes
            return True

    def _load(self, path: Path, tiles: Sequence[StoredTile]) -> Iterator[_Sample]:
        """What :func:`_save` wrote: the arrays of one tile after the other, whose shapes follow from the tiles."""
        with path.open("rb") as file:
            for tile in tiles:
                every = _every(tile)
                shape = -(-tile.height // every), -(-tile.width // every)
                whole = (len(self.dataset.schema.classes), *shape)
                stored = [np.fromfile(file, dtype.stored, math.prod(whole)).reshape(whole) for dtype in self.dtypes]
                yield _Sample(tile.id, stored, np.fromfile(file, np.uint8, math.prod(shape)).reshape(shape))


def _every(tile: StoredTile) -> int:
    """The distance between sampled pixels."""
    return max(1, min(tile.height, tile.width) // _SAMPLES)


def _save(path: Path, samples: Sequence[_Sample]) -> None:
    with path.open("wb") as file:
        for sample in samples:
            for array in (*sample.stored, sample.truth):
                file.write(array.data)
