"""An image that GDAL has opened: what its header says, its values, its mask and its place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.raw.dataset_yaml import MAX_BANDS
from landseg.raw.georeference.crs import keys_of
from landseg.raw.georeference.tags import Georeference
from landseg.raw.images.gdal import confined, damage_is_reported

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_LOSSY_DRIVERS = {"JPEG": "JPEG", "WEBP": "WEBP", "JP2OpenJPEG": "JPEG2000", "": "JXL"}
_CHUNK_BYTES = 32 << 20
_UNSUPPORTED = {"palette": "palette", "cyan": "CMYK", "Y": "YCbCr", "hue": "HSL"}


class RasterInfo(NamedTuple):
    """What the header of an image says.

    Attributes:
        height, width: in pixels.
        num_bands: bands, an alpha channel included.
        dtype: NumPy's name of the values' type.
        alpha: 1-based number of the band that is alpha by its tag; 0 without one.
        nodata: per band, the declared value of pixels without data; None where none is declared.
        block_bytes: what must be decoded at once, per band.
    """

    height: int
    width: int
    num_bands: int
    dtype: str
    alpha: int
    nodata: tuple[float | None, ...]
    block_bytes: int = 0


class Raster:
    """An open image: one dataset, or several whose bands follow each other."""

    def __init__(self, datasets: Sequence[DatasetReader], where: object) -> None:
        self._datasets, self._where = datasets, where
        self.info = _info(datasets, where)
        self.has_mask = any(_has_mask(dataset) for dataset in datasets)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows that are read at once: whole blocks, of some megabytes unless a block is larger."""
        block = max(int(dataset.block_shapes[0][0]) for dataset in self._datasets)
        row_bytes = self.info.width * self.info.num_bands * np.dtype(self.info.dtype).itemsize
        rows = max(1, _CHUNK_BYTES // row_bytes // block) * block
        for start in range(0, self.info.height, rows):
            yield start, min(self.info.height, start + rows)

    def read(self, start: int, end: int) -> NDArray[Any]:
        """Rows `start` to `end`: (end - start, W, B) of the file's type."""
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
        with damage_is_reported(self._where):
            for dataset in self._datasets:
                if _has_mask(dataset):
                    valid &= dataset.read_masks(1, window=((start, end), (0, self.info.width))) > 0
        return valid

    def georeference(self) -> Georeference:
        """Where the image lies, as the file says."""
        dataset = self._datasets[0]
        with damage_is_reported(self._where):
            a, b, c, d, e, f = tuple(dataset.transform)[:6]
            crs = keys_of(dataset.crs) if dataset.crs else None
        return Georeference(None if dataset.transform.is_identity else (a, b, c, d, e, f), crs)


@contextlib.contextmanager
def opened_raster(files: Sequence[tuple[bytes, str]], where: object) -> Iterator[Raster]:
    """Open an image.

    Args:
        files: bytes and driver of each file whose bands make up the image.
        where: the image, for the error line.

    Raises:
        DataError: damaged, or of a kind that is not supported.
    """
    with contextlib.ExitStack() as stack:
        rasterio = stack.enter_context(confined())
        datasets = []
        with damage_is_reported(where):
            for data, driver in files:
                memory = stack.enter_context(rasterio.MemoryFile(data, ext=".dat"))
                datasets.append(stack.enter_context(memory.open(driver=driver, sharing=False)))
            raster = Raster(datasets, where)
        yield raster


def _info(datasets: Sequence[DatasetReader], where: object) -> RasterInfo:
    first = datasets[0]
    num_bands = sum(dataset.count for dataset in datasets)
    if not 1 <= num_bands <= MAX_BANDS:
        raise DataError(where, f"expected 1 to {MAX_BANDS} bands, found {num_bands}")
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
        # A TIFF's colours are checked by its tags: to GDAL, one of a single bit has a palette of black and white.
        if colour in _UNSUPPORTED and not (colour == "palette" and first.driver == "GTiff"):
            hint = "expand it to RGB: gdal_translate -expand rgb does" if colour == "palette" else "write it as RGB"
            raise DataError(where, f"expected band values, found {_UNSUPPORTED[colour]} colours", hint)
    block = max(rows * columns for dataset in datasets for rows, columns in dataset.block_shapes)
    return RasterInfo(
        first.height,
        first.width,
        num_bands,
        dtypes[0],
        colours.index("alpha") + 1 if "alpha" in colours else 0,
        tuple(value for dataset in datasets for value in dataset.nodatavals),
        int(block) * np.dtype(dtypes[0]).itemsize,
    )


def _has_mask(dataset: DatasetReader) -> bool:
    """Whether the file has a mask of its own: neither made from nodata values nor alpha."""
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    return "per_dataset" in flags and "alpha" not in flags


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
    colours = dataset.colormap(1)
    return np.array([colours.get(index, (0, 0, 0))[:3] for index in range(max(colours) + 1)], np.uint8)
