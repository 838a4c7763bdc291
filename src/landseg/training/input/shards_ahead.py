"""Fetching the shards that training is about to read, while it trains on others."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import Split
from landseg.contracts.errors import LandsegError
from landseg.dataset.reader import StagedDataset
from landseg.training.input.batches import BatchOrder
from landseg.training.input.shard_order import AHEAD

_log = logging.getLogger(__name__)


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
        order: which tiles make which batch; of a :class:`~landseg.training.input.shard_order.ShardOrder`.
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
        coming = then.shards[then.firsts >= last][:AHEAD].tolist()
        if len(coming) < AHEAD and (later + 1) * self._order.iters_per_epoch < self._stop:
            coming += self._stretches(later + 1).shards[: AHEAD - len(coming)].tolist()
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
