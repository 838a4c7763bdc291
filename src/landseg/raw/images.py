"""Images as people have them, turned into what shards hold: plain TIFFs, and a mask of the pixels that have data.

A plain uint8 or uint16 TIFF is stored as it is and never opened by GDAL. Everything else is decoded by GDAL and written
anew. Sizes are looked at in the header, before any pixel is read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from landseg.contracts.dataset import GeoKeys, Scale
from landseg.contracts.documents import digest
from landseg.contracts.errors import DataError
from landseg.raw import gdal
from landseg.raw.dataset_yaml import DatasetConfig
from landseg.raw.file_start import PNG_MAGIC, read_start
from landseg.raw.files import ImageFiles
from landseg.raw.georeference import Georeference, Transform, read_georeference
from landseg.raw.label_rule import LabelRule
from landseg.raw.shared_labels import SharedLabels
from landseg.raw.tiff.checks import (
    MAX_DECODED_BYTES,
    ImageInfo,
    check_layout,
    check_segments,
    check_size,
    declared_nodata,
    has_mask,
    is_plain,
    is_sparse,
    segments,
)
from landseg.raw.tiff.decoding import check_png_chunks, decode_page, is_tiff, opened_tiff
from landseg.raw.tiff.encoding import encode_image
from landseg.raw.validity import Nodata, both, nodata_values, valid_pixels
from landseg.raw.values import Conversion, Kind
from landseg.raw.vrt import opened_vrt

_ALPHA_SAMPLES = (1, 2)
_READ = "TIFF, PNG, JPEG, JPEG 2000, WebP, BMP and VRT are read"


@dataclass(frozen=True)
class Expected:
    """What a tile must be, and how its values are stored.

    Attributes:
        config: `dataset.yaml`.
        kind: what most images are; None where none could be read.
        conversion: from the images' values to stored ones; None where they are stored as they are.
        measured: the scale of the selected bands in the images' values, if it was measured before anything is staged.
    """

    config: DatasetConfig
    kind: Kind | None
    conversion: Conversion | None = None
    measured: Scale | None = None
    shared_labels: SharedLabels | None = None

    @property
    def bands(self) -> tuple[int, ...]:
        """The selected bands, 1-based."""
        assert self.kind is not None, "bands are selected once the kind is known"
        return self.config.selected_bands(self.kind.num_bands, self.kind.alpha)

    @functools.cached_property
    def label_rule(self) -> LabelRule:
        """What labels are staged as."""
        return LabelRule(self.config)

    @property
    def scale(self) -> Scale | None:
        """The scale of the selected bands in the images' values, where it is known before anything is staged."""
        return self.measured or self.config.scale_for(len(self.bands))

    @property
    def has_own_rules(self) -> bool:
        """Whether `dataset.yaml` changes how a plain TIFF is stored, or nothing is stored as it is."""
        if self.config.labels is not None:
            return True
        return self.conversion is not None or self.config.nodata is not None or self.config.alpha == "mask"

    @property
    def rules(self) -> str:
        """A digest of what decides, besides the files, which bytes are stored."""
        nodata, conversion, labels = self.config.nodata, self.conversion, self.config.labels
        return digest(
            {
                **({} if labels is None else {"labels": labels.model_dump(mode="json")}),
                "nodata": list(nodata) if isinstance(nodata, tuple) else nodata,
                "alpha": self.config.alpha,
                "bands": list(self.bands),
                "conversion": conversion and [conversion.source, list(conversion.first), list(conversion.step)],
                "ignored": self.label_rule.ignored,
            }
        )


class DecodedImage(NamedTuple):
    """An image as it is stored.

    Attributes:
        values: (H, W, B) uint8 or uint16, all bands in the file's order, as stored.
        valid: (H, W), True where there is data; None where all pixels have data.
        transform: see :class:`landseg.contracts.dataset.Geo`; None where the file has none.
        crs: the coordinate reference system; None where the file names none.
        extremes: (2, selected bands) least and largest value in the source's units, of wide values; else None.
        plain: the file's bytes where they are stored as they are; None where the values are written anew.
        sentinels: (band, stored value) of nodata values of 16 bits, which a pixel with data may hold in some bands.
    """

    values: NDArray[Any]
    valid: NDArray[np.bool_] | None
    transform: Transform | None
    crs: GeoKeys | None
    extremes: NDArray[np.float64] | None = None
    plain: bytes | None = None
    sentinels: tuple[tuple[int, int], ...] = ()

    def encoded(self) -> bytes:
        """The bytes to store."""
        return encode_image(self.values, self.transform, self.crs) if self.plain is None else self.plain


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
        return image.decode(expected, MAX_DECODED_BYTES)


def spool_image(
    files: ImageFiles, where: object, expected: Expected, limit: int, spool: Path, valid_spool: Path
) -> DecodedImage:
    """Decode a large image into .npy files; values and mask are maps of them.

    Raises:
        DataError: as :func:`decode_image_files`, or decoded it would exceed `limit` bytes.
    """
    with _opened(files, where) as image:
        return image.decode(expected, limit, spool, valid_spool)


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
        assert isinstance(image, _GdalImage), "wide values are read by GDAL"
        step = max(1, image.height * image.width // num_px)
        for values, valid in image.measured(expected):
            extremes.add(values, valid, expected.bands)
            of_bands = values[:, :, columns]
            flat = of_bands.reshape(-1, len(columns)) if valid is None else of_bands[valid]
            samples.append(flat[::step].astype(np.float64))
    sample = np.concatenate(samples)
    return (extremes.values if len(sample) else None), sample


@contextmanager
def _opened(files: ImageFiles, where: object) -> Iterator[_PlainTiff | _GdalImage]:
    """The image, opened by what reads it."""
    driver = gdal.driver_of(files.data)
    if driver is None:
        found, action = read_start(files.data)
        raise DataError(where, f"expected an image, found {found}", action or _READ)
    if files.data.startswith(PNG_MAGIC):
        check_png_chunks(files.data, where)  # GDAL takes a truncated PNG for an image with black rows
    if files.bands:
        drivers = [gdal.driver_of(data) for data in (files.data, *files.bands)]
        if not all(drivers) or "VRT" in drivers:
            raise DataError(where, "expected a file of each band to be an image", _READ)
        parts = [(data, driver or "") for data, driver in zip((files.data, *files.bands), drivers, strict=True)]
        with gdal.opened(parts, where) as raster:
            yield _GdalImage(raster, where, files.size_bytes)
    elif driver == "VRT":
        with opened_vrt(files, where) as raster:
            yield _GdalImage(raster, where, files.size_bytes)
    elif not is_tiff(files.data):
        with gdal.opened([(files.data, driver)], where) as raster:
            yield _GdalImage(raster, where, files.size_bytes)
    else:
        with opened_tiff(files.data, where) as page:
            info = check_layout(page, where)
            if is_plain(page) and not is_sparse(page):
                yield _PlainTiff(page, info, files.data, where)
            else:
                check_segments(page, files.data, where, sparse=True)
                with gdal.opened([(files.data, driver)], where) as raster:
                    yield _GdalImage(raster, where, files.size_bytes, page)


class _PlainTiff:
    """A TIFF whose bytes are stored as they are."""

    def __init__(self, page: tifffile.TiffPage, info: ImageInfo, data: bytes, where: object) -> None:
        self._page, self._data, self._where = page, data, where
        self.height, self.width = info.height, info.width
        self.kind = Kind(info.num_bands, info.dtype, _alpha(page))

    def decode(
        self, expected: Expected, limit: int, spool: Path | None = None, valid_spool: Path | None = None
    ) -> DecodedImage:
        check_kind(self.kind, self._where, expected)
        values = decode_page(self._page, self._data, self._where, limit=limit, spool=spool)
        declared = (declared_nodata(self._page),) * self.kind.num_bands
        nodata = nodata_values(expected.config, expected.bands, declared)
        valid = _collect(self._masks(values, expected, nodata), (self.height, self.width), valid_spool)
        return DecodedImage(
            values, valid, *read_georeference(self._page), plain=self._data, sentinels=_sentinels(expected, nodata)
        )

    def _masks(self, values: NDArray[Any], expected: Expected, nodata: Nodata) -> Iterator[_RowsMask]:
        """The mask, some rows at a time; nothing where the file can have none."""
        alpha = self.kind.alpha if expected.config.alpha == "mask" else 0
        masked = expected.config.nodata != "none" and has_mask(self._page.parent)
        if not masked and not alpha and any(value is None for value in nodata):
            return
        if masked:  # rare, and GDAL knows all the ways of storing one
            with gdal.opened([(self._data, "GTiff")], self._where) as raster:
                for start, end in raster.chunks():
                    of_rows = _valid(values[start:end], expected.bands, nodata, alpha)
                    yield start, end, both(of_rows, raster.mask(start, end))
            return
        rows = max(1, (32 << 20) // max(1, values.shape[1] * values.shape[2]))
        for start in range(0, self.height, rows):
            end = min(self.height, start + rows)
            yield start, end, _valid(values[start:end], expected.bands, nodata, alpha)


class _GdalImage:
    """An image that GDAL reads; `page` is its TIFF page where it is a TIFF."""

    def __init__(
        self, raster: gdal.Raster, where: object, size_bytes: int, page: tifffile.TiffPage | None = None
    ) -> None:
        self._raster, self._where, self._page = raster, where, page
        info = raster.info
        self.height, self.width = info.height, info.width
        self.kind = Kind(info.num_bands, info.dtype, info.alpha)

    def decode(
        self, expected: Expected, limit: int, spool: Path | None = None, valid_spool: Path | None = None
    ) -> DecodedImage:
        check_kind(self.kind, self._where, expected)
        conversion, info = expected.conversion, self._raster.info
        dtype = np.dtype(conversion.stored if conversion else info.dtype)
        size = self.height * self.width * self.kind.num_bands
        check_size(size * np.dtype(info.dtype).itemsize, self._where, limit)
        check_size(info.block_bytes, self._where, MAX_DECODED_BYTES)
        nodata = nodata_values(expected.config, expected.bands, info.nodata)
        unwritten = self._unwritten(nodata)
        shape = (1, 1, self.height, self.width, self.kind.num_bands)  # as tifffile has it
        out: NDArray[Any] = (
            np.empty(shape, dtype)
            if spool is None
            else np.lib.format.open_memmap(spool, mode="w+", dtype=dtype, shape=shape)
        )
        extremes = Extremes(len(expected.bands)) if self.kind.is_wide else None

        def masks() -> Iterator[_RowsMask]:
            for start, end, values, valid in self.chunks(expected, nodata, unwritten):
                if extremes is not None:
                    extremes.add(values, valid, expected.bands)
                out[0, 0, start:end] = values if conversion is None else conversion.apply(values, valid)
                yield start, end, valid

        valid = _collect(masks(), (self.height, self.width), valid_spool)
        return DecodedImage(
            out[0, 0],
            valid,
            *self._georeference(),
            None if extremes is None else extremes.values,
            None,
            _sentinels(expected, nodata),
        )

    def chunks(
        self, expected: Expected, nodata: Nodata, unwritten: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[int, int, NDArray[Any], NDArray[np.bool_] | None]]:
        """Some rows at a time: first and last + 1, (rows, W, B) values of the source, and which have data."""
        alpha = self.kind.alpha if expected.config.alpha == "mask" else 0
        masked = self._raster.has_mask and expected.config.nodata != "none"
        for start, end in self._raster.chunks():
            values = self._raster.read(start, end)
            valid = _valid(values, expected.bands, nodata, alpha)
            if masked:
                valid = both(valid, self._raster.mask(start, end))
            if unwritten is not None:
                valid = both(valid, ~unwritten[start:end])
            yield start, end, values, valid

    def measured(self, expected: Expected) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_] | None]]:
        """Values of the source and which have data, some rows at a time."""
        check_kind(self.kind, self._where, expected)
        check_size(self._raster.info.block_bytes, self._where, MAX_DECODED_BYTES)
        nodata = nodata_values(expected.config, expected.bands, self._raster.info.nodata)
        for _, _, values, valid in self.chunks(expected, nodata, self._unwritten(nodata)):
            yield values, valid

    def _georeference(self) -> Georeference:
        if self._page is not None:  # a TIFF's tags are taken over as they are
            return read_georeference(self._page)
        return self._raster.georeference()

    def _unwritten(self, nodata: Nodata) -> NDArray[np.bool_] | None:
        """(H, W), True where the parts of a sparse TIFF were never written; None where all were.

        Raises:
            DataError: it is sparse and nothing says that this means nodata: its writer may have been killed.
        """
        page = self._page
        if page is None or not is_sparse(page):
            return None
        if any(value is None for value in nodata):
            check_segments(page, b"", self._where)
        rows, columns, planes = segments(page, self._where)
        down, across = -(-self.height // rows), -(-self.width // columns)
        written = np.array(page.databytecounts, np.int64).reshape(planes, down, across).any(axis=0)
        of_rows = np.repeat(np.repeat(~written, rows, axis=0), columns, axis=1)
        return of_rows[: self.height, : self.width]


_RowsMask = tuple[int, int, NDArray[np.bool_] | None]
"""First row, last + 1, and (rows, W) which pixels have data; None where all have."""


def check_kind(kind: Kind, where: object, expected: Expected) -> None:
    """Refuse an image that is not like most of them."""
    if expected.kind is not None and not kind.is_like(expected.kind):
        problem = f"expected {expected.kind}, as in most images, found {kind}"
        raise DataError(where, problem, "all images must be alike")


class Extremes:
    """Least and largest values of the selected bands, where there is data."""

    def __init__(self, num_bands: int) -> None:
        self.values = np.array([[np.inf] * num_bands, [-np.inf] * num_bands])

    def add(self, values: NDArray[Any], valid: NDArray[np.bool_] | None, bands: tuple[int, ...]) -> None:
        """Look at some (H, W, B) values."""
        for position, band in enumerate(bands):
            chosen = values[:, :, band - 1] if valid is None else values[:, :, band - 1][valid]
            if chosen.size:
                self.values[0, position] = min(self.values[0, position], chosen.min())
                self.values[1, position] = max(self.values[1, position], chosen.max())


def widest(first: NDArray[np.float64] | None, second: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """The extremes of both; None where neither has any."""
    if first is None or second is None:
        return second if first is None else first
    return np.stack([np.minimum(first[0], second[0]), np.maximum(first[1], second[1])])


def _valid(values: NDArray[Any], bands: tuple[int, ...], nodata: Nodata, alpha: int) -> NDArray[np.bool_] | None:
    valid = valid_pixels(values, bands, nodata)
    if alpha:
        opaque = values[:, :, alpha - 1] > 0
        valid = both(valid, None if opaque.all() else opaque)
    return valid


def _collect(masks: Iterator[_RowsMask], shape: tuple[int, int], spool: Path | None) -> NDArray[np.bool_] | None:
    """The whole mask, in an .npy file where there is one; None where all pixels have data."""
    whole: NDArray[np.bool_] | None = None
    for start, end, mask in masks:
        if mask is None or mask.all():
            continue
        if whole is None:
            whole = (
                np.empty(shape, np.bool_)
                if spool is None
                else np.lib.format.open_memmap(spool, mode="w+", dtype=np.bool_, shape=shape)
            )
            whole[:] = True
        whole[start:end] = mask
    return whole


def _sentinels(expected: Expected, nodata: Nodata) -> tuple[tuple[int, int], ...]:
    """See :class:`DecodedImage`. Of 8 bits there are none: 0 in a single band is a dark value."""
    kind, conversion = expected.kind, expected.conversion
    if kind is None or kind.dtype not in ("uint16", "int16"):
        return ()
    levels = [
        (band, int(value - (conversion.first[band - 1] if conversion else 0)))
        for band, value in zip(expected.bands, nodata, strict=True)
        if value is not None and float(value).is_integer()
    ]
    return tuple((band, level) for band, level in levels if 0 <= level <= np.iinfo(np.uint16).max)


def _alpha(page: tifffile.TiffPage) -> int:
    """1-based number of the band that is alpha by its tag; 0 without one."""
    extra = tuple(int(sample) for sample in page.extrasamples)
    first = page.samplesperpixel - len(extra) + 1
    return next((first + index for index, sample in enumerate(extra) if sample in _ALPHA_SAMPLES), 0)
