"""An object in storage as a file that is read by range, for what there is no room to fetch whole."""

from __future__ import annotations

import io
from collections import OrderedDict

from landseg import storage

_BLOCK_BYTES = 8 << 20
"""What one request reads: the list of a tar's members is spread over all of it, that of a zip lies at its end."""
_BLOCKS_HELD = 2


class RangedFile(io.RawIOBase):
    """A seekable file over an object; not for several threads at once.

    Args:
        uri: the object.
        size_bytes: its size.
    """

    def __init__(self, uri: str, size_bytes: int) -> None:
        self._uri, self._size_bytes, self._place = uri, size_bytes, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; returns it.

        Raises:
            OSError: it is before the beginning.
        """
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size_bytes}[whence]
        if place < 0:
            raise OSError(f"position {place} is before the beginning")
        self._place = place
        return place

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes: `size`, or fewer at the end.

        Raises:
            StorageError: they cannot be read.
        """
        end = self._size_bytes if size < 0 else min(self._place + size, self._size_bytes)
        pieces = []
        while self._place < end:
            number, start = divmod(self._place, _BLOCK_BYTES)
            piece = self._block(number)[start : start + end - self._place]
            pieces.append(piece)
            self._place += len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * _BLOCK_BYTES
            length = min(_BLOCK_BYTES, self._size_bytes - start)
            self._blocks[number] = storage.get_bytes(self._uri, byte_range=(start, length))
            if len(self._blocks) > _BLOCKS_HELD:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]
