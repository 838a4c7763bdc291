"""Which pixels of an image have data: by its declared nodata value, by its mask, and by alpha where asked for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landseg.contracts.errors import DataError
from landseg.raw.config.dataset_yaml import DatasetConfig

Nodata = tuple[float | None, ...]


def nodata_values(config: DatasetConfig, bands: Sequence[int], declared: Nodata) -> Nodata:
    """The nodata value of each selected band, None where there is none: `dataset.yaml`'s, else the file's."""
    if config.nodata == "none":
        return (None,) * len(bands)
    if config.nodata is None:
        return tuple(declared[band - 1] if band <= len(declared) else None for band in bands)
    values = config.nodata if isinstance(config.nodata, tuple) else (config.nodata,)
    return tuple(values) * (len(bands) if len(values) == 1 else 1)


def valid_pixels(values: NDArray[Any], bands: Sequence[int], nodata: Nodata) -> NDArray[np.bool_] | None:
    """Which pixels have data.

    Integers: a pixel has none where every selected band holds its nodata value, as 0 in a single band of an 8-bit image
    is a dark value. Floats: where any selected band holds it, or no finite number.

    Args:
        values: (H, W, B) as in the file.
        bands: selected, 1-based.
        nodata: one value per selected band, None without one.

    Returns:
        (H, W), True where there is data; None where all have.
    """
    is_float = values.dtype.kind == "f"
    if not is_float and any(value is None for value in nodata):
        return None
    invalid: NDArray[np.bool_] | None = None
    for band, value in zip(bands, nodata, strict=True):
        of_band = values[:, :, band - 1]
        missing = _equal(of_band, value)
        if is_float:
            missing = ~np.isfinite(of_band) if missing is None else missing | ~np.isfinite(of_band)
            invalid = missing if invalid is None else invalid | missing
        elif missing is None:
            return None  # a value that the type does not have
        else:
            invalid = missing if invalid is None else invalid & missing
        if not is_float and not invalid.any():
            return None
    return None if invalid is None or not invalid.any() else ~invalid


def _equal(values: NDArray[Any], value: float | None) -> NDArray[np.bool_] | None:
    """Where an array holds a value, which is compared in the array's own type; None where it cannot."""
    if value is None:
        return None
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.asarray(values == values.dtype.type(value))
    limits = np.iinfo(values.dtype)
    if not limits.min <= value <= limits.max or value != int(value):
        return None
    return np.asarray(values == values.dtype.type(int(value)))


def both(first: NDArray[np.bool_] | None, second: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Pixels that are valid in both masks, None meaning all."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def encode_mask(valid: NDArray[np.bool_]) -> bytes:
    """A mask as a 1-bit PNG: 0 where there is no data."""
    buffer = io.BytesIO()
    Image.fromarray(valid).save(buffer, "PNG")
    return buffer.getvalue()


def decode_mask(data: bytes | memoryview, size: tuple[int, int], where: object) -> NDArray[np.bool_]:
    """The mask that :func:`encode_mask` wrote, of the given (height, width).

    Raises:
        DataError: damaged, or of another size.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size == (size[1], size[0]) and image.mode == "1":
                return np.asarray(image)
    except Exception as err:  # whatever Pillow raises on damaged bytes, the file is at fault
        raise DataError(where, "the mask is truncated or damaged", "stage the dataset again") from err
    raise DataError(where, f"expected a 1-bit mask of {size[0]}x{size[1]} px, found another", "stage the dataset again")
