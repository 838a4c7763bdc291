"""An image as it is stored, and the extremes of its values before that."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.tile import ControlPoint, GeoKeys
from landseg.raw.georeference.tags import Transform
from landseg.raw.images.remarks import Remark
from landseg.raw.tiff.encoding import encode_image


class DecodedImage(NamedTuple):
    """An image as it is stored.

    Attributes:
        values: (H, W, B) uint8 or uint16, all bands in the file's order, as stored.
        valid: (H, W), True where there is data; None where all pixels have data.
        transform: see :class:`landseg.contracts.tile.Geo`; None where the file has none.
        crs: the coordinate reference system; None where the file names none.
        control_points: see :class:`landseg.contracts.tile.ControlPoints`; empty next to a transform.
        rpc: see :class:`landseg.contracts.tile.Rpc`; empty next to a transform or control points.
        extremes: (2, selected bands) least and largest value in the source's units, of wide values; else None.
        plain: the file's bytes where they are stored as they are; None where the values are written anew.
        sentinels: (band, stored value) of nodata values of 16 bits, which a pixel with data may hold in some bands.
        remarks: what to know about where it lies and how it is turned.
        orientation: how a viewer turns or mirrors it (TIFF's tag 274); 1 as it is stored.
    """

    values: NDArray[Any]
    valid: NDArray[np.bool_] | None
    transform: Transform | None
    crs: GeoKeys | None
    control_points: tuple[ControlPoint, ...] = ()
    rpc: tuple[float, ...] = ()
    extremes: NDArray[np.float64] | None = None
    plain: bytes | memoryview | None = None
    sentinels: tuple[tuple[int, int], ...] = ()
    remarks: tuple[Remark, ...] = ()
    orientation: int = 1

    def encoded(self) -> bytes:
        """The bytes to store."""
        return encode_image(self.values, self.transform, self.crs) if self.plain is None else bytes(self.plain)


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
