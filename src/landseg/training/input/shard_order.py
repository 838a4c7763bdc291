"""The order of training tiles where not all shards of a dataset fit on the disk: shard by shard, and well mixed.

In a random order of all tiles, the next tile may lie in any shard. Here shards are shuffled, and each one's tiles are
spread over a stretch of the epoch in which only the tiles of some other shards appear: those few shards are on the
disk, and the next are fetched meanwhile. Each shard is fetched about once in an epoch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from landseg import storage
from landseg.contracts.documents import Model
from landseg.dataset.reader import StagedDataset
from landseg.storage.records import read_record, settle_record

Choice = Literal["auto", "tiles", "shards"]

_ORDER = "order.json"
_MOST_MIXED = 32
"""Shards whose tiles are mixed: of 160 MB each and tiles of 512 px, 6,000 tiles to draw from."""
AHEAD = 2
"""Shards that are fetched before they are needed."""
_SPARE = AHEAD + 3
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
