"""Which of GDAL's drivers reads a file, by its first bytes or by the header next to it, and what that driver lets pass.

Drivers are listed here that read one file alone, or one and its header. Those that open what a file names (HDF5's
external links, say), that look for files on disk (NetCDF's asks HDF5 for one of this name), or that hand parts of a
file to any other driver (NITF's), are not.
"""

from __future__ import annotations

import io
import mmap
import re

from PIL import Image

from landseg.contracts.errors import DataError
from landseg.raw.commands import file_name, python_command, quoted
from landseg.raw.sources.file_start import PNG_MAGIC
from landseg.raw.tiff.decoding import opened_tiff

_DRIVERS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"EHFA_HEADER_TAG": "HFA",
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
}
_PATTERNS = {
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "PNM": re.compile(rb"P[56]\s+(#[^\n]*\n\s*)*(?P<width>\d+)\s+(?P<height>\d+)\s+(?P<most>\d+)\s"),
    "AAIGrid": re.compile(rb"\s*ncols\s+\d+\s+nrows\s+\d+\s", re.IGNORECASE),
    "VRT": re.compile(rb"\s*(<\?xml[^>]*>)?\s*(<!--.*?-->\s*)*<VRTDataset\b", re.DOTALL),
}
READ = "TIFF, PNG, JPEG, JPEG 2000, WebP, BMP, GIF, Erdas .img, ENVI and ESRI grids, PNM and VRT are read"
_EXTERNAL = re.compile(rb"ExternalRasterDMS\0")
"""The part of an Erdas file that names another file for its pixels."""
_SKIPPED = {
    "ENVI": re.compile(rb"^\s*header offset\s*=\s*(\d+)", re.IGNORECASE | re.MULTILINE),
    "EHdr": re.compile(rb"^\s*SKIPBYTES\s+(\d+)", re.IGNORECASE | re.MULTILINE),
}
_ENVI_IS_PACKED = re.compile(rb"^\s*file compression\s*=\s*1", re.IGNORECASE | re.MULTILINE)
_EHDR = re.compile(rb"^\s*(NROWS|NCOLS|BYTEORDER|LAYOUT)\s+\w", re.IGNORECASE | re.MULTILINE)
_EHDR_BITS = re.compile(rb"^\s*NBITS\s+(\d+)", re.IGNORECASE | re.MULTILINE)


def driver_of(data: bytes | memoryview) -> str | None:
    """GDAL's name of the format that the bytes begin as; None for one that is not read."""
    start = bytes(data[:4096])
    for magic, driver in _DRIVERS.items():
        if start.startswith(magic):
            return driver
    return next((driver for driver, pattern in _PATTERNS.items() if pattern.match(start)), None)


def driver_of_header(header: bytes) -> str | None:
    """GDAL's name of the format of an image whose header is a file of its own, from that; None for one not read."""
    if header.lstrip().startswith(b"ENVI"):
        return "ENVI"
    return "EHdr" if _EHDR.search(header) else None


def driver_with_header(data: bytes | memoryview, header: bytes) -> tuple[str | None, bytes]:
    """What reads a file that may have a header next to it (GDAL's name, None if nothing does), and that header's bytes.

    The header is empty where the file needs none: GDAL writes one next to some that hold all by themselves.
    """
    driver = driver_of(data)
    if header and driver != "HFA" and (said := driver_of_header(header)):
        return said, header
    return driver, b""


def check_one_image(data: bytes | memoryview | mmap.mmap, driver: str, where: object) -> None:
    """Refuse a file that is not one image: whose pixels are in another one, which it names, or that holds several.

    Of several, decoders would give the first one, and say nothing.

    Raises:
        DataError: it is not, or a TIFF is damaged.
    """
    if driver == "GTiff":
        with opened_tiff(data, where):  # looks at its pages
            return
    if (num_frames := _num_frames(data, driver)) > 1:
        name = file_name(where)
        stem, _, suffix = name.rpartition(".")
        # Pillow gives animations an alpha channel in WebP, also where all is opaque.
        frame = 'i.convert("RGB") if i.mode == "RGBA" and i.getextrema()[3][0] == 255 else i'
        code = f"import sys; from PIL import Image; i = Image.open(sys.argv[1]); ({frame}).save(sys.argv[2])"
        command = python_command(code, name, f"{stem}.{'tif' if suffix.lower() == 'png' else 'png'}")
        problem = f"expected one image, found an animation of {num_frames} frames"
        raise DataError(where, problem, f"write the first one, and move this one out: {command}")
    if driver == "HFA" and _EXTERNAL.search(data):
        name = file_name(where)
        problem = "expected an Erdas file with its pixels, found one whose pixels are in another file (.ige)"
        command = f"rio convert -f GTiff {quoted(name, name.rpartition('.')[0] + '.tif')}"
        hint = f"write one that has all: {command}, and move both out"
        raise DataError(where, problem, hint)


def _num_frames(data: bytes | memoryview | mmap.mmap, driver: str) -> int:
    """How many images follow each other in a file of a kind that may hold an animation; 1 of other files."""
    if driver == "PNG":
        is_animated = _has_animation_chunk(data)
    else:
        is_animated = driver == "GIF" or (driver == "WEBP" and bytes(data[12:16]) == b"VP8X" and bool(data[20] & 2))
    if not is_animated:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("GIF", "PNG", "WEBP")) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # damaged: decoding says so
        return 1


def _has_animation_chunk(data: bytes | memoryview | mmap.mmap) -> bool:
    """Whether a PNG is animated: then a chunk before its pixels says so."""
    position = len(PNG_MAGIC)
    while (kind := bytes(data[position + 4 : position + 8])) not in (b"", b"IDAT", b"acTL"):
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return kind == b"acTL"


def check_whole(
    start: bytes,
    size_bytes: int,
    driver: str,
    header: bytes,
    shape: tuple[int, int, int],
    item_bytes: int,
    where: object,
) -> None:
    """Refuse a file that is shorter than its pixels, of a format in which GDAL reads zeros in place of what is missing.

    Args:
        start: the file's first bytes.
        size_bytes: its size.
        driver: what reads it.
        header: the bytes of its header, where that is a file of its own.
        shape: height, width, bands.
        item_bytes: of one value.
        where: the file, for the error line.

    Raises:
        DataError: it is truncated.
    """
    height, width, bands = shape
    bits, skipped = 8 * item_bytes, 0
    if driver == "PNM":
        found = _PATTERNS["PNM"].match(start)
        skipped = found.end() if found else 0
    elif driver in _SKIPPED and not (driver == "ENVI" and _ENVI_IS_PACKED.search(header)):
        found = _SKIPPED[driver].search(header)
        skipped = int(found[1]) if found else 0
        if driver == "EHdr" and (said := _EHDR_BITS.search(header)):
            bits = min(bits, int(said[1]))
    else:
        return
    expected = skipped + height * width * bands * bits // 8
    if size_bytes < expected:
        problem = f"the file is truncated: expected {expected} bytes for {height}x{width} px, found {size_bytes}"
        raise DataError(where, problem, "copy or write the file again")
