"""Reading labels as people store them: PNGs and TIFFs of any depth, with values, indexes into a palette, or colours.

What the stored values mean is for :mod:`landseg.raw.labels.rule` to say.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from landseg.contracts.errors import DataError
from landseg.raw.georeference.tags import Georeference
from landseg.raw.images import gdal
from landseg.raw.images.formats import check_one_image, check_whole, driver_of
from landseg.raw.images.raster import has_own_mask, lossy_compression, opened_raster, palette_of
from landseg.raw.images.remarks import orientation_of
from landseg.raw.labels.stored_label import StoredLabel, joined_masks, packed_8_bit, stored_label, transparent_px
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
    has_mask,
)
from landseg.raw.tiff.decoding import (
    check_png_chunks,
    damaged,
    decode_label,
    is_tiff,
    label_georeference,
    png_header,
)

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_STRETCHED = {1: 255, 2: 85, 4: 17, 8: 1, 16: 1}
"""What libpng multiplies grey values of a depth by."""
LOSSLESS_HINT = "write the labels again from their source as PNG, or as TIFF with the compression LZW, Deflate or ZSTD"
_KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floats"}
_MINISWHITE, _MINISBLACK, _TIFF_RGB, _TIFF_PALETTE = 0, 1, 2, 3
_ALPHA_SAMPLES = (1, 2)
"""Of a TIFF's extra samples; of others it does not say what they are."""
_CHUNK_PX = 1 << 20
_PLACED_DRIVERS = ("HFA", "AAIGrid", "JP2OpenJPEG")
"""Besides TIFF, of formats that say where an image lies."""


def read_label(data: bytes, where: object, *, limit: int = MAX_DECODED_BYTES) -> StoredLabel:
    """Read a label.

    Args:
        data: the file's bytes: a PNG, TIFF, BMP, GIF, PGM, Erdas .img, ESRI ASCII grid, or lossless WebP or JPEG 2000
            with one band, one and alpha, RGB or RGBA.
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
    driver = driver_of(data)
    if driver not in (None, "VRT"):
        return _read_by_gdal(data, driver, found, where, limit)
    raise DataError(where, f"expected a PNG or TIFF label, found {found}", action or "write it as PNG")


def place_of_label(data: bytes, where: object) -> Georeference:
    """Where a label lies, as its own file says.

    Raises:
        DataError: damaged.
    """
    if is_tiff(data):
        return label_georeference(data, where)
    if (driver := driver_of(data)) not in _PLACED_DRIVERS:
        return Georeference()
    with opened_raster([(data, driver)], where) as raster:
        return raster.georeference()


def encode_label(classes: NDArray[np.uint8]) -> bytes:
    """(H, W) values as an 8-bit grey PNG; the same values give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(classes).save(buffer, "PNG")
    return buffer.getvalue()


def _read_by_gdal(data: bytes, driver: str, found: str, where: object, limit: int) -> StoredLabel:
    """A label of another format, or a TIFF of another compression, unless that has losses."""
    with gdal.opened_bytes(data, driver, where) as dataset:
        if compression := lossy_compression(dataset):
            kind = found if driver != "GTiff" else f"{found} compressed as {compression}"
            problem = f"expected a label with the values that were drawn, found {kind}, whose compression changes them"
            raise DataError(where, problem, LOSSLESS_HINT)
        dtype = np.dtype(dataset.dtypes[0])
        shape = (dataset.height, dataset.width, dataset.count)
        check_whole(data[:4096], len(data), driver, b"", shape, dtype.itemsize, where)
        check_size(dataset.height * dataset.width * dataset.count * dtype.itemsize, where, limit)
        values = dataset.read().transpose(1, 2, 0)
        palette, nodata = palette_of(dataset), dataset.nodata
        has_alpha = "alpha" in [colour.name for colour in dataset.colorinterp]
        masked = _masked_px(dataset)
    return replace(stored_label(values, where, palette, has_alpha=has_alpha, outside=masked), nodata=nodata)


def _masked_px(dataset: DatasetReader) -> NDArray[np.bool_] | None:
    """(H, W), True where the mask that is stored with a label says that there is none; None where it covers all."""
    masked: NDArray[np.bool_] | None = dataset.read_masks(1) == 0 if has_own_mask(dataset) else None
    return None if masked is None or not masked.any() else masked


def _read_png(data: bytes, where: object, limit: int) -> StoredLabel:
    height, width, depth, colour = png_header(data, where)
    check_one_image(data, "PNG", where)
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
    no_data = transparent_px(alpha, where)
    if colour in (_RGB, _RGBA):
        return StoredLabel(packed_8_bit(decoded[:, :, :3], where), "colours", no_data=no_data)
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
        label = _read_page(page, data, where, limit)
        is_masked, orientation = has_mask(page.parent), orientation_of(page)
    if is_masked:  # rare, and GDAL knows all the ways of storing one
        with gdal.opened_bytes(data, "GTiff", where) as dataset:
            masked = _masked_px(dataset)
        if masked is not None:
            label = replace(label, no_data=joined_masks(label.no_data, masked), is_plain=False)
    return replace(label, orientation=orientation)


def _read_page(page: tifffile.TiffPage, data: bytes, where: object, limit: int) -> StoredLabel:
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
            where,
            f"expected class values or colours, found {page.bitspersample}-bit {found}",
            "write it as PNG, with one class value per pixel",
        )
    values, nodata = _decode_tiff(page, data, where, limit), declared_nodata(page)
    has_alpha = bands == 4 or any(int(sample) in _ALPHA_SAMPLES for sample in page.extrasamples)
    return replace(stored_label(values, where, has_alpha=has_alpha), nodata=nodata)


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
