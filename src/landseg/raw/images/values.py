"""Values of images and how they are stored: 8 and 16 bits exactly, wider ones as `dataset.yaml`'s scale says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import Scale, SourceValues
from landseg.raw.images.band_tags import BandTags

_STORED = {"uint8": "uint8", "int8": "uint8", "uint16": "uint16", "int16": "uint16"}
_LEVELS = 65535


class Kind(NamedTuple):
    """What all images of a dataset share.

    Attributes:
        num_bands: bands.
        dtype: NumPy's name of the files' values.
        alpha: 1-based number of the band that is alpha by its tag; 0 without one.
        tags: what they say of their bands.
    """

    num_bands: int
    dtype: str
    alpha: int = 0
    tags: BandTags = BandTags()

    def __str__(self) -> str:
        return f"{self.num_bands} band{'s' if self.num_bands > 1 else ''} of {self.dtype}"

    @property
    def is_wide(self) -> bool:
        """Whether 16 bits do not hold the values, so that storing them takes a scale."""
        return self.dtype not in _STORED

    def is_like(self, other: Kind) -> bool:
        """Whether an image of the other kind fits in; what its bands are called makes no difference."""
        return (self.num_bands, self.dtype) == (other.num_bands, other.dtype)


@dataclass(frozen=True)
class Conversion:
    """How the values of the source are stored: `stored = (value - first) / step`, rounded, clipped to 16 bits.

    Only what a scale clips anyway is ever clipped: integers of 8 and 16 bits are stored exactly.

    Attributes:
        source: type of the source's values.
        stored: `uint8` or `uint16`.
        first, step: per band in the file's order; a step of 0 marks a band that is not selected and so not stored.
    """

    source: str
    stored: str
    first: tuple[float, ...]
    step: tuple[float, ...]

    @classmethod
    def of(cls, kind: Kind, bands: tuple[int, ...], scale: Scale | None) -> Conversion | None:
        """The conversion of a dataset's images; None where values are stored as they are.

        Args:
            kind: of the images.
            bands: selected, 1-based.
            scale: of the selected bands, in the images' values; wide values need one.
        """
        if not kind.is_wide:
            if not kind.dtype.startswith("int"):
                return None
            least = float(np.iinfo(kind.dtype).min)
            return cls(kind.dtype, _STORED[kind.dtype], (least,) * kind.num_bands, (1.0,) * kind.num_bands)
        assert scale is not None, "wide values need a scale"
        first, step = [0.0] * kind.num_bands, [0.0] * kind.num_bands
        for band, low, high in zip(bands, scale.low, scale.high, strict=True):
            # Integers whose range fits into 16 bits are stored exactly.
            is_exact = "int" in kind.dtype and low.is_integer() and high - low <= _LEVELS
            first[band - 1], step[band - 1] = low, 1.0 if is_exact else (high - low) / _LEVELS
        return cls(kind.dtype, "uint16", tuple(first), tuple(step))

    def apply(self, values: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Stored values of an (H, W, B) array; 0 where there is no data."""
        out = np.zeros(values.shape, self.stored)
        for band, (first, step) in enumerate(zip(self.first, self.step, strict=True)):
            if not step:
                continue
            source = values[:, :, band]
            if source.dtype.itemsize <= 2 and source.dtype.kind == "i":  # exact
                out[:, :, band] = source.astype(np.int32) - np.int32(first)
                continue
            levels = (source.astype(np.float64) - first) / step
            if valid is not None:
                levels[~valid] = 0
            out[:, :, band] = np.floor(np.clip(levels, 0, _LEVELS) + 0.5)
        if valid is not None:
            out[~valid] = 0
        return out

    @property
    def record(self) -> SourceValues:
        """What the manifest says about it, which also turns scales into stored values and back."""
        return SourceValues(dtype=self.source, first=self.first, step=self.step)
