"""What a file seems to be by its first bytes, and what to do where it is not the file that its name promises.

The bytes are not shown: a file that is no image may be anybody's.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

from landseg.contracts.errors import DataError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_KINDS = {
    PNG_MAGIC: "a PNG",
    b"\xff\xd8\xff": "a JPEG",
    b"GIF8": "a GIF",
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"II+\0": "a TIFF",
    b"MM\0+": "a TIFF",
    b"BM": "a BMP",
    b"EHFA_HEADER_TAG": "an Erdas image",
    b"\x89HDF": "an HDF5 file",
    b"CDF": "a NetCDF file",
    b"\x93NUMPY": "a numpy array",
    b"%PDF": "a PDF",
}
_PACKED = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")
_AGAIN = "copy or download it again"


class Start(NamedTuple):
    """What a file seems to be, and what to do about it: "" for a file that is whole but of another kind."""

    found: str
    action: str


def read_start(data: bytes | memoryview | mmap.mmap) -> Start:
    """Look at the first bytes of a file."""
    start = bytes(data[:1024])
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        return Start("an empty file", _AGAIN)
    if not start.strip(b"\0"):
        return Start("a file that begins with zeros, as one that was not copied whole", _AGAIN)
    if text.startswith(b"version https://git-lfs"):
        return Start("a Git LFS pointer in place of the file", "run git lfs pull in the clone it comes from")
    if text.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/")):
        return Start("a git-annex pointer in place of the file", "run git annex get in the clone it comes from")
    if text.startswith(_HTML) or (text.startswith(b"<?xml") and b"<html" in text):
        return Start(
            "an HTML page, as a download that failed leaves it", "download it again, signed in where it is asked"
        )
    if text.startswith((b"<error>", b"<?xml")) and b"<error>" in text and b"<code>" in text:
        return Start("an error message of object storage in place of the file", "download it again")
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return Start("a WebP", "")
    if start[257:262] == b"ustar":
        return Start("a tar archive", "unpack it")
    for kinds, action in ((_PACKED, "unpack it"), (_KINDS, "")):
        for magic, name in kinds.items():
            if start.startswith(magic):
                return Start(name, action)
    return Start("a file of another kind", "")


def wrong_content(data: bytes | memoryview, where: object, expected: str) -> DataError | None:
    """The error of a file that is not what was sent at all: empty, a pointer, a web page; None for any other."""
    found, action = read_start(data)
    return DataError(where, f"expected {expected}, found {found}", action) if action else None
