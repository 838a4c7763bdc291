"""How much room a dataset takes on scratch volumes, told from its raw tiles before any of them is read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from landseg.dataset.staging.result import Options
from landseg.raw.layout.source_tiles import SourceTile
from landseg.storage import RoomNeeded

_LEAST_ROW_BYTES, _MOST_ROW_BYTES = 400, 1600
"""What a tile takes in staging: its rows in the index and in the list of files, now and of the dataset before."""
_LEAST_INDEX_ROW_BYTES, _MOST_INDEX_ROW_BYTES = 250, 1000
"""What a tile takes in the index."""
_SHARDS_IN_ALL = 4
"""That are written or wait for their upload at once, at most, in shards of the target size."""

Tiles = Mapping[str, Sequence[SourceTile]]


def staging_room(tiles: Tiles, options: Options, *, is_new: bool) -> RoomNeeded:
    """What staging a share keeps in its scratch folder: its rows, of a dataset that is new one shard.

    Args:
        tiles: all tiles, by split.
        options: how they are staged.
        is_new: whether there is no earlier dataset whose shards may be reused.
    """
    num_tiles, shards = _num_tiles(tiles), _first_bytes(tiles, _SHARDS_IN_ALL * options.shard_bytes)
    least = is_new * min(shards, options.shard_bytes) + _LEAST_ROW_BYTES * num_tiles // options.num_shares
    return RoomNeeded(least, shards + _MOST_ROW_BYTES * num_tiles, f"shards and the index of {num_tiles} tiles")


def reading_room(tiles: Tiles, shard_bytes: int) -> tuple[RoomNeeded, RoomNeeded]:
    """What reading the dataset will keep in a scratch folder: of its indexes, and of these with its largest shard.

    Scenes count as one tile each: how many are cut from them is known later.
    """
    num_tiles, shard = _num_tiles(tiles), _first_bytes(tiles, shard_bytes)
    what = f"the indexes of {num_tiles} tiles"
    least, most = _LEAST_INDEX_ROW_BYTES * num_tiles, _MOST_INDEX_ROW_BYTES * num_tiles
    return (
        RoomNeeded(least, most, what),
        RoomNeeded(least + shard, 2 * (most + shard), f"{what} and the largest shard"),
    )


def _num_tiles(tiles: Tiles) -> int:
    return sum(map(len, tiles.values()))


def _first_bytes(tiles: Tiles, most: int) -> int:
    """The size of the raw tiles, or `most` where they are larger."""
    found = 0
    for tile in itertools.chain.from_iterable(tiles.values()):
        found += tile.size_bytes
        if found >= most:
            return most
    return found
