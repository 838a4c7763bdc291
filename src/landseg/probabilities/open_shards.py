"""Single tiles of a split, read in about the order in which they are stored: each shard is fetched once."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from landseg.contracts.dataset import Split
from landseg.contracts.errors import DataError
from landseg.probabilities.codec import Stored
from landseg.probabilities.reader import ProbsReader, ShardReader

_HELD = 3
"""Shards that stay open although nobody reads them: neighbouring rows of a scene lie in neighbouring shards."""


@dataclass
class _Open:
    """A shard, and how many threads read it at the moment."""

    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    lock: threading.Lock = field(default_factory=threading.Lock)
    reader: ShardReader | None = None
    users: int = 0


class OpenShards:
    """The shards of a split that were read last. A context manager; several threads may read at once.

    Args:
        reader: the probabilities.
        split: the split.
        view: number of the view in `spec.views`; None for the mean over views.
    """

    def __init__(self, reader: ProbsReader, split: Split, view: int | None = None) -> None:
        self._reader, self._split, self._view = reader, split, view
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> OpenShards:
        return self

    def __exit__(self, *_: object) -> None:
        for shard in self._open.values():
            shard.stack.close()

    def read(self, tile_id: str) -> Stored:
        """A tile: as :meth:`ShardReader.read`, of a shard that was verified as a whole.

        Raises:
            DataError: the split has no such tile.
            DamagedObjectError: the shard is not what was written.
        """
        place = self._reader.index(self._split).place(tile_id)
        if place is None:
            model = self._reader.spec.model
            raise DataError(f"tile {tile_id}", f"is not in the probabilities of {model} for split {self._split}")
        number, position = place
        shard = self._taken(number)
        try:
            with shard.lock:
                if shard.reader is None:
                    opened = self._reader.shard(self._split, number, self._view)
                    shard.reader = shard.stack.enter_context(opened)
            return shard.reader.read(position)
        finally:
            with self._lock:
                shard.users -= 1

    def _taken(self, number: int) -> _Open:
        """A shard that is not closed before its `users` is counted down again."""
        with self._lock:
            shard = self._open.setdefault(number, _Open())
            shard.users += 1
            self._open.move_to_end(number)
            idle = [key for key, one in self._open.items() if not one.users]
            for key in idle[: max(0, len(idle) - _HELD)]:
                self._open.pop(key).stack.close()
        return shard
