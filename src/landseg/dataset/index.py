"""A split's tile index on local disk, read a tile at a time: the rows of a million tiles would fill gigabytes."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from landseg.contracts.dataset import SplitInfo, Tile
from landseg.contracts.documents import validate
from landseg.contracts.errors import ConfigError, ContractError
from landseg.dataset.table import TileTable


class TileIndex:
    """The tiles of a split, sorted by id. Several threads may read at once.

    Takes 28 bytes of memory per tile, and its id.

    Attributes:
        table: ids, sizes and shards, which need no reading.

    Args:
        path: the index: JSON Lines, one :class:`Tile` each.
        where: its name in error lines.
        info: the split, as the manifest describes it.

    Raises:
        ContractError: the index does not fit the manifest.
    """

    def __init__(self, path: Path, where: str, info: SplitInfo) -> None:
        self._path, self._where = path, where
        self._next = 0
        self._starts = array("q", [0])
        self.table = TileTable()
        before = ""
        in_order = True
        with path.open("rb") as file:
            for line in file:
                tile = validate(Tile, line, where)
                in_order = in_order and before < tile.id
                before = tile.id
                size = info.shards[tile.shard].size_bytes if tile.shard < len(info.shards) else -1
                if any(offset + length > size for offset, length in tile.members):
                    raise ContractError(where, f"tile {tile.id} lies outside its shard")
                self._starts.append(self._starts[-1] + len(line))
                self.table.add(tile.id, tile.height, tile.width, tile.shard)
        if len(self) != info.num_tiles or not in_order:
            raise ContractError(
                where, f"expected {info.num_tiles} tiles sorted by id, found {len(self)} or another order"
            )

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[Tile]:
        with self._path.open("rb") as file:
            for line in file:
                yield validate(Tile, line, self._where)

    def find(self, tile_id: str) -> Tile:
        """The tile with an id.

        Raises:
            ConfigError: there is none.
        """
        # Tiles are mostly asked for in order. Another thread may change the guess, which only costs a search.
        position = self._next
        if position >= len(self) or self.table.id(position) != tile_id:
            position = bisect_left(range(len(self)), tile_id, key=self.table.id)
        if position >= len(self) or self.table.id(position) != tile_id:
            raise ConfigError(f"tile {tile_id}", f"is not in {self._where}")
        self._next = position + 1
        start, end = self._starts[position : position + 2]
        with self._path.open("rb") as file:
            file.seek(start)
            return validate(Tile, file.read(end - start), self._where)
