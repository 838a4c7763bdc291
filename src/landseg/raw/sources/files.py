"""The bytes of a tile's files, read from a source: image and label, and what else belongs to the image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from landseg.contracts.documents import sha256_hex
from landseg.raw.layout.suffixes import HEADER_SUFFIX


@dataclass(frozen=True)
class ImageFiles:
    """The bytes of an image.

    Attributes:
        data: of its file, or of its first band's; a map of it where it is large and on a local disk.
        bands: of the files of its other bands, where each band is a file of its own.
        paths: where the files that are mapped lie, in the order of `data` and `bands`; None of those that were read.
        path: of the file in the source, which references are relative to.
        referenced: of the files that it refers to, by path in the source.
        headers: of the headers of `data` and each of `bands`, where they are files of their own; empty bytes without.
        sidecars: of its header and the files that say where it lies, by path in the source; None of one that is too
            large to be read.
    """

    data: bytes | memoryview
    bands: tuple[bytes | memoryview, ...] = ()
    paths: tuple[Path | None, ...] = ()
    path: str = ""
    headers: tuple[bytes, ...] = ()
    referenced: Mapping[str, bytes] = field(default_factory=dict)
    sidecars: Mapping[str, bytes | None] = field(default_factory=dict)

    @property
    def header(self) -> bytes:
        """Of its header, where that is a file of its own, as of ENVI; empty without one."""
        return next((data or b"" for path, data in self.sidecars.items() if path.lower().endswith(HEADER_SUFFIX)), b"")

    @property
    def contents(self) -> list[bytes | Path]:
        """What GDAL opens for `data` and each of `bands`: bytes, or the path of a file that is mapped."""
        data = (self.data, *self.bands)
        paths = self.paths or (None,) * len(data)
        return [path or bytes(one) for one, path in zip(data, paths, strict=True)]

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
        for header in filter(None, self.headers):
            whole.update(b"hdr\0" + hashlib.sha256(header).digest())
        for path, data in sorted(self.referenced.items()):
            whole.update(path.encode(errors="surrogateescape") + b"\0" + hashlib.sha256(data).digest())
        _add_sidecars(whole, self.sidecars)
        return whole.hexdigest()


@dataclass(frozen=True)
class LabelFiles:
    """The bytes of a label.

    Attributes:
        data: of its file.
        header: of its header, where that is a file of its own; empty without one.
        sidecars: of the files that say where it lies, as in :class:`ImageFiles`.
    """

    data: bytes
    header: bytes = b""
    sidecars: Mapping[str, bytes | None] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of the file's bytes; with a header or sidecars, of their checksums and kinds."""
        if not self.header and not self.sidecars:
            return sha256_hex(self.data)
        whole = hashlib.sha256(hashlib.sha256(self.data).digest())
        if self.header:
            whole.update(b"hdr\0" + hashlib.sha256(self.header).digest())
        _add_sidecars(whole, self.sidecars)
        return whole.hexdigest()


def _add_sidecars(whole: hashlib._Hash, sidecars: Mapping[str, bytes | None]) -> None:
    for path, content in sorted(sidecars.items()):
        name = path.rpartition("/")[2].rpartition(".")[2]
        whole.update(name.lower().encode() + b"\0" + hashlib.sha256(content or b"").digest())
