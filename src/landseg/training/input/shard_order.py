"""The order of training tiles where not all shards of a dataset fit on the disk: shard by shard, and well mixed.

In a random order of all tiles, the next tile may lie in any shard. Here shards are shuffled, and each one's tiles are
spread over a stretch of the epoch in which only the tiles of some other shards appear: those few shards are on the
disk, and the next are fetched meanwhile. Each shard is fetched about once in an epoch.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.documents import Model
from landseg.contracts.errors import LandsegError
from landseg.dataset.reader import StagedDataset
from landseg.storage.records import read_record, settle_record

if TYPE_CHECKING:
    from landseg.training.input.batches import BatchOrder

Choice = Literal["auto", "tiles", "shards"]

_ORDER = "order.json"
_MOST_MIXED = 32
"""Shards whose tiles are mixed: of 160 MB each and tiles of 512 px, 6,000 tiles to draw from."""
_AHEAD = 2
"""Shards that are fetched before they are needed."""
_SPARE = _AHEAD + 3
"""Shards in the cache besides the mixed ones: those ahead, those that end, and one that begins."""
_STREAM = 1
"""Of random numbers, so that the order of shards does not depend on that of the tiles."""

_log = logging.getLogger(__name__)


class TileOrder(Model):
    """How a training's tiles are ordered: settled by its first attempt, whatever disk a later one has.

    Attributes:
        mixed_shards: how many shards tiles are drawn from at a time; 0: from all.
    """

    mixed_shards: Annotated[int, Field(ge=0, le=_MOST_MIXED)]


def settle_order(folder: str, dataset: StagedDataset, choice: Choice, continued: str | None = None) -> TileOrder:
    """The order of a training's tiles.

    Args:
        folder: URI of the stage's folder, where the order is noted.
        dataset: what is trained on.
        choice: `tiles`: from all shards; `shards`: from as many as the cache holds; `auto`: `tiles` where the whole
            dataset is local or fits into the cache, else `shards`.
        continued: URI of the folder of the training that this one continues, in the order of that one.
    """
    if continued is not None:
        earlier = read_record(TileOrder, storage.join(continued, _ORDER))
        return settle_record(storage.join(folder, _ORDER), earlier or TileOrder(mixed_shards=0))
    if choice == "auto" and not dataset.is_cached:
        return TileOrder(mixed_shards=0)
    wanted = TileOrder(mixed_shards=0 if choice == "tiles" else _mixed_shards(dataset, choice))
    settled = settle_record(storage.join(folder, _ORDER), wanted)
    if settled.mixed_shards:
        _log.info("tiles are drawn from %d shards at a time", settled.mixed_shards)
    return settled


def _mixed_shards(dataset: StagedDataset, choice: Choice) -> int:
    sizes = [shard.size_bytes for info in dataset.manifest.splits.values() for shard in info.shards]
    if not dataset.is_cached:
        return _MOST_MIXED
    if choice == "auto" and sum(sizes) <= dataset.cache_limit:
        return 0
    fitting = dataset.cache_limit // max(sizes) - _SPARE
    if choice == "shards":
        fitting = max(fitting, 1)
    return max(0, min(_MOST_MIXED, fitting))  # too few to mix: tiles are read one by one, in the order of all


@dataclass(frozen=True)
class ShardOrder:
    """Which tiles come before which.

    Attributes:
        shards: (T,) the shard of each tile, numbered over all splits.
        mixed: how many shards tiles are drawn from at a time.
    """

    shards: NDArray[np.int64]
    mixed: int

    def arrange(self, order: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
        """Where in an epoch's random order each tile of the new order stands.

        A shard has its place among the shuffled ones, and each of its tiles a place within `mixed / 2` of it. Beyond
        the ends of the epoch places are mirrored, so that its first and last tiles are mixed too.

        Args:
            order: (T,) tiles in random order, perhaps some several times.
            seed: of the order.
            epoch: its number.
        """
        rng = np.random.default_rng([seed, epoch, _STREAM])
        num_shards = int(self.shards.max()) + 1
        ranks = rng.permutation(num_shards)
        places = ranks[self.shards[order]] + 0.5 + self.mixed * (rng.random(len(order)) - 0.5)
        places = np.abs(places)
        places = np.where(places > num_shards, 2 * num_shards - places, places)
        return np.argsort(places, kind="stable")


@dataclass(frozen=True)
class _Stretches:
    """An epoch's shards in the order of their first tiles, with the positions of their first and last."""

    shards: NDArray[np.int64]
    firsts: NDArray[np.int64]
    lasts: NDArray[np.int64]

    @classmethod
    def of(cls, shards: NDArray[np.int64]) -> _Stretches:
        """From the (T,) shards of an epoch's tiles in order."""
        numbers, firsts = np.unique(shards, return_index=True)
        _, from_end = np.unique(shards[::-1], return_index=True)
        order = np.argsort(firsts)
        return cls(numbers[order], firsts[order], (len(shards) - 1 - from_end)[order])


class ShardsAhead:
    """Fetches the shards that loader processes are going to read, in a thread of its own.

    Whoever reads a tile fetches its shard where it is missing, so this only saves time: an error here is left for the
    reader to meet.

    Args:
        dataset: what is trained on.
        order: which tiles make which batch; of a :class:`ShardOrder`.
        shards: split and number of each shard, as the order numbers them.
        lead: iterations that loader processes are ahead of training.
        stop: the iteration at which training ends.
    """

    def __init__(
        self, dataset: StagedDataset, order: BatchOrder, shards: Sequence[tuple[Split, int]], lead: int, stop: int
    ) -> None:
        self._dataset, self._order, self._shards, self._lead, self._stop = dataset, order, shards, lead, stop
        self._stretches = functools.lru_cache(2)(self._stretches_of)
        self._changed = threading.Condition()
        self._iteration, self._closed = -1, False
        self._thread = threading.Thread(target=self._run, name="shards ahead", daemon=True)
        self._thread.start()

    def reach(self, iteration: int) -> None:
        """Training has reached an iteration."""
        with self._changed:
            self._iteration = iteration
            self._changed.notify()

    def close(self) -> None:
        """Fetch nothing more; a shard that is on its way may still arrive."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def needed(self, iteration: int) -> list[tuple[Split, int]]:
        """The shards that hold tiles of an iteration, those that are read for training meanwhile, and the next ones."""
        reading = min(iteration + self._lead, self._stop - 1)
        (epoch, first), (later, last) = self._place(iteration), self._place(reading)
        last += self._order.global_batch_size
        now, then = self._stretches(epoch), self._stretches(later)
        if epoch == later:
            active = now.shards[(now.lasts >= first) & (now.firsts < last)].tolist()
        else:
            active = [*now.shards[now.lasts >= first].tolist(), *then.shards[then.firsts < last].tolist()]
        coming = then.shards[then.firsts >= last][:_AHEAD].tolist()
        if len(coming) < _AHEAD and (later + 1) * self._order.iters_per_epoch < self._stop:
            coming += self._stretches(later + 1).shards[: _AHEAD - len(coming)].tolist()
        return [self._shards[shard] for shard in dict.fromkeys([*active, *coming])]

    def _place(self, iteration: int) -> tuple[int, int]:
        """An iteration's epoch, and its first position there."""
        epoch, number = divmod(iteration, self._order.iters_per_epoch)
        return epoch, number * self._order.global_batch_size

    def _stretches_of(self, epoch: int) -> _Stretches:
        return _Stretches.of(self._order.shards_in_order(epoch))

    def _run(self) -> None:
        reached = -1
        while True:
            with self._changed:
                while not self._closed and self._iteration == reached:
                    self._changed.wait()
                if self._closed:
                    return
                reached = self._iteration
            try:
                for split, number in self.needed(reached):
                    if self._closed:
                        return
                    self._dataset.shard_path(split, number)  # marks those that are there as used
            except LandsegError as err:
                _log.debug("fetching ahead: %s", err)
