"""A label as its file stores it, made from bands: values, indexes into a palette, or colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.raw.commands import file_name, python_command

_ROUNDING = 1e-3
_SHOWN = 8


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
        orientation: how a viewer turns or mirrors it (TIFF's tag 274); 1 as it is stored.
    """

    values: NDArray[Any]
    kind: Literal["values", "indexes", "colours"]
    is_plain: bool = False
    palette: NDArray[np.uint8] | None = None
    no_data: NDArray[np.bool_] | None = None
    nodata: float | None = None
    is_cut: bool = False
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.values.shape[0], self.values.shape[1]


def packed_colours(colours: NDArray[Any]) -> NDArray[np.uint32]:
    """(H, W, 3) colours of 0-255 as (H, W) 0xRRGGBB."""
    packed = np.zeros(colours.shape[:2], np.uint32)
    for band in range(3):
        packed <<= 8
        packed |= colours[:, :, band]
    return packed


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
    if bands > 1 and _is_one_hot(values):
        raise _one_hot(bands, where)
    has_alpha = has_alpha and bands in (2, 4)
    if (bands not in (1, 3, 4) and not has_alpha) or (bands >= 3 and dtype.kind != "u") or dtype.kind not in "biuf":
        problem = f"expected a label with 1 band of class values, or RGB, found {bands} bands of {dtype}"
        raise DataError(where, problem, "store one class value per pixel")
    no_data = joined_masks(transparent_px(values[:, :, -1] if has_alpha else None, where), outside)
    if bands >= 3:
        return StoredLabel(packed_8_bit(values[:, :, :3], where), "colours", no_data=no_data)
    stored = values[:, :, 0]
    if dtype.kind == "f":
        stored, nan = _whole(stored, where)
        no_data = joined_masks(no_data, nan)
    stored = stored.astype(np.uint8) if dtype.kind == "b" else stored
    return StoredLabel(stored, "values" if palette is None else "indexes", palette=palette, no_data=no_data)


def _is_one_hot(values: NDArray[Any]) -> bool:
    """Whether each class has a band of its own, in which its pixels are 1: pure colours have 255 in its place."""
    if values.shape[2] in (2, 3) and np.asarray(values.max(initial=0)) != 1:
        return False
    is_set = values != 0
    if np.count_nonzero(is_set.any(axis=(0, 1))) < 2:  # black, and opaque
        return False
    return bool((is_set.sum(axis=2, dtype=np.uint16) == 1).all()) and len(np.unique(values[is_set])) == 1


def _one_hot(bands: int, where: object) -> DataError:
    name = file_name(where)
    call = 'Image.fromarray(rasterio.open(sys.argv[1]).read().argmax(0).astype("uint8")).save(sys.argv[2])'
    code = f"import rasterio, sys; from PIL import Image; {call}"
    command = python_command(code, name, f"{name.rpartition('.')[0]}.png")
    problem = f"expected one class value per pixel, found {bands} bands of which one is set in each pixel (one-hot)"
    return DataError(where, problem, f"write the numbers of the bands, from 0, and move this one out: {command}")


def joined_masks(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Where either of two masks is True; None stands for one that is nowhere."""
    return other if one is None else one if other is None else one | other


def transparent_px(alpha: NDArray[Any] | None, where: object) -> NDArray[np.bool_] | None:
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


def packed_8_bit(colours: NDArray[Any], where: object) -> NDArray[np.uint32]:
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
        hint = _divided(values[~nan]) or "store one class value per pixel, without interpolation"
        raise DataError(where, problem, hint)
    return whole, nan if nan.any() else None


def _divided(values: NDArray[Any]) -> str:
    """What to do about class values that were divided by 255, as programs do with images; "" of others."""
    whole = np.rint(values * 255.0)
    is_divided = bool(np.isfinite(values).all()) and np.abs(values * 255.0 - whole).max() < _ROUNDING
    if not is_divided or not (whole.min() >= 0 and whole.max() <= 255):
        return ""
    found = ", ".join(str(int(value)) for value in np.unique(whole)[:_SHOWN])
    return f"these are class values divided by 255: store {found} in their place, which times 255 makes of them"
