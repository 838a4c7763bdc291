"""The ids, sizes and shards of many tiles, held compactly: as objects, two million would take half a gigabyte."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.probabilities import StoredTile


class TileTable:
    """Ids, sizes and shards by position, sorted by id. Takes 20 bytes of memory per tile, and the id itself."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._ends = array("q", [0])
        self._heights = array("I")
        self._widths = array("I")
        self._shards = array("I")

    def add(self, tile_id: str, height: int, width: int, shard: int) -> None:
        """Append a tile."""
        self._ids += tile_id.encode(errors="surrogatepass")
        self._ends.append(len(self._ids))
        self._heights.append(height)
        self._widths.append(width)
        self._shards.append(shard)

    def __len__(self) -> int:
        return len(self._heights)

    def __getitem__(self, position: int) -> StoredTile:
        return StoredTile(self.id(position), self._heights[position], self._widths[position])

    def __iter__(self) -> Iterator[StoredTile]:
        return map(self.__getitem__, range(len(self)))

    def id(self, position: int) -> str:
        """The id of a tile."""
        return self._ids[self._ends[position] : self._ends[position + 1]].decode(errors="surrogatepass")

    def shard(self, position: int) -> int:
        """The shard of the dataset that a tile lies in."""
        return self._shards[position]

    @property
    def sizes(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Heights and widths, (T,) each."""
        return np.frombuffer(self._heights, np.uint32), np.frombuffer(self._widths, np.uint32)
