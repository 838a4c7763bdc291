"""What a split takes over of an earlier dataset: whole shards, and the rows of their tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from landseg.contracts.dataset import Shard
from landseg.contracts.tile import Tile
from landseg.dataset.index import TileIndex
from landseg.dataset.staging.checksums import Checksums


class KeptSplit:
    """What a split takes over. The rows of its tiles stay on local disk: one byte of memory for each.

    Args:
        shards: whole shards.
        index: the rows of the earlier dataset; None where nothing is taken over.
        positions: of the earlier dataset's shards among those taken over.
        adopted: for each row, whether its tile goes into the new index unchecked.
        move: gives a row the numbers that its shard and its coordinate reference system have in the new dataset.
        scenes: the ids of the scenes whose tiles are adopted.

    Attributes:
        shards: whole shards.
    """

    def __init__(
        self,
        shards: Sequence[Shard] = (),
        index: TileIndex | None = None,
        positions: Mapping[int, int] | None = None,
        adopted: bytearray | None = None,
        move: Callable[[Tile, int], Tile] | None = None,
        scenes: frozenset[str] = frozenset(),
    ) -> None:
        self.shards = shards
        self._index, self._positions, self._move = index, positions or {}, move
        self._adopted = adopted if adopted and any(adopted) else bytearray()
        self._scenes = scenes

    def get(self, tile_id: str) -> Tile | None:
        """The row of a tile in these shards, as it is in the new dataset."""
        if self._index is None or (position := self._index.position(tile_id)) is None:
            return None
        if self._index.table.shard(position) not in self._positions:
            return None
        return self._moved(self._index.row(position))

    def find(self, tile_id: str, checksums: Checksums, valid_sha256: str | None) -> Tile | None:
        """The row of a tile that was staged with these bytes of image and label, and of the mask of its data."""
        tile = self.get(tile_id)
        if tile is None or (tile.image_sha256, tile.label_sha256) != checksums:
            return None
        return tile if (tile.validity and tile.validity.sha256) == valid_sha256 else None

    def find_source(self, tile_id: str, checksums: Checksums) -> Tile | None:
        """The row of a tile that was staged from files with these bytes."""
        tile = self.get(tile_id)
        return tile if tile is not None and source_checksums(tile) == checksums else None

    def is_adopted(self, tile_id: str) -> bool:
        """Whether a tile, or all that was cut from a scene, goes into the new index unchecked."""
        if tile_id in self._scenes:
            return True
        if self._index is None or not self._adopted:
            return False
        position = self._index.position(tile_id)
        return position is not None and bool(self._adopted[position])

    def adopted(self) -> Iterator[Tile]:
        """The rows of the tiles that go into the new index unchecked, in order."""
        if self._index is not None and self._adopted:
            for tile, is_adopted in zip(self._index, self._adopted, strict=True):
                if is_adopted:
                    yield self._moved(tile)

    def _moved(self, tile: Tile) -> Tile:
        assert self._move is not None, "there is an earlier dataset"
        return self._move(tile, self._positions[tile.shard])


def source_checksums(tile: Tile) -> Checksums:
    """Checksums of the files that a tile's image and label were staged from."""
    return tile.source_image_sha256 or tile.image_sha256, tile.source_label_sha256 or tile.label_sha256
