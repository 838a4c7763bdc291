"""Images as people have them, turned into what shards hold: plain TIFFs, and a mask of the pixels that have data.

A plain uint8 or uint16 TIFF is stored as it is and never opened by GDAL. Everything else is decoded by GDAL and written
anew. Sizes are looked at in the header, before any pixel is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.raw.expected import Expected
from landseg.raw.georeference.sidecars import with_sidecars
from landseg.raw.georeference.tags import Georeference
from landseg.raw.images.decoded import DecodedImage, Extremes
from landseg.raw.images.formats import READ, driver_with_header
from landseg.raw.images.raster import opened_raster
from landseg.raw.images.readers import GdalImage, PlainTiff
from landseg.raw.images.remarks import (
    PALETTE_EXPANDED,
    about_bands,
    about_orientation,
    about_place,
    image_orientation,
    remarks_on_sidecars,
)
from landseg.raw.images.values import Kind
from landseg.raw.images.vrt import opened_vrt
from landseg.raw.sources.file_start import PNG_MAGIC, read_start
from landseg.raw.sources.files import ImageFiles
from landseg.raw.tiff.checks import (
    MAX_DECODED_BYTES,
    check_layout,
    check_segments,
    has_palette,
    is_plain,
    is_sparse,
)
from landseg.raw.tiff.decoding import check_png_chunks, is_tiff, opened_tiff


def image_kind(files: ImageFiles, where: object) -> Kind:
    """An image's kind, by its header.

    Raises:
        DataError: damaged, or of a kind that is not supported.
    """
    with _opened(files, where) as image:
        return image.kind


def decode_image_files(
    files: ImageFiles, where: object, expected: Expected, *, max_px: int | None = None
) -> DecodedImage | None:
    """Decode an image.

    Returns:
        The image, or None where a side is longer than `max_px`: then nothing is decoded.

    Raises:
        DataError: damaged, too large, not like most images, or of a kind that is not supported.
    """
    with _opened(files, where) as image:
        if max_px is not None and max(image.height, image.width) > max_px:
            return None
        return _placed(image.decode(expected, MAX_DECODED_BYTES), files, image, expected)


def spool_image(
    files: ImageFiles, where: object, expected: Expected, limit: int, spool: Path, valid_spool: Path
) -> DecodedImage:
    """Decode a large image into .npy files; values and mask are maps of them.

    Raises:
        DataError: as :func:`decode_image_files`, or decoded it would exceed `limit` bytes.
    """
    with _opened(files, where) as image:
        return _placed(image.decode(expected, limit, spool, valid_spool), files, image, expected)


def _placed(image: DecodedImage, files: ImageFiles, opened: PlainTiff | GdalImage, expected: Expected) -> DecodedImage:
    """The image with what its sidecars say about where it lies, and what there is to say of it."""
    page = opened.page
    own = Georeference(image.transform, image.crs, image.control_points, image.rpc)
    place, problems = with_sidecars(own, files.sidecars.items())
    orientation = image_orientation(files.data, page)
    remarks = [*remarks_on_sidecars(problems), *about_place(place, page), *about_orientation(orientation)]
    remarks += [PALETTE_EXPANDED] if opened.is_expanded else []
    if expected.kind is not None and opened.kind.tags != expected.tags:
        remarks += about_bands(opened.kind.tags, expected.tags, expected.bands)
    return image._replace(**place._asdict(), remarks=tuple(remarks), orientation=orientation)


def measure_image(
    files: ImageFiles, where: object, expected: Expected, num_px: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Look at the source's values of the selected bands.

    Returns:
        (2, bands) least and largest value, None where no pixel has data; and (pixels, bands) a sample of them, evenly
        spread, of about `num_px` pixels.

    Raises:
        DataError: as :func:`decode_image_files`.
    """
    columns = [band - 1 for band in expected.bands]
    extremes, samples = Extremes(len(columns)), [np.empty((0, len(columns)))]
    with _opened(files, where) as image:
        assert isinstance(image, GdalImage), "wide values are read by GDAL"
        step = max(1, image.height * image.width // num_px)
        for values, valid in image.measured(expected):
            extremes.add(values, valid, expected.bands)
            of_bands = values[:, :, columns]
            flat = of_bands.reshape(-1, len(columns)) if valid is None else of_bands[valid]
            samples.append(flat[::step].astype(np.float64))
    sample = np.concatenate(samples)
    return (extremes.values if len(sample) else None), sample


@contextmanager
def _opened(files: ImageFiles, where: object) -> Iterator[PlainTiff | GdalImage]:
    """The image, opened by what reads it."""
    driver, header = driver_with_header(files.data, files.headers[0] if files.headers else files.header)
    if driver is None:
        found, action = read_start(files.data)
        raise DataError(where, f"expected an image, found {found}", action or READ)
    if files.data[: len(PNG_MAGIC)] == PNG_MAGIC:
        check_png_chunks(files.data, where)  # GDAL takes a truncated PNG for an image with black rows
    if files.bands:
        headers = files.headers or (b"",) * (1 + len(files.bands))
        read_by = [driver_with_header(*both) for both in zip((files.data, *files.bands), headers, strict=True)]
        if not all(driver for driver, _ in read_by) or any(driver == "VRT" for driver, _ in read_by):
            raise DataError(where, "expected a file of each band to be an image", READ)
        parts = [(content, driver or "") for content, (driver, _) in zip(files.contents, read_by, strict=True)]
        with opened_raster(parts, where, headers=[header for _, header in read_by]) as raster:
            yield GdalImage(raster, where, files)
    elif driver == "VRT":
        with opened_vrt(files, where) as raster:
            yield GdalImage(raster, where, files)
    elif header or not is_tiff(files.data):
        with opened_raster([(files.contents[0], driver)], where, headers=[header]) as raster:
            yield GdalImage(raster, where, files)
    else:
        with opened_tiff(files.data, where) as page:
            info = check_layout(page, where, allow_palette=True)
            if is_plain(page) and not is_sparse(page) and not has_palette(page):
                yield PlainTiff(page, info, files, where)
            else:
                check_segments(page, files.data, where, sparse=True)
                with opened_raster([(files.contents[0], driver)], where, has_palette=has_palette(page)) as raster:
                    yield GdalImage(raster, where, files, page)
