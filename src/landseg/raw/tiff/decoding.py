"""Decoding one image or label from its bytes.

Tiles are untrusted input: sizes are checked against limits before anything is allocated, every strip or TIFF tile must
lie inside the file, and only well-known compressions are decoded. Nothing is resized, cast or filled in silently.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import mmap
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from landseg.contracts.errors import DataError
from landseg.raw.georeference.tags import Georeference, read_georeference
from landseg.raw.sources.file_start import PNG_MAGIC, read_start
from landseg.raw.tiff.checks import (
    JPEG,
    MAX_DECODED_BYTES,
    PLANAR_SEPARATE,
    ImageInfo,
    check_page,
    check_pages,
    check_segments,
    check_size,
)

MAX_FILE_BYTES = 2 << 30
"""The largest source file of a tile."""
# Sizes are checked here, against the limits above, before Pillow is asked; its own limit would refuse large scenes.
Image.MAX_IMAGE_PIXELS = None
# What tifffile logs about a damaged file is reported here, in one line that names the file.
tifffile.logger().setLevel(logging.CRITICAL)
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_LZW = 5


def is_tiff(data: bytes | memoryview | mmap.mmap) -> bool:
    """Whether the bytes begin as a TIFF or BigTIFF does."""
    return bytes(data[:4]) in TIFF_MAGIC


def decode_image(data: bytes | memoryview, where: object) -> NDArray[Any]:
    """Decode a TIFF.

    Args:
        data: the file's bytes.
        where: the file or tile, for the error line.

    Returns:
        (H, W, B) uint8 or uint16, all bands in the file's order.

    Raises:
        DataError: not a TIFF, damaged, too large, or of a kind that is not supported.
    """
    with opened_tiff(data, where) as page:
        return np.ascontiguousarray(_decode(page, data, where, MAX_DECODED_BYTES))


def decode_page(
    page: tifffile.TiffPage, data: bytes | memoryview, where: object, *, limit: int, spool: Path | None = None
) -> NDArray[Any]:
    """Decode the page of an opened TIFF that is plain; into an .npy file, which the values then map, if there is one.

    Raises:
        DataError: as :func:`decode_image`, or decoded it would exceed `limit` bytes.
    """
    with _damage_is_reported(where):
        values = _decode(page, data, where, limit, spool)
        return np.ascontiguousarray(values) if spool is None else values


class _View(io.RawIOBase):
    """A file over bytes in place, such as those of a mapped shard; `io.BytesIO` would copy all of them."""

    def __init__(self, data: bytes | memoryview | mmap.mmap) -> None:
        self._data, self._position = memoryview(data), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = (0, self._position, len(self._data))[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        end = None if size is None or size < 0 else self._position + size
        content = bytes(self._data[self._position : end])
        self._position += len(content)
        return content

    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer).cast("B")
        content = self._data[self._position : self._position + len(target)]
        target[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        # tifffile's objects refer to each other, and to this one, until garbage is collected. A shard whose bytes are
        # referred to stays mapped, and on disk even if the cache has removed it.
        self._data = memoryview(b"")
        super().close()


@contextlib.contextmanager
def opened_tiff(data: bytes | memoryview | mmap.mmap, where: object) -> Iterator[tifffile.TiffPage]:
    """The page that holds the image.

    Raises:
        DataError: not a TIFF, damaged, or with several images.
    """
    if not is_tiff(data):
        found, action = read_start(data)
        raise DataError(where, f"expected a TIFF, found {found}", action or "write the image as GeoTIFF or TIFF")
    with (
        _damage_is_reported(where),
        warnings.catch_warnings(),
        contextlib.closing(_View(data)) as view,
        tifffile.TiffFile(cast(BinaryIO, view)) as tiff,
    ):
        warnings.simplefilter("ignore")
        page = tiff.pages.first
        check_pages(tiff, where)
        yield page


@contextlib.contextmanager
def _damage_is_reported(where: object) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as err:  # whatever error a third-party decoder raises on damaged bytes, the file is at fault
        raise damaged("TIFF", where, err) from err


def _decode(
    page: tifffile.TiffPage,
    data: bytes | memoryview,
    where: object,
    limit: int,
    spool: Path | None = None,
    *,
    is_label: bool = False,
) -> NDArray[Any]:
    info = check_page(page, where, is_label=is_label)
    check_size(info.height * info.width * info.num_bands * np.dtype(info.dtype).itemsize, where, limit)
    check_segments(page, data, where)
    # tifffile's normalised shape: (separate bands, depth 1, height, width, interleaved bands)
    separate, _, height, width, interleaved = page.shaped
    shape = (separate, 1, height, width, interleaved)
    out: NDArray[Any]
    if spool is not None:
        out = np.lib.format.open_memmap(spool, mode="w+", dtype=info.dtype, shape=shape)
    else:
        out = np.empty(shape, info.dtype)
    if page.compression == JPEG and page.planarconfig == PLANAR_SEPARATE:
        _decode_planar_jpeg(page, info, data, out)
    elif page.compression == _LZW and separate == 1 and spool is None:
        # libtiff takes half the time of tifffile for LZW, and a little more for everything else.
        out = imagecodecs.tiff_decode(cast(bytes, data)).reshape(shape)  # any buffer is read
    else:
        page.asarray(out=out, squeeze=False, maxworkers=1)
    return out[:, 0].transpose(1, 2, 0, 3).reshape(height, width, separate * interleaved)


def decode_label(data: bytes | memoryview, where: object, *, limit: int = MAX_DECODED_BYTES) -> NDArray[Any]:
    """Decode a label: an 8-bit grey or palette PNG (indexes, not colours) or a single-band TIFF.

    Returns:
        (H, W) uint8 (or uint16 from a TIFF), the stored values.

    Raises:
        DataError: neither, damaged, larger than `limit`, or with colours in place of class values.
    """
    if is_tiff(data):
        with opened_tiff(data, where) as page:
            if page.samplesperpixel != 1:
                problem = f"expected a label with 1 band, found {page.samplesperpixel}"
                raise DataError(where, problem, "store one class value per pixel")
            return _decode(page, data, where, limit, is_label=True)[:, :, 0]
    if bytes(data[:8]) != PNG_MAGIC:
        found, action = read_start(data)
        raise DataError(where, f"expected a PNG or TIFF label, found {found}", action or "write it as PNG")
    return _decode_png(data, where, limit)


def label_georeference(data: bytes | memoryview, where: object) -> Georeference:
    """Where a label lies, as its own tags say.

    Raises:
        DataError: damaged.
    """
    if not is_tiff(data):
        return Georeference()
    with opened_tiff(data, where) as page:
        return read_georeference(page)


def _decode_png(data: bytes | memoryview, where: object, limit: int) -> NDArray[np.uint8]:
    height, width, depth, colour = png_header(data, where)
    # Pillow stretches 1-, 2- and 4-bit grey to 0-255, which would change class values; it leaves palette indexes alone.
    if not (colour == 3 or (colour == 0 and depth == 8)):
        kind = {0: "grey", 2: "RGB colour", 4: "grey with alpha", 6: "RGBA colour"}.get(colour, "unknown")
        raise DataError(
            where,
            f"expected an 8-bit single-channel PNG of class values, found {depth}-bit {kind}",
            "this looks like a colour mask: convert its colours to class values"
            if colour in (2, 6)
            else "store one class value per pixel, grey or palette",
        )
    check_size(height * width, where, limit)
    check_png_chunks(data, where)
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            warnings.simplefilter("ignore")
            array = np.asarray(image)
    except Exception as err:  # as above
        raise damaged("PNG", where, err) from err
    if array.shape != (height, width) or array.dtype != np.uint8:
        raise DataError(where, f"expected {height}x{width} 8-bit values, found {array.shape} {array.dtype}")
    return array


def png_header(data: bytes | memoryview, where: object) -> tuple[int, int, int, int]:
    """Height, width, bits per sample, and colour type of a PNG.

    Raises:
        DataError: there is no header.
    """
    header = bytes(data[:29])
    if len(header) < 29 or header[12:16] != b"IHDR":
        raise DataError(where, "the PNG is truncated or damaged", "copy or write the file again")
    width, height, depth, colour = struct.unpack(">IIBB", header[16:26])
    return height, width, depth, colour


def check_png_chunks(data: bytes | memoryview, where: object) -> None:
    """Compare the checksums of a PNG's chunks: Pillow does not check those of the pixels."""
    position = len(PNG_MAGIC)
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        kind = bytes(data[position + 4 : position + 8])
        if int.from_bytes(data[end : end + 4], "big") != zlib.crc32(data[position + 4 : end]):
            break
        if kind == b"IEND":
            return
        position = end + 4
    raise DataError(where, "the PNG is truncated or damaged", "copy or write the file again")


def _decode_planar_jpeg(page: tifffile.TiffPage, info: ImageInfo, data: bytes | memoryview, out: NDArray[Any]) -> None:
    """One grey JPEG per band and segment; tifffile 2026.3 mistakes them for RGB and fails."""
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, info.width)
    across, down = math.ceil(info.width / columns), math.ceil(info.height / rows)
    for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        band, y, x = index // (across * down), index // across % down * rows, index % across * columns
        height, width = min(rows, info.height - y), min(columns, info.width - x)
        segment = imagecodecs.jpeg_decode(bytes(data[offset : offset + count]), tables=page.jpegtables)
        out[band, 0, y : y + height, x : x + width, 0] = segment[:height, :width]


def damaged(kind: str, where: object, err: Exception) -> DataError:
    """The error for a file that a decoder failed on."""
    reason = f"{type(err).__name__}: {err}"
    return DataError(where, f"the {kind} is truncated or damaged: {reason[:120]}", "copy or write the file again")
