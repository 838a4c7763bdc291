"""Tiles after their checks: facts, bytes and values of good ones, errors of bad ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.errors import DataError
from landseg.contracts.tile import ControlPoint, GeoKeys, SceneWindow
from landseg.raw.georeference.tags import Transform
from landseg.raw.images.decoded import widest
from landseg.raw.images.remarks import Remark
from landseg.raw.images.values import Kind
from landseg.raw.labels.rule import UsedColours
from landseg.raw.layout.source_tiles import SourceTile


@dataclass(frozen=True)
class TileFacts:
    """The facts of a good tile.

    Attributes:
        height, width: in pixels.
        kind: bands and type.
        image_sha256, label_sha256: of the bytes to stage.
        source_image_sha256, source_label_sha256: of the source's file where the bytes to stage are others: transcoded.
        band_sums, band_squares: exact sums over pixels with data of the stored values and their squares, per band in
            file order.
        label_counts: (stored label value, pixels) by value; empty where unlabelled.
        unused_labels: the same of the pixels that are labelled in the source although they have no data.
        num_valid_px: pixels that have data.
        transform, crs, control_points, rpc: the georeference.
        scene: the window of the scene it was cut from.
    """

    height: int
    width: int
    kind: Kind
    image_sha256: str
    label_sha256: str | None
    band_sums: tuple[int, ...]
    band_squares: tuple[int, ...]
    label_counts: tuple[tuple[int, int], ...]
    transform: Transform | None
    crs: GeoKeys | None
    scene: SceneWindow | None = None
    source_image_sha256: str | None = None
    source_label_sha256: str | None = None
    unused_labels: tuple[tuple[int, int], ...] = ()
    num_valid_px: int = 0
    control_points: tuple[ControlPoint, ...] = ()
    rpc: tuple[float, ...] = ()


@dataclass(frozen=True)
class CheckedTile:
    """A tile after its check: the bytes and facts of a good one, the errors of a bad one.

    A scene has neither: it is cut first. `valid` is the mask of the pixels that have data, None where all have.
    `num_no_value_px` counts label pixels that are transparent or not a number, `num_near_px` those of colours near to
    listed ones, `num_overlap_px` those in polygons of several classes; `used_colours` are those of the label's palette;
    `label_nodata` is the nodata value that the label declares; `remarks` are about the image. `scene_files` are, of a
    scene that is cut, the SHA-256 of its image and its label.
    """

    tile: SourceTile
    image: bytes = b""
    label: bytes | None = None
    valid: bytes | None = None
    facts: TileFacts | None = None
    errors: tuple[DataError, ...] = ()
    is_scene: bool = False
    num_no_value_px: int = 0
    num_near_px: int = 0
    num_overlap_px: int = 0
    used_colours: UsedColours = ()
    label_nodata: float | None = None
    remarks: tuple[Remark, ...] = ()
    scene_files: tuple[str, str | None] | None = None


@dataclass(frozen=True)
class Checked:
    """Some tiles in order, and the values of the good ones.

    Attributes:
        tiles: in order.
        histogram: (B, 256 or 65536) int64, of the stored values that have data; None without good tiles.
        extremes: (2, selected bands) least and largest value in the source's units, of wide values; else None.
    """

    tiles: list[CheckedTile]
    histogram: NDArray[np.int64] | None
    extremes: NDArray[np.float64] | None = None


def joined(checked: Iterable[Checked]) -> Checked:
    """The tiles of several, and the values of all of them."""
    tiles: list[CheckedTile] = []
    histogram: NDArray[np.int64] | None = None
    extremes: NDArray[np.float64] | None = None
    for some in checked:
        tiles += some.tiles
        if some.histogram is not None:
            histogram = some.histogram if histogram is None else histogram + some.histogram
        extremes = widest(extremes, some.extremes)
    return Checked(tiles, histogram, extremes)
