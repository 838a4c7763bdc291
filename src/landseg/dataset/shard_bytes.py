"""How bytes of a shard are reached: from a file in place, and which of them one request fetches together."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator

from landseg.contracts.documents import Blob
from landseg.contracts.errors import StorageError
from landseg.contracts.tile import Tile

_GAP_BYTES = 128 << 10
"""Up to here, reading what lies between two labels takes less time than another request."""
_RANGE_BYTES = 16 << 20
"""The most that is read at once."""


@contextlib.contextmanager
def open_shard(uri: str, shard: Blob) -> Iterator[int]:
    """A file descriptor of a shard in a storage folder. Its size is checked here, its bytes by `landseg verify`.

    Raises:
        StorageError: it cannot be read, or is not of the size that the manifest says.
    """
    try:
        descriptor = os.open(uri, os.O_RDONLY)
    except OSError as err:
        raise StorageError(uri, f"the shard cannot be read: {os.strerror(err.errno or 0)}") from err
    try:
        found = os.fstat(descriptor).st_size
        if found != shard.size_bytes:
            raise StorageError(uri, f"expected {shard.size_bytes} bytes, found {found}", "the shard is damaged")
        yield descriptor
    finally:
        os.close(descriptor)


def mapped(descriptor: int, span: tuple[int, int]) -> memoryview:
    """Bytes of an open shard, mapped only while they are in use.

    Mappings of whole shards would fill memory with pages used once.

    Args:
        descriptor: the shard; it may be closed afterwards.
        span: (byte offset, length); the length is not 0.
    """
    offset, length = span
    before = offset % mmap.ALLOCATIONGRANULARITY
    pages = mmap.mmap(descriptor, before + length, access=mmap.ACCESS_READ, offset=offset - before)
    return memoryview(pages)[before:]


def neighbours(tiles: Iterable[Tile]) -> Iterator[list[Tile]]:
    """Tiles with labels, in groups whose labels lie near each other in one shard and are read in one request."""
    group: list[Tile] = []
    start = end = 0
    for tile in sorted(tiles, key=lambda tile: (tile.shard, tile.label)):
        assert tile.label is not None
        offset, length = tile.label
        near = group and tile.shard == group[0].shard and offset - end <= _GAP_BYTES
        if not near or offset + length - start > _RANGE_BYTES:
            if group:
                yield group
            group, start = [], offset
        group.append(tile)
        end = offset + length
    if group:
        yield group
