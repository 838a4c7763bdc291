"""Values of tiles in one file on local disk, written and read by all processes that train.

The file begins with a byte per tile, which says whether the tile's values are there. They lie where the sizes of the
tiles before put them, so nothing else has to be noted. What is not written takes no disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 4096
_RESERVE_SHARE = 8
"""One part in so many of the volume's room is left for what else is written there: checkpoints, say."""

_log = logging.getLogger(__name__)


class KeptValues:
    """Values of tiles by number: of the first ones, as many as a limit allows. One thread of each process may use it.

    Takes 8 bytes of memory for each of these tiles. A process that is forked shares it; others open it by its path.
    Values are there as they were written or not at all, whenever a process is killed. Where the volume has no more
    room, all processes stop keeping values, and the room that these took is free again.

    Attributes:
        num_tiles: tiles whose values are kept.
        size_bytes: what these take at most.

    Args:
        path: the file, made where it is missing; it may be removed once all processes have opened it.
        sizes: (T,) bytes of each tile's values, the same in all processes.
        limit_bytes: what values may take; they take less where the volume has less room.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, sizes: NDArray[np.int64], limit_bytes: int) -> None:
        first = -(-len(sizes) // _ALIGNMENT) * _ALIGNMENT
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(self._file, 0, first)
            free = self._free_bytes()
        except OSError:
            self.close()
            raise
        self._reserve_bytes = free // _RESERVE_SHARE
        ends = np.cumsum(sizes, dtype=np.int64)
        self.num_tiles = int(np.searchsorted(ends, min(limit_bytes, free - self._reserve_bytes), "right"))
        self._places = np.concatenate([[0], ends[: self.num_tiles]]) + first
        self.size_bytes = int(self._places[-1]) - first

    def read(self, number: int) -> NDArray[np.uint8] | None:
        """A tile's values, (bytes,), in new memory; None where they are not kept, or not yet.

        They are copied rather than mapped, which takes no longer: the file may lose its end meanwhile, and a disk may
        fail, which ends a process that has mapped it.
        """
        if number >= self.num_tiles:
            return None
        try:
            if os.pread(self._file, 1, number) != b"\1":
                return None
            start, end = self._places[number : number + 2]
            values = np.empty(end - start, np.uint8)
            return values if os.preadv(self._file, [values.data], start) == len(values) else None
        except OSError as err:
            self._give_up(err)
            return None

    def write(self, number: int, parts: list[NDArray[np.uint8]]) -> None:
        """Keep a tile's values, unless there is no room.

        Args:
            number: the tile's.
            parts: contiguous arrays, together of the tile's size. Processes that write the same tile write the same.
        """
        if number >= self.num_tiles:
            return
        try:
            with self._locked(fcntl.LOCK_SH):
                if self._is_empty():  # another process has given up
                    return
                if self._free_bytes() < self._reserve_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._write_at(int(self._places[number]), parts)
                os.pwrite(self._file, b"\1", number)
        except OSError as err:
            self._give_up(err)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write_at(self, place: int, parts: list[NDArray[np.uint8]]) -> None:
        for part in parts:
            left = part.reshape(-1).data
            while left:
                written = os.pwrite(self._file, left, place)
                left, place = left[written:], place + written

    def _give_up(self, reason: OSError) -> None:
        """Empty the file, by which all processes know; nobody is writing meanwhile, and nobody will."""
        self.num_tiles = 0
        with contextlib.suppress(OSError), self._locked(fcntl.LOCK_EX):
            if self._is_empty():
                return
            os.ftruncate(self._file, 0)
            text = "decoded tiles are no longer kept on local disk, what they took there is free again: %s"
            _log.warning(text, (reason.strerror or str(reason)).lower())

    def _is_empty(self) -> bool:
        return os.fstat(self._file).st_size == 0

    def _free_bytes(self) -> int:
        volume = os.fstatvfs(self._file)
        return volume.f_bavail * volume.f_frsize

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Hold the file's lock among processes; it goes with a process that is killed."""
        fcntl.lockf(self._file, kind)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
