"""A split's tile index on local disk, read a tile at a time: the rows of a million tiles would fill gigabytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

from landseg.contracts.dataset import SplitInfo
from landseg.contracts.documents import validate
from landseg.contracts.errors import ConfigError, ContractError
from landseg.contracts.tile import Tile
from landseg.dataset.table import TileTable

_LEAST_ROW_BYTES = 64
"""Of an index, so that a manifest cannot promise more rows than its index may have."""


class TileIndex:
    """The tiles of a split, sorted by id. Several threads may read at once.

    Takes 24 bytes of memory per tile, and its id.

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
        expected = min(info.num_tiles, path.stat().st_size // _LEAST_ROW_BYTES)
        self._starts = array("q", [0]) * (expected + 1)
        self.table = TileTable(expected)
        start = 0
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
                self.table.add(tile.id, tile.height, tile.width, tile.shard)
                start += len(line)
                if len(self.table) == len(self._starts):
                    self._starts.append(0)
                self._starts[len(self.table)] = start
        if len(self) != info.num_tiles or not in_order:
            raise ContractError(
                where, f"expected {info.num_tiles} tiles sorted by id, found {len(self)} or another order"
            )

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Tile]:
        with self._path.open("rb") as file:
            for line in file:
                yield validate(Tile, line, self._where)

    def find(self, tile_id: str) -> Tile:
        """The tile with an id.

        Raises:
            ConfigError: there is none.
        """
        position = self.position(tile_id)
        if position is None:
            raise ConfigError(f"tile {tile_id}", f"is not in {self._where}")
        return self.row(position)

    def position(self, tile_id: str) -> int | None:
        """Where the tile with an id is among them; None where there is none."""
        # Tiles are mostly asked for in order. Another thread may change the guess, which only costs a search.
        position = self.table.position(tile_id, self._next)
        if position is not None:
            self._next = position + 1
        return position

    def row(self, position: int) -> Tile:
        """The tile at a position."""
        start, end = self._starts[position : position + 2]
        with self._path.open("rb") as file:
            file.seek(start)
            return validate(Tile, file.read(end - start), self._where)
