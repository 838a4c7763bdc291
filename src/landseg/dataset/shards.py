"""Shards: plain, deterministic tar files of unchanged source bytes, read by offset.

Names follow WebDataset: the members of a tile share their stem. Boundaries depend only on the ids and sizes of
the tiles around them, so tiles that are added or removed change the shard they fall into and leave the others alone.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from landseg.contracts.documents import sha256_hex

DEFAULT_SHARD_BYTES = 160_000_000
"""Target size. Shards lie between 5/8 and 25/16 of it (100-250 MB), except the last of a split."""
_BLOCK = tarfile.BLOCKSIZE


@dataclass
class Boundaries:
    """Content-defined shard boundaries.

    From the smallest size on, a shard ends before the next tile with a probability that grows with the tile's size, by
    a hash of its id: the same tile makes a boundary whatever tiles are far away.
    """

    shard_bytes: int
    _filled: int = 0

    def starts_shard(self, tile_id: str, num_bytes: int) -> bool:
        """Whether this tile begins a new shard; call it once per tile, in order."""
        smallest, largest = self.shard_bytes * 5 // 8, self.shard_bytes * 25 // 16
        draw = int(sha256_hex(tile_id.encode())[:13], 16) / 16**13
        cut = self._filled + num_bytes > largest or (
            self._filled >= smallest and draw < 4 * num_bytes / self.shard_bytes
        )
        cut = cut and self._filled > 0
        self._filled = num_bytes if cut else self._filled + num_bytes
        return cut


@dataclass
class ShardWriter:
    """Writes one tar file: fixed times, owners and modes, so that the same tiles make the same bytes."""

    path: Path
    num_tiles: int = 0
    size_bytes: int = 0
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    _file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, name: str, content: bytes) -> tuple[int, int]:
        """Append a member.

        Returns:
            (byte offset, length) of its content.
        """
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(content), 0o644, 0
        # PAX where a name is long or not ASCII, plain ustar otherwise
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        offset = self.size_bytes
        self._write(content)
        self._write(b"\0" * (-len(content) % _BLOCK))
        return offset, len(content)

    def finish(self) -> str:
        """End the archive; returns its SHA-256."""
        self._write(b"\0" * (2 * _BLOCK))
        self._write(b"\0" * (-self.size_bytes % tarfile.RECORDSIZE))
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "the writer is a context manager"
        self._file.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)


class MemberNames(NamedTuple):
    """The names of a tile's members."""

    image: str
    label: str
    valid: str


def member_names(tile_id: str, label: bytes | None) -> MemberNames:
    """Names of a tile's members; that of the label follows from its bytes.

    WebDataset takes what precedes the first dot as the tile's key, so dots in an id are written as in a URL: `%2E`.
    """
    key = tile_id.replace("%", "%25").replace(".", "%2E")
    is_tiff = label is not None and not label.startswith(b"\x89PNG")
    return MemberNames(f"{key}.tif", f"{key}.label.tif" if is_tiff else f"{key}.png", f"{key}.valid.png")
