"""The ids, sizes and shards of many tiles, held compactly: as objects, two million would take half a gigabyte."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.probabilities import StoredTile
from landseg.raw.compact_list import position_of


class TileTable:
    """Ids, sizes and shards by position, sorted by id. Takes 16 bytes of memory per tile, and the id itself.

    Args:
        num_tiles: how many there will be, where that is known: arrays that grow leave holes as large as themselves.
    """

    def __init__(self, num_tiles: int = 0) -> None:
        self._num_tiles = 0
        self._ids = bytearray()
        self._ends = array("I", [0]) * (num_tiles + 1)  # 4 GB of ids at most
        self._heights = array("I", [0]) * num_tiles
        self._widths = array("I", [0]) * num_tiles
        self._shards = array("I", [0]) * num_tiles

    def add(self, tile_id: str, height: int, width: int, shard: int) -> None:
        """Append a tile."""
        place = self._num_tiles
        if place == len(self._heights):
            for values in (self._ends, self._heights, self._widths, self._shards):
                values.append(0)
        self._ids += tile_id.encode(errors="surrogatepass")
        self._ends[place + 1] = len(self._ids)
        self._heights[place], self._widths[place], self._shards[place] = height, width, shard
        self._num_tiles += 1

    def __len__(self) -> int:
        return self._num_tiles

    def __getitem__(self, position: int) -> StoredTile:
        return StoredTile(self.id(position), self._heights[position], self._widths[position])

    def __iter__(self) -> Iterator[StoredTile]:
        return map(self.__getitem__, range(len(self)))

    @property
    def ids(self) -> Sequence[str]:
        """The ids, sorted; made when they are asked for."""
        return _Ids(self)

    def position(self, tile_id: str, guess: int = 0) -> int | None:
        """Where the tile with an id is; None where there is none.

        Args:
            tile_id: the id.
            guess: where it may be.
        """
        return position_of(self.ids, tile_id, guess, str)

    def id(self, position: int) -> str:
        """The id of a tile."""
        return self._ids[self._ends[position] : self._ends[position + 1]].decode(errors="surrogatepass")

    def shard(self, position: int) -> int:
        """The shard of the dataset that a tile lies in."""
        return self._shards[position]

    @property
    def shards(self) -> NDArray[np.uint32]:
        """The shards that tiles lie in, (T,)."""
        return np.frombuffer(self._shards, np.uint32, self._num_tiles)

    @property
    def sizes(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Heights and widths, (T,) each."""
        heights, widths = (np.frombuffer(sides, np.uint32, self._num_tiles) for sides in (self._heights, self._widths))
        return heights, widths


def one_of_each_size(heights: NDArray[np.uint32], widths: NDArray[np.uint32], most: int) -> list[int]:
    """The position of a tile of each distinct size, the largest first; of more than `most`, some spread over the areas.

    Args:
        heights: (T,), in pixels.
        widths: (T,), in pixels.
        most: how many sizes at most.
    """
    sides = heights.astype(np.int64), widths.astype(np.int64)
    _, first = np.unique(sides[0] << 32 | sides[1], return_index=True)
    first = first[np.argsort(-sides[0][first] * sides[1][first], kind="stable")]
    if len(first) > most:
        first = first[np.linspace(0, len(first) - 1, most).round().astype(int)]
    found: list[int] = first.tolist()
    return found


class _Ids(Sequence[str]):
    """The ids of a table."""

    def __init__(self, table: TileTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[str]: ...
    def __getitem__(self, position: int | slice) -> str | Sequence[str]:
        if isinstance(position, slice):
            return [self._table.id(one) for one in range(len(self))[position]]
        return self._table.id(range(len(self))[position])
