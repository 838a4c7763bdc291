"""Readers of images: of plain TIFFs, whose bytes are stored, and of everything else, through GDAL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from landseg.raw.expected import Expected, check_kind
from landseg.raw.georeference.tags import Georeference, read_georeference
from landseg.raw.images.band_tags import BandTags, tags_of_page, tags_of_sidecars
from landseg.raw.images.decoded import DecodedImage, Extremes
from landseg.raw.images.pam import sidecar_nodata
from landseg.raw.images.raster import Raster, opened_raster
from landseg.raw.images.validity import Nodata, both, nodata_values, valid_pixels
from landseg.raw.images.values import Kind
from landseg.raw.sources.files import ImageFiles
from landseg.raw.tiff.checks import (
    MAX_DECODED_BYTES,
    ImageInfo,
    check_segments,
    check_size,
    declared_nodata,
    has_mask,
    is_sparse,
    segments,
)
from landseg.raw.tiff.decoding import decode_page

_ALPHA_SAMPLES = (1, 2)
_RowsMask = tuple[int, int, NDArray[np.bool_] | None]
"""First row, last + 1, and (rows, W) which pixels have data; None where all have."""


class PlainTiff:
    """A TIFF whose bytes are stored as they are."""

    is_expanded = False

    def __init__(self, page: tifffile.TiffPage, info: ImageInfo, files: ImageFiles, where: object) -> None:
        self.page, self._files, self._where = page, files, where
        self.height, self.width = info.height, info.width
        tags = _with_sidecar_tags(tags_of_page(page, info.num_bands), info.num_bands, files)
        self.kind = Kind(info.num_bands, info.dtype, _alpha(page), tags)

    def decode(
        self, expected: Expected, limit: int, spool: Path | None = None, valid_spool: Path | None = None
    ) -> DecodedImage:
        """The image as it is stored; in .npy files, which values and mask then map, if there are any.

        Raises:
            DataError: not like most images, damaged, or decoded larger than `limit` bytes.
        """
        check_kind(self.kind, self._where, expected)
        values = decode_page(self.page, self._files.data, self._where, limit=limit, spool=spool)
        own = (declared_nodata(self.page),) * self.kind.num_bands
        declared = _with_sidecar_nodata(own, self._files)
        nodata = nodata_values(expected.config, expected.bands, declared)
        valid = _collect(self._masks(values, expected, nodata), (self.height, self.width), valid_spool)
        return DecodedImage(
            values, valid, *read_georeference(self.page), plain=self._files.data, sentinels=_sentinels(expected, nodata)
        )

    def _masks(self, values: NDArray[Any], expected: Expected, nodata: Nodata) -> Iterator[_RowsMask]:
        """The mask, some rows at a time; nothing where the file can have none."""
        alpha = self.kind.alpha if expected.config.alpha == "mask" else 0
        masked = expected.config.nodata != "none" and has_mask(self.page.parent)
        if not masked and not alpha and any(value is None for value in nodata):
            return
        if masked:  # rare, and GDAL knows all the ways of storing one
            with opened_raster([(self._files.contents[0], "GTiff")], self._where) as raster:
                for start, end in raster.chunks():
                    of_rows = _valid(values[start:end], expected.bands, nodata, alpha)
                    yield start, end, both(of_rows, raster.mask(start, end))
            return
        rows = max(1, (32 << 20) // max(1, values.shape[1] * values.shape[2]))
        for start in range(0, self.height, rows):
            end = min(self.height, start + rows)
            yield start, end, _valid(values[start:end], expected.bands, nodata, alpha)


class GdalImage:
    """An image that GDAL reads; `page` is its TIFF page where it is a TIFF."""

    def __init__(self, raster: Raster, where: object, files: ImageFiles, page: tifffile.TiffPage | None = None) -> None:
        self._raster, self._where, self.page = raster, where, page
        info = raster.info
        self._declared = info.nodata if raster.is_expanded else _with_sidecar_nodata(info.nodata, files)
        self.height, self.width = info.height, info.width
        tags = info.tags if raster.is_expanded else _with_sidecar_tags(info.tags, info.num_bands, files)
        self.kind = Kind(info.num_bands, info.dtype, info.alpha, tags)
        self.is_expanded = raster.is_expanded

    def decode(
        self, expected: Expected, limit: int, spool: Path | None = None, valid_spool: Path | None = None
    ) -> DecodedImage:
        """The image as it is stored; in .npy files, which values and mask then map, if there are any.

        Raises:
            DataError: not like most images, damaged, or decoded larger than `limit` bytes.
        """
        check_kind(self.kind, self._where, expected)
        conversion, info = expected.conversion, self._raster.info
        dtype = np.dtype(conversion.stored if conversion else info.dtype)
        size = self.height * self.width * self.kind.num_bands
        check_size(size * np.dtype(info.dtype).itemsize, self._where, limit)
        check_size(info.block_bytes, self._where, MAX_DECODED_BYTES)
        nodata = nodata_values(expected.config, expected.bands, self._declared)
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
        nodata = nodata_values(expected.config, expected.bands, self._declared)
        for _, _, values, valid in self.chunks(expected, nodata, self._unwritten(nodata)):
            yield values, valid

    def _georeference(self) -> Georeference:
        if self.page is not None:  # a TIFF's tags are taken over as they are
            return read_georeference(self.page)
        return self._raster.georeference()

    def _unwritten(self, nodata: Nodata) -> NDArray[np.bool_] | None:
        """(H, W), True where the parts of a sparse TIFF were never written; None where all were.

        Raises:
            DataError: it is sparse and nothing says that this means nodata: its writer may have been killed.
        """
        page = self.page
        if page is None or not is_sparse(page):
            return None
        if any(value is None for value in nodata):
            check_segments(page, b"", self._where)
        rows, columns, planes = segments(page, self._where)
        down, across = -(-self.height // rows), -(-self.width // columns)
        written = np.array(page.databytecounts, np.int64).reshape(planes, down, across).any(axis=0)
        of_rows = np.repeat(np.repeat(~written, rows, axis=0), columns, axis=1)
        return of_rows[: self.height, : self.width]


def _with_sidecar_nodata(own: Nodata, files: ImageFiles) -> Nodata:
    """The nodata value of each band: what an image's file declares, else what an .aux.xml next to it does."""
    beside = {} if files.bands else sidecar_nodata(files.sidecars)
    return tuple(beside.get(band) if value is None else value for band, value in enumerate(own, 1))


def _with_sidecar_tags(own: BandTags, num_bands: int, files: ImageFiles) -> BandTags:
    """What an image's file and an .aux.xml next to it say of its bands."""
    return own if files.bands or not files.sidecars else own.joined(tags_of_sidecars(files.sidecars, num_bands))


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
