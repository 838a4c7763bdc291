"""Reading labels as people store them: PNGs and TIFFs of any depth, with values, indexes into a palette, or colours.

What the stored values mean is for :mod:`landseg.raw.labels.rule` to say.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from landseg.contracts.errors import DataError
from landseg.raw.images import gdal
from landseg.raw.images.raster import lossy_compression, palette_of
from landseg.raw.sources.file_start import PNG_MAGIC, read_start
from landseg.raw.tiff.checks import (
    COMPRESSIONS,
    JPEG,
    MAX_DECODED_BYTES,
    ImageInfo,
    check_pages,
    check_segments,
    check_size,
    declared_nodata,
)
from landseg.raw.tiff.decoding import (
    check_png_chunks,
    damaged,
    decode_label,
    is_tiff,
    png_header,
)

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_STRETCHED = {1: 255, 2: 85, 4: 17, 8: 1, 16: 1}
"""What libpng multiplies grey values of a depth by."""
LOSSLESS_HINT = "write the labels again from their source as PNG, or as TIFF with the compression LZW, Deflate or ZSTD"
_KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floats"}
_MINISWHITE, _MINISBLACK, _TIFF_RGB, _TIFF_PALETTE = 0, 1, 2, 3
_CHUNK_PX = 1 << 20


@dataclass(frozen=True, eq=False)
class StoredLabel:
    """A label as its file stores it.

    Attributes:
        values: (H, W) integers: stored values, indexes into the palette, or colours as 0xRRGGBB.
        kind: which of these they are.
        is_plain: whether the file is one that every stage reads as it is.
        palette: (N, 3) uint8 colours of a file with a palette.
        no_data: (H, W), True where a pixel has no value: transparent, or not a number; None without such pixels.
        nodata: the value that a TIFF declares to mean that there is no data; None where it declares none.
        is_cut: whether it was put onto its image's grid.
    """

    values: NDArray[Any]
    kind: Literal["values", "indexes", "colours"]
    is_plain: bool = False
    palette: NDArray[np.uint8] | None = None
    no_data: NDArray[np.bool_] | None = None
    nodata: float | None = None
    is_cut: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.values.shape[0], self.values.shape[1]


def read_label(data: bytes, where: object, *, limit: int = MAX_DECODED_BYTES) -> StoredLabel:
    """Read a label.

    Args:
        data: the file's bytes: a PNG, TIFF, BMP, GIF, or lossless WebP or JPEG 2000 with one band, one and alpha, RGB
            or RGBA.
        where: the file, for the error line.
        limit: the most bytes that it may take decoded.

    Raises:
        DataError: something else, damaged, too large, lossily compressed, with fractions, or half transparent.
    """
    if is_tiff(data):
        return _read_tiff(data, where, limit)
    if data.startswith(PNG_MAGIC):
        return _read_png(data, where, limit)
    found, action = read_start(data)
    driver = "GIF" if data.startswith(b"GIF8") else gdal.driver_of(data)
    if driver in ("BMP", "GIF", "WEBP", "JP2OpenJPEG", "JPEG"):
        return _read_by_gdal(data, driver, found, where, limit)
    raise DataError(where, f"expected a PNG or TIFF label, found {found}", action or "write it as PNG")


def encode_label(classes: NDArray[np.uint8]) -> bytes:
    """(H, W) values as an 8-bit grey PNG; the same values give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(classes).save(buffer, "PNG")
    return buffer.getvalue()


def packed_colours(colours: NDArray[Any]) -> NDArray[np.uint32]:
    """(H, W, 3) colours of 0-255 as (H, W) 0xRRGGBB."""
    packed = np.zeros(colours.shape[:2], np.uint32)
    for band in range(3):
        packed <<= 8
        packed |= colours[:, :, band]
    return packed


def _read_by_gdal(data: bytes, driver: str, found: str, where: object, limit: int) -> StoredLabel:
    """A label of another format, or a TIFF of another compression, unless that has losses."""
    with gdal.opened_bytes(data, driver, where) as dataset:
        if compression := lossy_compression(dataset):
            kind = found if driver != "GTiff" else f"{found} compressed as {compression}"
            problem = f"expected a label with the values that were drawn, found {kind}, whose compression changes them"
            raise DataError(where, problem, LOSSLESS_HINT)
        dtype = np.dtype(dataset.dtypes[0])
        check_size(dataset.height * dataset.width * dataset.count * dtype.itemsize, where, limit)
        values = dataset.read().transpose(1, 2, 0)
        palette, nodata = palette_of(dataset), dataset.nodata
        has_alpha = "alpha" in [colour.name for colour in dataset.colorinterp]
    return replace(stored_label(values, where, palette, has_alpha=has_alpha), nodata=nodata)


def _read_png(data: bytes, where: object, limit: int) -> StoredLabel:
    height, width, depth, colour = png_header(data, where)
    if colour == _PALETTE or (colour == _GREY and depth == 8):
        values = decode_label(data, where, limit=limit)
        palette = _png_palette(data) if colour == _PALETTE else None
        return StoredLabel(values, "values" if palette is None else "indexes", is_plain=True, palette=palette)
    channels = {_GREY: 1, _RGB: 3, _GREY_ALPHA: 2, _RGBA: 4}.get(colour, 0)
    if not channels or depth not in _STRETCHED:
        raise DataError(
            where, "the PNG is damaged: it states an unknown kind of pixels", "copy or write the file again"
        )
    check_size(height * width * channels * (2 if depth == 16 else 1), where, limit)
    check_png_chunks(data, where)
    try:
        decoded = np.asarray(imagecodecs.png_decode(data))
    except Exception as err:  # whatever a third-party decoder raises on damaged bytes, the file is at fault
        raise damaged("PNG", where, err) from err
    if decoded.shape[:2] != (height, width):
        raise DataError(where, f"expected {height}x{width} values, found {decoded.shape}")
    decoded = decoded.reshape(height, width, -1)
    # A colour that is declared transparent (tRNS) is decoded as alpha; it counts as in a palette, like any other.
    alpha = decoded[:, :, -1] if colour in (_GREY_ALPHA, _RGBA) else None
    no_data = _transparent(alpha, where)
    if colour in (_RGB, _RGBA):
        return StoredLabel(_packed(decoded[:, :, :3], where), "colours", no_data=no_data)
    return StoredLabel(decoded[:, :, 0] // _STRETCHED[depth], "values", no_data=no_data)


def _png_palette(data: bytes) -> NDArray[np.uint8]:
    """The colours of a PNG whose chunks have been checked."""
    position = len(PNG_MAGIC)
    while data[position + 4 : position + 8] != b"PLTE":
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        if position >= len(data):
            return np.zeros((0, 3), np.uint8)
    size = int.from_bytes(data[position : position + 4], "big")
    return np.frombuffer(data[position + 8 : position + 8 + size // 3 * 3], np.uint8).reshape(-1, 3)


def _read_tiff(data: bytes, where: object, limit: int) -> StoredLabel:
    with _opened(data, where) as page:
        if page.compression == JPEG or page.compression not in COMPRESSIONS:
            return _read_by_gdal(data, "GTiff", "a TIFF", where, limit)
        bands, photometric, dtype = page.samplesperpixel, int(page.photometric), np.dtype(page.dtype or "V")
        is_integer = page.sampleformat == 1 and page.bitspersample in (8, 16)
        colours = page.colormap if photometric == _TIFF_PALETTE else None
        if bands == 1 and is_integer and photometric in (_MINISWHITE, _MINISBLACK, _TIFF_PALETTE):
            palette = None if colours is None else np.ascontiguousarray((colours.T >> 8).astype(np.uint8))
            values = decode_label(data, where, limit=limit)
            kind: Literal["values", "indexes"] = "values" if palette is None else "indexes"
            return StoredLabel(values, kind, is_plain=True, palette=palette, nodata=declared_nodata(page))
        if dtype.kind not in "biuf":
            found = _KINDS.get(page.sampleformat, "unknown values")
            raise DataError(
                where, f"expected class values or colours, found {page.bitspersample}-bit {found}", "convert it"
            )
        values, nodata = _decode_tiff(page, data, where, limit), declared_nodata(page)
        has_alpha = bool(page.extrasamples)
    return replace(stored_label(values, where, has_alpha=has_alpha), nodata=nodata)


def stored_label(
    values: NDArray[Any],
    where: object,
    palette: NDArray[np.uint8] | None = None,
    *,
    has_alpha: bool = False,
    outside: NDArray[np.bool_] | None = None,
) -> StoredLabel:
    """A label of which the bands are known.

    Args:
        values: (H, W, B) values: one band, one and alpha, RGB or RGBA.
        where: the file, for the error line.
        palette: the colours of indexes.
        has_alpha: whether the last band is alpha.
        outside: where there is no label.

    Raises:
        DataError: other bands, fractions, or half transparent.
    """
    bands, dtype = values.shape[2], values.dtype
    has_alpha = has_alpha and bands in (2, 4)
    if (bands not in (1, 3, 4) and not has_alpha) or (bands >= 3 and dtype.kind != "u") or dtype.kind not in "biuf":
        problem = f"expected a label with 1 band of class values, or RGB, found {bands} bands of {dtype}"
        raise DataError(where, problem, "store one class value per pixel")
    no_data = _joined(_transparent(values[:, :, -1] if has_alpha else None, where), outside)
    if bands >= 3:
        return StoredLabel(_packed(values[:, :, :3], where), "colours", no_data=no_data)
    stored = values[:, :, 0]
    if dtype.kind == "f":
        stored, nan = _whole(stored, where)
        no_data = _joined(no_data, nan)
    stored = stored.astype(np.uint8) if dtype.kind == "b" else stored
    return StoredLabel(stored, "values" if palette is None else "indexes", palette=palette, no_data=no_data)


def _joined(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    return other if one is None else one if other is None else one | other


def _decode_tiff(page: tifffile.TiffPage, data: bytes, where: object, limit: int) -> NDArray[Any]:
    """(H, W, B) values."""
    if page.imagedepth != 1 or page.tiledepth not in (0, 1):
        raise DataError(where, "expected a flat image, found a TIFF with depth")
    assert page.dtype is not None, "checked above"
    info = ImageInfo(page.imagelength, page.imagewidth, page.samplesperpixel, str(page.dtype))
    check_size(info.height * info.width * info.num_bands * page.dtype.itemsize, where, limit)
    check_segments(page, data, where)
    out = page.asarray(squeeze=False, maxworkers=1)
    separate, _, height, width, interleaved = page.shaped
    values: NDArray[Any] = out.reshape(page.shaped)[:, 0].transpose(1, 2, 0, 3)
    return values.reshape(height, width, separate * interleaved)


@contextlib.contextmanager
def _opened(data: bytes, where: object) -> Iterator[tifffile.TiffPage]:
    try:
        with warnings.catch_warnings(), tifffile.TiffFile(io.BytesIO(data)) as tiff:
            warnings.simplefilter("ignore")
            page = tiff.pages.first
            check_pages(tiff, where)
            yield page
    except DataError:
        raise
    except Exception as err:  # whatever a third-party decoder raises on damaged bytes, the file is at fault
        raise damaged("TIFF", where, err) from err


def _transparent(alpha: NDArray[Any] | None, where: object) -> NDArray[np.bool_] | None:
    """Where a label is transparent; None where it is opaque, and an alpha channel says nothing."""
    if alpha is None:
        return None
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    if (alpha == opaque).all():
        return None
    if partly := np.count_nonzero((alpha != 0) & (alpha != opaque)):
        problem = f"expected opaque or transparent pixels, found {partly} px in between, as smoothed edges have"
        raise DataError(where, problem, "export the label again without smoothing (antialiasing)")
    transparent: NDArray[np.bool_] = alpha == 0
    return transparent


def _packed(colours: NDArray[Any], where: object) -> NDArray[np.uint32]:
    """(H, W, 3) colours as (H, W) 0xRRGGBB."""
    if colours.dtype == np.uint16:
        if np.any(colours % 257):
            raise DataError(where, "expected colours of 8 bits, found colours that need 16", "export it with 8 bits")
        colours = colours // 257
    if colours.dtype not in (np.uint8, np.uint16):
        raise DataError(where, f"expected colours of 8 bits, found {colours.dtype}", "export it with 8 bits")
    return packed_colours(colours)


def _whole(values: NDArray[Any], where: object) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Floats as integers, and where they are no number."""
    nan = np.isnan(values)
    with np.errstate(invalid="ignore"):
        whole = np.where(nan, 0, values).astype(np.int64)
        broken = ~nan & (whole != values)
    if count := np.count_nonzero(broken):
        problem = f"expected whole numbers, found {count} px with others, the first {values[broken][0]}"
        raise DataError(where, problem, "store one class value per pixel, without interpolation")
    return whole, nan if nan.any() else None
