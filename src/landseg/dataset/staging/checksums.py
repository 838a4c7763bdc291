"""Checksums of a source's files, on local disk: those of two million tiles would take a gigabyte of memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from landseg.raw.compact_list import position_of
from landseg.raw.layout.source_tiles import SourceTile

Checksums = tuple[str, str | None]
"""SHA-256 of the files of a tile's image and label. "" for a tile that cannot be read, None for one without label."""

_ROW_BYTES = 65
_HAS_IMAGE, _HAS_LABEL, _CANNOT_BE_READ, _AS_LISTED = 1, 2, 4, 8


class SplitChecksums(Mapping[str, Checksums]):
    """The checksums of a split's tiles, by id. Several threads may use it at once.

    Args:
        tiles: the tiles, sorted by id.
        scratch: local folder.
    """

    def __init__(self, tiles: Sequence[SourceTile], scratch: Path) -> None:
        self._tiles = tiles
        self._num_known = 0
        self._next = 0
        scratch.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 (lives as long as this object)
        self._file.truncate(_ROW_BYTES * len(tiles))

    def put(self, tile_id: str, checksums: Checksums, *, is_as_listed: bool = False) -> None:
        """Note the checksums of one of the tiles, once; and whether its files are those that were staged before."""
        image, label = checksums
        flags = (_HAS_IMAGE if image else _CANNOT_BE_READ) | (_HAS_LABEL if label else 0)
        flags |= _AS_LISTED if is_as_listed else 0
        row = bytes([flags]) + bytes.fromhex(image).ljust(32) + bytes.fromhex(label or "").ljust(32)
        position = self._position(tile_id)
        assert position is not None, "only of the source's tiles"
        os.pwrite(self._file.fileno(), row, _ROW_BYTES * position)
        self._num_known += 1

    def __getitem__(self, tile_id: str) -> Checksums:
        row = self._row(tile_id)
        if not row or not row[0]:
            raise KeyError(tile_id)
        return _checksums(row)

    def is_as_listed(self, tile_id: str) -> bool:
        """Whether a tile is known to have the very files that it was staged from before."""
        row = self._row(tile_id)
        return bool(row and row[0] & _AS_LISTED)

    def __len__(self) -> int:
        return self._num_known

    def __iter__(self) -> Iterator[str]:
        return (tile_id for tile_id, _ in self.in_order())

    def in_order(self) -> Iterator[tuple[str, Checksums]]:
        """The tiles whose checksums are known, sorted by id, and the checksums."""
        for position, tile in enumerate(self._tiles):
            row = os.pread(self._file.fileno(), _ROW_BYTES, _ROW_BYTES * position)
            if row[0]:
                yield tile.id, _checksums(row)

    def _row(self, tile_id: str) -> bytes | None:
        position = self._position(tile_id)
        return None if position is None else os.pread(self._file.fileno(), _ROW_BYTES, _ROW_BYTES * position)

    def _position(self, tile_id: str) -> int | None:
        """Where a tile is."""
        position = position_of(self._tiles, tile_id, self._next, _id)
        if position is not None:
            self._next = position + 1
        return position


def _id(tile: SourceTile) -> str:
    return tile.id


def _checksums(row: bytes) -> Checksums:
    if row[0] & _CANNOT_BE_READ:
        return "", None
    return row[1:33].hex(), row[33:65].hex() if row[0] & _HAS_LABEL else None
