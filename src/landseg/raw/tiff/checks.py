"""What a TIFF must be before any of it is decoded: of a known kind, within the limits, and complete.

Only headers are read, the TIFF's and those of JPEG strips; nothing is allocated at their request.
"""

from __future__ import annotations

import itertools
import math
import struct
from typing import NamedTuple

import tifffile

from landseg.contracts.errors import DataError
from landseg.raw.commands import cutting_command, file_name, python_command, quoted
from landseg.raw.config.fields import MAX_BANDS

MAX_DECODED_BYTES = 1 << 29
"""The largest tile, decoded: 8192 x 8192 px with 4 bands of uint16."""
JPEG, PLANAR_SEPARATE = 7, 2

_NODATA_TAG = 42113
_MAX_PAGES = 64
"""The largest image has fewer overviews and masks."""
_MASK = 4
_REDUCED_OR_MASK = 1 | _MASK
_WRITE_ARRAY = "tifffile.imwrite(path, array, planarconfig='{planarconfig}', photometric='minisblack')"
COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate",
    34925: "LZMA",
    50000: "ZSTD",
}
_PREDICTORS = (1, 2)
_INTEGER = 1
_SAMPLE_FORMATS = {1: "unsigned integer", 2: "signed integer", 3: "float", 5: "complex", 6: "complex"}
_GREY_OR_RGB, _PALETTE, _YCBCR = (0, 1, 2), 3, 6
_YCBCR_COMPRESSIONS = (JPEG, 50001, 50002)
"""JPEG, WebP and JPEG XL, which store RGB so; decoders turn it back."""
_PHOTOMETRICS = {3: "palette", 4: "mask", 5: "CMYK", 6: "uncompressed YCbCr", 8: "CIELab", 9: "CIELab", 10: "CIELab"}


class ImageInfo(NamedTuple):
    """What a TIFF's header says about its image."""

    height: int
    width: int
    num_bands: int
    dtype: str


def check_pages(tiff: tifffile.TiffFile, where: object) -> None:
    """Overviews and masks may follow the image; a second image may not, as it would be left out silently."""
    num_pages = len(tiff.pages)
    others = [tiff.pages[index] for index in range(1, min(num_pages, _MAX_PAGES))]
    if num_pages > _MAX_PAGES or any(not _is_reduced_or_mask(page) for page in others):
        problem = f"expected one image in the TIFF, found {num_pages}"
        hint = f"write the first one, and move this one out: {_command_for_first(where)}"
        height, width = tiff.pages.first.shape[:2]
        if all(page.shape == tiff.pages.first.shape for page in others):
            problem += f" of {height}x{width}"
            if num_pages <= MAX_BANDS and len(tiff.pages.first.shape) == 2:
                bands = f"{_WRITE_ARRAY.format(planarconfig='separate')}, of shape (bands, H, W)"
                hint = f"if they are bands, {bands}; otherwise {hint}"
            elif width <= MAX_BANDS:
                problem += f", which look like the rows of an array of shape ({num_pages}, {height}, {width})"
                hint = f"write its bands as one image: {_WRITE_ARRAY.format(planarconfig='contig')}"
        raise DataError(where, problem, hint)


def _command_for_first(where: object) -> str:
    name = file_name(where)
    stem, _, suffix = name.rpartition(".")
    target = f"{stem}.{'tif' if suffix.lower() == 'tiff' else 'tiff'}"
    first = '"GTIFF_DIR:1:" + sys.argv[1]'  # rio convert would leave out palettes
    code = f'import rasterio.shutil, sys; rasterio.shutil.copy({first}, sys.argv[2], driver="GTiff")'
    return python_command(code, name, target)


def _is_reduced_or_mask(page: object) -> bool:
    return bool(int(getattr(page, "subfiletype", 0)) & _REDUCED_OR_MASK)


def has_mask(tiff: tifffile.TiffFile) -> bool:
    """Whether a mask follows the image."""
    return any(int(getattr(page, "subfiletype", 0)) & _MASK for page in itertools.islice(tiff.pages, 1, _MAX_PAGES))


def is_plain(page: tifffile.TiffPage) -> bool:
    """Whether the values are stored as shards store them: uint8 or uint16 in a compression known here.

    Anything else is for GDAL to decode.
    """
    values = page.sampleformat == _INTEGER and page.bitspersample in (8, 16)
    return values and page.compression in COMPRESSIONS and page.predictor in _PREDICTORS


def declared_nodata(page: tifffile.TiffPage) -> float | None:
    """GDAL's nodata tag; None without one, and where it is no number."""
    text = page.tags.valueof(_NODATA_TAG)
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def too_many_bands(num_bands: int, where: object) -> DataError:
    """The error of an image with more bands than a dataset may have."""
    name = file_name(where)
    bands = '"(asarray (read 1 3) (read 1 2) (read 1 1))"'
    files = quoted(name, f"{name.rpartition('.')[0]}_bands.tif")
    choice = f"rio calc --driver GTiff {bands} {files} for bands 3, 2 and 1"
    action = f"write those that a model is to see into another file, and move this one out: {choice}"
    return DataError(where, f"expected 1 to {MAX_BANDS} bands, found {num_bands}", action)


def is_sparse(page: tifffile.TiffPage) -> bool:
    """Whether parts of the image were never written."""
    return not all(page.databytecounts)


def check_page(page: tifffile.TiffPage, where: object, *, is_label: bool = False) -> ImageInfo:
    """The kind of a plain image.

    Raises:
        DataError: it is not supported.
    """
    info = check_layout(page, where, allow_palette=is_label)
    bits = page.bitspersample
    if page.sampleformat != _INTEGER or bits not in (8, 16):
        kind = _SAMPLE_FORMATS.get(page.sampleformat, "unknown")
        command = "-ot Byte -co NBITS=8" if is_label else "-ot UInt16 -co NBITS=16"
        hint = f"convert all files alike, e.g. gdal_translate {command}"
        raise DataError(where, f"expected uint8 or uint16 values, found {bits}-bit {kind}", hint)
    if page.compression not in COMPRESSIONS:
        known = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        name = getattr(page.compression, "name", page.compression)
        raise DataError(where, f"TIFF compression {name} is not supported (known: {known})", "write it again as ZSTD")
    if page.predictor not in _PREDICTORS:
        raise DataError(where, f"TIFF predictor {page.predictor} is not supported for integers")
    return info


def has_palette(page: tifffile.TiffPage) -> bool:
    """Whether the values are indexes of a palette."""
    return int(page.photometric) == _PALETTE


def check_layout(page: tifffile.TiffPage, where: object, *, allow_palette: bool = False) -> ImageInfo:
    """Accept flat images of band values and class values: no other colour space.

    Args:
        page: the image.
        where: the image, for the error line.
        allow_palette: whether values may be indexes of a palette.

    Raises:
        DataError: it is something else.
    """
    photometric = int(page.photometric)
    known = photometric in _GREY_OR_RGB or (photometric == _YCBCR and page.compression in _YCBCR_COMPRESSIONS)
    if not known and not (allow_palette and has_palette(page)):
        name = _PHOTOMETRICS.get(photometric, f"photometric {photometric}")
        hint = "expand it to RGB: gdal_translate -expand rgb does" if photometric == _PALETTE else "write it as RGB"
        raise DataError(where, f"expected band values, found {name} colours", hint)
    if page.imagedepth != 1 or page.tiledepth not in (0, 1):
        raise DataError(where, "expected a flat image, found a TIFF with depth")
    info = ImageInfo(page.imagelength, page.imagewidth, page.samplesperpixel, f"uint{page.bitspersample}")
    if not 1 <= info.num_bands <= MAX_BANDS:
        raise too_many_bands(info.num_bands, where)
    if info.height < 1 or info.width < 1:
        raise DataError(where, f"expected an image, found {info.height}x{info.width} pixels")
    return info


def check_size(num_bytes: int, where: object, limit: int) -> None:
    """Refuse an image that would take more than `limit` bytes decoded."""
    if num_bytes > limit:
        raise DataError(
            where,
            f"expected at most {limit >> 20} MiB decoded, the header asks for {num_bytes >> 20} MiB",
            f"cut it, its label or image alike, and move both out: {cutting_command(where)}",
        )


def segments(page: tifffile.TiffPage, where: object) -> tuple[int, int, int]:
    """Rows and columns of a strip or TIFF tile, and the number of planes.

    Raises:
        DataError: damaged.
    """
    if page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
    else:
        rows, columns = min(page.rowsperstrip, page.imagelength), page.imagewidth
    if rows < 1 or columns < 1:
        raise DataError(where, "the TIFF is damaged: its tiles have no size")
    return rows, columns, page.samplesperpixel if page.planarconfig == PLANAR_SEPARATE else 1


def check_segments(page: tifffile.TiffPage, data: bytes | memoryview, where: object, *, sparse: bool = False) -> None:
    """Every strip or TIFF tile must lie inside the file and decode to no more than the header says.

    All must exist, unless `sparse`: GDAL reads those that were never written as 0 or nodata, whether the file is sparse
    on purpose or its writer was killed.
    """
    rows, columns, planes = segments(page, where)
    bytes_per_px = page.samplesperpixel // planes * -(-page.bitspersample // 8)
    check_size(rows * columns * bytes_per_px, where, MAX_DECODED_BYTES)
    expected = math.ceil(page.imagelength / rows) * math.ceil(page.imagewidth / columns) * planes
    if not len(page.dataoffsets) == len(page.databytecounts) == expected:
        raise DataError(where, f"the TIFF is damaged: expected {expected} strips, found {len(page.dataoffsets)}")
    if (missing := sum(not count for count in page.databytecounts)) and not sparse:
        raise DataError(
            where,
            f"{missing} of {expected} parts of the TIFF were never written, and it declares no nodata value",
            "write it again; if it is sparse on purpose, say nodata: 0 in dataset.yaml",
        )
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset + count > len(data):
            raise DataError(
                where,
                f"the TIFF is truncated: expected at least {offset + count} bytes, found {len(data)}",
                "copy or write the file again",
            )
        if page.compression == JPEG and count:
            _check_jpeg(data[offset : offset + count], rows, columns, where)


def _check_jpeg(segment: bytes | memoryview, rows: int, columns: int, where: object) -> None:
    """A JPEG strip states its own size, which the decoder would allocate, and decodes to grey where it breaks off."""
    position, size = 2, len(segment)
    while position + 9 <= size and segment[position] == 0xFF:
        marker, length = segment[position + 1], int.from_bytes(segment[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", segment[position + 5 : position + 9])
            if height > rows or width > columns:
                raise DataError(where, f"a {height}x{width} JPEG strip exceeds the {rows}x{columns} of the TIFF")
            if bytes(segment[position:]).rfind(b"\xff\xd9") < 0:
                raise DataError(where, "the TIFF is damaged: a JPEG strip breaks off", "copy or write the file again")
            return
        position += 2 + length
    raise DataError(where, "the TIFF is damaged: a JPEG strip has no frame header")
