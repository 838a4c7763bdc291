"""The bytes of a tile's files, read from a source: image and label, and what else belongs to the image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from landseg.contracts.documents import sha256_hex


@dataclass(frozen=True)
class ImageFiles:
    """The bytes of an image.

    Attributes:
        data: of its file, or of its first band's.
        bands: of the files of its other bands, where each band is a file of its own.
        path: of the file in the source, which references are relative to.
        referenced: of the files that it refers to, by path in the source.
        sidecars: of the files that say where it lies, by path in the source; None of one that is too large to be read.
    """

    data: bytes
    bands: tuple[bytes, ...] = ()
    path: str = ""
    referenced: Mapping[str, bytes] = field(default_factory=dict)
    sidecars: Mapping[str, bytes | None] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return len(self.data) + sum(map(len, self.bands)) + sum(map(len, self.referenced.values()))

    @property
    def sha256(self) -> str:
        """Of the file's bytes; where there are several files, of their checksums and paths."""
        if not self.bands and not self.referenced and not self.sidecars:
            return sha256_hex(self.data)
        whole = hashlib.sha256()
        for data in (self.data, *self.bands):
            whole.update(hashlib.sha256(data).digest())
        for path, data in sorted(self.referenced.items()):
            whole.update(path.encode(errors="surrogateescape") + b"\0" + hashlib.sha256(data).digest())
        for path, content in sorted(self.sidecars.items()):
            name = path.rpartition("/")[2].rpartition(".")[2]
            whole.update(name.lower().encode() + b"\0" + hashlib.sha256(content or b"").digest())
        return whole.hexdigest()
