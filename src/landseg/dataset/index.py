"""A split's tile index on local disk, read a tile at a time: the rows of a million tiles would fill gigabytes."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from landseg.contracts.dataset import SplitInfo, Tile
from landseg.contracts.documents import validate
from landseg.contracts.errors import ConfigError, ContractError


class TileIndex:
    """The tiles of a split, sorted by id. Takes eight bytes of memory per tile; several threads may read at once.

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
        before = ""
        in_order = True
        with path.open("rb") as file:
            for line in file:
                tile = validate(Tile, line, where)
                in_order = in_order and before < tile.id
                before = tile.id
                size = info.shards[tile.shard].size_bytes if tile.shard < len(info.shards) else -1
                if any(offset + length > size for offset, length in (tile.image, tile.label or tile.image)):
                    raise ContractError(where, f"tile {tile.id} lies outside its shard")
                self._starts.append(self._starts[-1] + len(line))
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
        with self._path.open("rb") as file:

            def read(position: int) -> Tile:
                start, end = self._starts[position : position + 2]
                file.seek(start)
                return validate(Tile, file.read(end - start), self._where)

            # Tiles are mostly asked for in order. Another thread may change the guess, which only costs a search.
            guess = self._next
            tile = read(guess) if guess < len(self) else None
            if tile is None or tile.id != tile_id:
                guess = bisect_left(range(len(self)), tile_id, key=lambda i: read(i).id)
                tile = read(guess) if guess < len(self) else None
        if tile is None or tile.id != tile_id:
            raise ConfigError(f"tile {tile_id}", f"is not in {self._where}")
        self._next = guess + 1
        return tile
