"""The MD5 of a part of a file: what endpoints check on the way up, and name in ETags."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_md5(path: Path, offset: int, length: int) -> bytes:
    """The MD5 of at most `length` bytes of a file from `offset` on."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as reader:
        reader.seek(offset)
        while length > 0 and (block := reader.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return digest.digest()
