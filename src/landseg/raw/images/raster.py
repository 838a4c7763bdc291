"""An image that GDAL has opened: what its header says, its values, its mask and its place."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.raw.config.fields import MAX_BANDS
from landseg.raw.georeference.crs import control_points_of, keys_of, rpc_of
from landseg.raw.georeference.tags import Georeference
from landseg.raw.images.band_tags import BandTags, tags_of_datasets
from landseg.raw.images.formats import check_one_image, check_whole
from landseg.raw.images.gdal import check_file, confined, damage_is_reported
from landseg.raw.tiff.checks import too_many_bands

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_LOSSY_DRIVERS = {"JPEG": "JPEG", "WEBP": "WEBP", "JP2OpenJPEG": "JPEG2000", "": "JXL"}
_CHUNK_BYTES = 32 << 20
_AS_RGB = "write it as RGB"
_UNSUPPORTED = {"cyan": "CMYK", "Y": "YCbCr", "hue": "HSL"}


class RasterInfo(NamedTuple):
    """What the header of an image says.

    Attributes:
        height, width: in pixels.
        num_bands: bands, an alpha channel included.
        dtype: NumPy's name of the values' type.
        alpha: 1-based number of the band that is alpha by its tag; 0 without one.
        nodata: per band, the declared value of pixels without data; None where none is declared.
        block_bytes: what must be decoded at once, per band.
        tags: what the file says of its bands.
    """

    height: int
    width: int
    num_bands: int
    dtype: str
    alpha: int
    nodata: tuple[float | None, ...]
    block_bytes: int = 0
    tags: BandTags = BandTags()


class Raster:
    """An open image: one dataset, or several whose bands follow each other.

    Attributes:
        info: what the header says. An image with a palette has red, green and blue.
        has_mask: whether the file tells which pixels have data.
        is_expanded: whether the colours of a palette take the place of the indexes.
    """

    def __init__(self, datasets: Sequence[DatasetReader], where: object, *, has_palette: bool) -> None:
        self._datasets, self._where = datasets, where
        self._palette = _palette_rgba(datasets, where) if has_palette else None
        self.is_expanded = self._palette is not None
        self.info = _info(datasets, where)
        self.has_mask = any(has_own_mask(dataset) for dataset in datasets)
        if self._palette is not None:
            self.info = self.info._replace(num_bands=3, dtype="uint8", nodata=(None,) * 3, tags=BandTags())
            self.has_mask = self.has_mask or bool((self._palette[:, 3] == 0).any())

    @property
    def first(self) -> DatasetReader:
        """What GDAL has opened: the only file, or that of the first bands."""
        return self._datasets[0]

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows that are read at once: whole blocks, of some megabytes unless a block is larger."""
        block = max(int(dataset.block_shapes[0][0]) for dataset in self._datasets)
        row_bytes = self.info.width * self.info.num_bands * np.dtype(self.info.dtype).itemsize
        rows = max(1, _CHUNK_BYTES // row_bytes // block) * block
        for start in range(0, self.info.height, rows):
            yield start, min(self.info.height, start + rows)

    def read(self, start: int, end: int) -> NDArray[Any]:
        """Rows `start` to `end`: (end - start, W, B) of the file's type."""
        if self._palette is not None:
            return self._colours(start, end)[:, :, :3]
        out = np.empty((end - start, self.info.width, self.info.num_bands), self.info.dtype)
        with damage_is_reported(self._where):
            band = 0
            for dataset in self._datasets:
                values = dataset.read(window=((start, end), (0, self.info.width)))
                out[:, :, band : band + len(values)] = values.transpose(1, 2, 0)
                band += len(values)
        return out

    def mask(self, start: int, end: int) -> NDArray[np.bool_]:
        """Rows `start` to `end` of the mask that comes with the image: (end - start, W), True where there is data."""
        valid = np.ones((end - start, self.info.width), np.bool_)
        if self._palette is not None:
            valid &= self._colours(start, end)[:, :, 3] > 0
        with damage_is_reported(self._where):
            for dataset in self._datasets:
                if has_own_mask(dataset):
                    valid &= dataset.read_masks(1, window=((start, end), (0, self.info.width))) > 0
        return valid

    def _colours(self, start: int, end: int) -> NDArray[np.uint8]:
        """Rows `start` to `end`: (end - start, W, 4) colours and alpha of the indexes."""
        assert self._palette is not None, "there is a palette"
        with damage_is_reported(self._where):
            indexes = self._datasets[0].read(1, window=((start, end), (0, self.info.width)))
            colours: NDArray[np.uint8] = self._palette[indexes]
        return colours

    def georeference(self) -> Georeference:
        """Where the image lies, as the file says."""
        dataset = self._datasets[0]
        if dataset.driver == "PNM":  # has none, and rasterio then gives whatever memory holds
            return Georeference()
        with damage_is_reported(self._where):
            a, b, c, d, e, f = tuple(dataset.transform)[:6]
            crs = keys_of(dataset.crs) if dataset.crs else None
            points, points_crs = control_points_of(dataset)
            rpc = () if points else rpc_of(dataset)
        if dataset.transform.is_identity:
            return Georeference(None, crs or points_crs, points, rpc)
        return Georeference((a, b, c, d, e, f), crs)


@contextlib.contextmanager
def opened_raster(
    files: Sequence[tuple[bytes | Path, str]],
    where: object,
    *,
    has_palette: bool | None = None,
    headers: Sequence[bytes] = (),
) -> Iterator[Raster]:
    """Open an image.

    Args:
        files: bytes or path, and driver, of each file whose bands make up the image.
        where: the image, for the error line.
        has_palette: whether its values are indexes of a palette; None: as GDAL says. To GDAL, a TIFF of a single bit
            has a palette of black and white.
        headers: the bytes of each file's header, where that is a file of its own, else empty; of a path, it lies next
            to it.

    Raises:
        DataError: damaged, or of a kind that is not supported.
    """
    with contextlib.ExitStack() as stack:
        rasterio = stack.enter_context(confined())
        datasets = []
        with damage_is_reported(where):
            for number, (data, driver) in enumerate(files):
                header = headers[number] if headers else b""
                opened = stack.enter_context(_opened(stack, rasterio, data, driver, where, header))
                datasets.append(opened)
                shape = (opened.height, opened.width, opened.count)
                item_bytes = max((np.dtype(dtype).itemsize for dtype in opened.dtypes), default=0)
                size = data.stat().st_size if isinstance(data, Path) else len(data)
                check_whole(_start(data), size, driver, header, shape, item_bytes, where)
            if has_palette is None:
                has_palette = any(_is_palette(dataset) and dataset.driver != "GTiff" for dataset in datasets)
            raster = Raster(datasets, where, has_palette=has_palette)
        yield raster


def _opened(
    stack: contextlib.ExitStack, rasterio: Any, data: bytes | Path, driver: str, where: object, header: bytes
) -> DatasetReader:
    """One file, alone or with its header, in a folder that nothing else is in unless it lies on disk."""
    if header:  # the header is then found by its name
        stack.enter_context(rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE"))
    if isinstance(data, Path):
        check_file(data, where)
        return rasterio.open(data, driver=driver, sharing=False)
    check_one_image(data, driver, where)
    folder = uuid.uuid4().hex
    if header:
        stack.enter_context(rasterio.MemoryFile(header, dirname=folder, filename="0.hdr"))
    memory = stack.enter_context(rasterio.MemoryFile(data, dirname=folder, filename="0.dat"))
    return memory.open(driver=driver, sharing=False)


def _start(data: bytes | Path) -> bytes:
    """The first bytes of a file."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            return file.read(4096)
    return data[:4096]


def _info(datasets: Sequence[DatasetReader], where: object) -> RasterInfo:
    first = datasets[0]
    num_bands = sum(dataset.count for dataset in datasets)
    if not 1 <= num_bands <= MAX_BANDS:
        raise too_many_bands(num_bands, where)
    sizes = {(dataset.height, dataset.width) for dataset in datasets}
    if len(sizes) > 1:
        found = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise DataError(where, f"expected bands of one size, found {found} px", "resample them to one grid first")
    dtypes = sorted({str(dtype) for dataset in datasets for dtype in dataset.dtypes})
    if len(dtypes) > 1:
        raise DataError(where, f"expected bands of one type, found {', '.join(dtypes)}", "convert them to one type")
    if "complex" in dtypes[0]:
        raise DataError(where, f"expected real values, found {dtypes[0]}", "store amplitude or intensity")
    colours = [colour.name for dataset in datasets for colour in dataset.colorinterp]
    for colour in colours:
        if colour in _UNSUPPORTED:
            raise DataError(where, f"expected band values, found {_UNSUPPORTED[colour]} colours", _AS_RGB)
    block = max(rows * columns for dataset in datasets for rows, columns in dataset.block_shapes)
    return RasterInfo(
        first.height,
        first.width,
        num_bands,
        dtypes[0],
        colours.index("alpha") + 1 if "alpha" in colours else 0,
        tuple(value for dataset in datasets for value in dataset.nodatavals),
        int(block) * np.dtype(dtypes[0]).itemsize,
        tags_of_datasets(datasets),
    )


def has_own_mask(dataset: DatasetReader) -> bool:
    """Whether the file has a mask of its own: neither made from nodata values nor alpha."""
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    return "per_dataset" in flags and "alpha" not in flags


def _is_palette(dataset: DatasetReader) -> bool:
    return any(colour.name == "palette" for colour in dataset.colorinterp)


def _palette_rgba(datasets: Sequence[DatasetReader], where: object) -> NDArray[np.uint8]:
    """(N, 4) colours and alpha of the indexes."""
    dtypes = [dtype for dataset in datasets for dtype in dataset.dtypes]
    if len(dtypes) > 1 or dtypes[0] not in ("uint8", "uint16"):
        found = f"{len(dtypes)} of {' and '.join(sorted(set(dtypes)))}"
        raise DataError(where, f"expected one band of indexes with a palette, uint8 or uint16, found {found}", _AS_RGB)
    return _colour_table(datasets[0])


def _colour_table(dataset: DatasetReader) -> NDArray[np.uint8]:
    """(N, 4) red, green, blue and alpha of the indexes; those that the palette leaves out are black."""
    colours = dataset.colormap(1)
    return np.array([colours.get(index, (0, 0, 0, 255)) for index in range(max(colours) + 1)], np.uint8)


def lossy_compression(dataset: DatasetReader) -> str:
    """The name of a compression that changed values; "" for one that did not."""
    tags = dataset.tags(ns="IMAGE_STRUCTURE")
    compression = tags.get("COMPRESSION", _LOSSY_DRIVERS.get(dataset.driver, "")).upper()
    if tags.get("COMPRESSION_REVERSIBILITY", "").startswith("LOSSLESS"):
        return ""
    if compression.startswith("LERC"):
        return compression if float(tags.get("MAX_Z_ERROR", 0)) >= 1 else ""
    return compression if any(name in compression for name in _LOSSY_DRIVERS.values()) else ""


def palette_of(dataset: DatasetReader) -> NDArray[np.uint8] | None:
    """(N, 3) colours of the indexes that a file of one band holds; None for other values."""
    if [colour.name for colour in dataset.colorinterp] != ["palette"]:
        return None
    return _colour_table(dataset)[:, :3]
