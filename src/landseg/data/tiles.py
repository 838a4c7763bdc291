"""Decoding one image or label from its bytes.

Tiles are untrusted input: sizes are checked against limits before anything is allocated, every strip or TIFF tile must
lie inside the file, and only well-known compressions are decoded. Nothing is resized, cast or filled in silently.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from landseg.data.geotiff import Transform, read_geo_keys, read_transform
from landseg.data.manifest import GeoKeys
from landseg.data.schema import MAX_BANDS
from landseg.errors import DataError

MAX_FILE_BYTES = 2 << 30
"""No source file of a tile may be larger."""
MAX_DECODED_BYTES = 1 << 29
"""No tile may be larger decoded: 8192 x 8192 px with 4 bands of uint16."""
# Sizes are checked here, against the limits above, before Pillow is asked; its own limit would refuse large scenes.
Image.MAX_IMAGE_PIXELS = None
# What tifffile logs of a damaged file is said here, in one line that names the file.
tifffile.logger().setLevel(logging.CRITICAL)
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

_COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate",
    34925: "LZMA",
    50000: "ZSTD",
}
_LZW, _JPEG = 5, 7
_PLANAR_SEPARATE, _PREDICTORS = 2, (1, 2)
_INTEGER = 1
_SAMPLE_FORMATS = {1: "unsigned integer", 2: "signed integer", 3: "float", 5: "complex", 6: "complex"}


class ImageInfo(NamedTuple):
    """What a TIFF's header says of its image."""

    height: int
    width: int
    num_bands: int
    dtype: str


class DecodedTiff(NamedTuple):
    """An image and where it lies.

    Attributes:
        values: (H, W, B) uint8 or uint16, all bands in the file's order.
        transform: see :class:`landseg.data.manifest.Geo`; None where the file has none.
        crs: the coordinate reference system; None where the file names none.
    """

    values: NDArray[Any]
    transform: Transform | None
    crs: GeoKeys | None


def is_tiff(data: bytes | memoryview) -> bool:
    """Whether the bytes begin as a TIFF or BigTIFF does."""
    return bytes(data[:4]) in TIFF_MAGIC


def image_info(data: bytes, where: object) -> ImageInfo:
    """Size, bands and type of a TIFF, from its header.

    Raises:
        DataError: not a TIFF, damaged, or of a kind that is not supported.
    """
    with _opened(data, where) as page:
        return _check_page(page, where)


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
    with _opened(data, where) as page:
        return np.ascontiguousarray(_decode(page, data, where, MAX_DECODED_BYTES, None))


def decode_tiff(data: bytes, where: object, *, max_px: int) -> DecodedTiff | None:
    """Decode a TIFF together with its georeference.

    Returns:
        The image, or None where a side is longer than `max_px`: then nothing is decoded.

    Raises:
        DataError: as :func:`decode_image`.
    """
    with _opened(data, where) as page:
        info = _check_page(page, where)
        if max(info.height, info.width) > max_px:
            return None
        values = np.ascontiguousarray(_decode(page, data, where, MAX_DECODED_BYTES, None))
        return DecodedTiff(values, read_transform(page), read_geo_keys(page))


def spool_tiff(data: bytes, where: object, spool: Path, limit: int) -> DecodedTiff:
    """Decode a large TIFF into an .npy file; the values are a map of it.

    Raises:
        DataError: as :func:`decode_image`, or decoded it would exceed `limit` bytes.
    """
    with _opened(data, where) as page:
        return DecodedTiff(_decode(page, data, where, limit, spool), read_transform(page), read_geo_keys(page))


class _View(io.RawIOBase):
    """A file over bytes in place, such as those of a mapped shard; `io.BytesIO` would copy all of them."""

    def __init__(self, data: bytes | memoryview) -> None:
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


@contextlib.contextmanager
def _opened(data: bytes | memoryview, where: object) -> Iterator[tifffile.TiffPage]:
    """The page that holds the image."""
    if not is_tiff(data):
        raise DataError(where, f"expected a TIFF, found {_describe_start(data)}", "write the image as GeoTIFF or TIFF")
    try:
        with warnings.catch_warnings(), tifffile.TiffFile(cast(BinaryIO, _View(data))) as tiff:
            warnings.simplefilter("ignore")
            page = tiff.pages.first
            _check_single(tiff, page, where)
            yield page
    except DataError:
        raise
    except Exception as err:  # whatever a third-party decoder makes of damaged bytes, the file is at fault
        raise _damaged("TIFF", where, err) from err


def _decode(
    page: tifffile.TiffPage, data: bytes | memoryview, where: object, limit: int, spool: Path | None
) -> NDArray[Any]:
    info = _check_page(page, where)
    _check_size(info.height * info.width * info.num_bands * np.dtype(info.dtype).itemsize, where, limit)
    _check_segments(page, info, data, where)
    # tifffile's normalised shape: (separate bands, depth 1, height, width, interleaved bands)
    separate, _, height, width, interleaved = page.shaped
    shape = (separate, 1, height, width, interleaved)
    out: NDArray[Any]
    if spool is not None:
        out = np.lib.format.open_memmap(spool, mode="w+", dtype=info.dtype, shape=shape)
    else:
        out = np.empty(shape, info.dtype)
    if page.compression == _JPEG and page.planarconfig == _PLANAR_SEPARATE:
        _decode_planar_jpeg(page, info, data, out)
    elif page.compression == _LZW and separate == 1 and spool is None and all(page.databytecounts):
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
        with _opened(data, where) as page:
            if page.samplesperpixel != 1:
                raise DataError(where, f"expected a label with 1 band, found {page.samplesperpixel}", "store classes")
            return _decode(page, data, where, limit, None)[:, :, 0]
    if bytes(data[:8]) != PNG_MAGIC:
        raise DataError(where, f"expected a PNG or TIFF label, found {_describe_start(data)}")
    return _decode_png(data, where, limit)


def _decode_png(data: bytes | memoryview, where: object, limit: int) -> NDArray[np.uint8]:
    header = bytes(data[:29])
    if len(header) < 29 or header[12:16] != b"IHDR":
        raise DataError(where, "the PNG is truncated or damaged", "write the file again")
    width, height, depth, colour = struct.unpack(">IIBB", header[16:26])
    # Pillow stretches 1-, 2- and 4-bit grey to 0-255, which would change class values; palette indexes it leaves alone.
    if not (colour == 3 or (colour == 0 and depth == 8)):
        kind = {0: "grey", 2: "RGB colour", 4: "grey with alpha", 6: "RGBA colour"}.get(colour, "unknown")
        raise DataError(
            where,
            f"expected an 8-bit single-channel PNG of class values, found {depth}-bit {kind}",
            "this looks like a colour mask: convert its colours to class values"
            if colour in (2, 6)
            else "store one class value per pixel, grey or palette",
        )
    _check_size(height * width, where, limit)
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            warnings.simplefilter("ignore")
            array = np.asarray(image)
    except Exception as err:  # as above
        raise _damaged("PNG", where, err) from err
    if array.shape != (height, width) or array.dtype != np.uint8:
        raise DataError(where, f"expected {height}x{width} 8-bit values, found {array.shape} {array.dtype}")
    return array


def _check_single(tiff: tifffile.TiffFile, page: tifffile.TiffPage, where: object) -> None:
    """Overviews and masks may follow the image; a second image may not, as it would be left out silently."""
    for index in range(1, min(len(tiff.pages), 32)):
        other = tiff.pages[index]
        if other.shape == page.shape and not int(getattr(other, "subfiletype", 0)):
            raise DataError(where, f"expected one image in the TIFF, found {len(tiff.pages)}", "store one per file")


def _check_page(page: tifffile.TiffPage, where: object) -> ImageInfo:
    bits = page.bitspersample
    if page.sampleformat != _INTEGER or bits not in (8, 16):
        kind = _SAMPLE_FORMATS.get(page.sampleformat, "unknown")
        raise DataError(
            where, f"expected uint8 or uint16 values, found {bits}-bit {kind}", "scale the values to uint16 first"
        )
    if page.compression not in _COMPRESSIONS:
        known = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        name = getattr(page.compression, "name", page.compression)
        raise DataError(where, f"TIFF compression {name} is not supported (known: {known})", "write it again as ZSTD")
    if page.predictor not in _PREDICTORS:
        raise DataError(where, f"TIFF predictor {page.predictor} is not supported for integers")
    if page.imagedepth != 1 or page.tiledepth not in (0, 1):
        raise DataError(where, "expected a flat image, found a TIFF with depth")
    info = ImageInfo(page.imagelength, page.imagewidth, page.samplesperpixel, f"uint{bits}")
    if not 1 <= info.num_bands <= MAX_BANDS:
        raise DataError(where, f"expected 1 to {MAX_BANDS} bands, found {info.num_bands}")
    if info.height < 1 or info.width < 1:
        raise DataError(where, f"expected an image, found {info.height}x{info.width} pixels")
    return info


def _check_segments(page: tifffile.TiffPage, info: ImageInfo, data: bytes | memoryview, where: object) -> None:
    """Every strip or TIFF tile must be there, inside the file, and no larger decoded than the header says."""
    if page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
    else:
        rows, columns = min(page.rowsperstrip, info.height), info.width
    if rows < 1 or columns < 1:
        raise DataError(where, "the TIFF is damaged: its tiles have no size")
    planes = info.num_bands if page.planarconfig == _PLANAR_SEPARATE else 1
    _check_size(rows * columns * info.num_bands // planes * np.dtype(info.dtype).itemsize, where, MAX_DECODED_BYTES)
    expected = math.ceil(info.height / rows) * math.ceil(info.width / columns) * planes
    if not len(page.dataoffsets) == len(page.databytecounts) == expected:
        raise DataError(where, f"the TIFF is damaged: expected {expected} strips, found {len(page.dataoffsets)}")
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset + count > len(data):
            raise DataError(
                where,
                f"the TIFF is truncated: expected at least {offset + count} bytes, found {len(data)}",
                "copy or write the file again",
            )
        if page.compression == _JPEG and count:
            _check_jpeg(data[offset : offset + count], rows, columns, where)


def _decode_planar_jpeg(page: tifffile.TiffPage, info: ImageInfo, data: bytes | memoryview, out: NDArray[Any]) -> None:
    """One grey JPEG per band and segment; tifffile 2026.3 takes them for RGB and fails."""
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, info.width)
    across, down = math.ceil(info.width / columns), math.ceil(info.height / rows)
    out[:] = int(page.nodata)
    for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        band, y, x = index // (across * down), index // across % down * rows, index % across * columns
        height, width = min(rows, info.height - y), min(columns, info.width - x)
        if count:
            segment = imagecodecs.jpeg_decode(bytes(data[offset : offset + count]), tables=page.jpegtables)
            out[band, 0, y : y + height, x : x + width, 0] = segment[:height, :width]


def _check_jpeg(segment: bytes | memoryview, rows: int, columns: int, where: object) -> None:
    """A JPEG strip names its own size, which the decoder would allocate."""
    position, size = 2, len(segment)
    while position + 9 <= size and segment[position] == 0xFF:
        marker, length = segment[position + 1], int.from_bytes(segment[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", segment[position + 5 : position + 9])
            if height > rows or width > columns:
                raise DataError(where, f"a {height}x{width} JPEG strip exceeds the {rows}x{columns} of the TIFF")
            return
        position += 2 + length
    raise DataError(where, "the TIFF is damaged: a JPEG strip has no frame header")


def _check_size(num_bytes: int, where: object, limit: int) -> None:
    if num_bytes > limit:
        raise DataError(
            where,
            f"expected at most {limit >> 20} MiB decoded, the header asks for {num_bytes >> 20} MiB",
            "cut it into smaller tiles",
        )


def _damaged(kind: str, where: object, err: Exception) -> DataError:
    reason = f"{type(err).__name__}: {err}"
    return DataError(where, f"the {kind} is truncated or damaged: {reason[:120]}", "copy or write the file again")


def _describe_start(data: bytes | memoryview) -> str:
    start = bytes(data[:8])
    if not start:
        return "an empty file"
    if start == PNG_MAGIC:
        return "a PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "a JPEG"
    return f"a file that begins with {start!r}"
