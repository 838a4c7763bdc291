"""Exact statistics of a split: integers only until the last step, so nothing depends on the number of processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import ClassSchema, Scale
from landseg.contracts.tile import Tile
from landseg.raw.checked_tiles import Checked
from landseg.raw.images.decoded import widest


@dataclass
class SplitStatistics:
    """Sums over the tiles of a split, bands in file order.

    Attributes:
        num_pixels: image pixels.
        num_valid_px: those that have data.
        band_sums, band_squares: of the stored values of the pixels that have data.
        label_counts: pixels by stored label value.
        unused_labels: pixels by the label value that they have in the source although they have no data.
        label_tiles: tiles by stored label value that they hold.
        tile_sizes: tiles by (height, width).
        histogram: (B, 256 or 65536) int64; None before the first tile.
        extremes: (2, selected bands) least and largest value of the source, where it is wider than 16 bits; else None.
    """

    num_pixels: int = 0
    num_valid_px: int = 0
    band_sums: list[int] = field(default_factory=list)
    band_squares: list[int] = field(default_factory=list)
    label_counts: dict[int, int] = field(default_factory=dict)
    unused_labels: dict[int, int] = field(default_factory=dict)
    label_tiles: dict[int, int] = field(default_factory=dict)
    tile_sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    histogram: NDArray[np.int64] | None = None
    extremes: NDArray[np.float64] | None = None

    def add(self, tile: Tile) -> None:
        """Count a tile."""
        size = (tile.height, tile.width)
        self.num_pixels += tile.height * tile.width
        self.num_valid_px += tile.num_valid_px
        self.tile_sizes[size] = self.tile_sizes.get(size, 0) + 1
        if not self.band_sums:
            self.band_sums, self.band_squares = [0] * len(tile.band_sums), [0] * len(tile.band_sums)
        for band, (total, squares) in enumerate(zip(tile.band_sums, tile.band_squares, strict=True)):
            self.band_sums[band] += total
            self.band_squares[band] += squares
        for value, count in tile.label_counts:
            self.label_counts[value] = self.label_counts.get(value, 0) + count
            self.label_tiles[value] = self.label_tiles.get(value, 0) + 1
        for value, count in tile.unused_labels:
            self.unused_labels[value] = self.unused_labels.get(value, 0) + count

    def add_values(self, checked: Checked) -> None:
        """Count the values of some tiles."""
        if checked.histogram is not None:
            self.histogram = checked.histogram if self.histogram is None else self.histogram + checked.histogram
        self.extremes = widest(self.extremes, checked.extremes)

    def mean_std(self, bands: tuple[int, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and population standard deviation of the selected 1-based bands, in stored units; 0 without data."""
        n = self.num_valid_px
        if not n:
            return (0.0,) * len(bands), (0.0,) * len(bands)
        pairs = [(self.band_sums[band - 1], self.band_squares[band - 1]) for band in bands]
        # n² var = n Σv² - (Σv)², exact in integers: no cancellation
        return tuple(s / n for s, _ in pairs), tuple(math.sqrt(n * q - s * s) / n for s, q in pairs)

    def class_pixels(self, schema: ClassSchema) -> tuple[int, ...]:
        """Labelled pixels per class."""
        return tuple(self.label_counts.get(schema.label_offset + index, 0) for index in range(schema.num_classes))

    def class_tiles(self, schema: ClassSchema) -> tuple[int, ...]:
        """Tiles that hold each class."""
        return tuple(self.label_tiles.get(schema.label_offset + index, 0) for index in range(schema.num_classes))

    def ignored_pixels(self, schema: ClassSchema) -> int:
        """Labelled pixels with the ignored value."""
        stored = schema.ignore_index if schema.stored_ignore is None else schema.stored_ignore
        return self.label_counts.get(stored, 0)


def percentile_scale(
    histogram: NDArray[np.int64], bands: tuple[int, ...], low: float, high: float
) -> tuple[Scale, list[int]]:
    """The scale that maps percentiles of each band to 0 and 255.

    A percentile is the smallest stored value that at least this share of the pixels does not exceed
    (numpy's `inverted_cdf`), so it is exact and needs no interpolation.

    Returns:
        The scale, and the bands whose percentiles coincide (nearly constant): they get a width of 1.
    """
    lows, highs, flat = [], [], []
    for band in bands:
        cumulative = np.cumsum(histogram[band - 1])
        total = int(cumulative[-1])
        if not total:  # no pixel of the split has data
            flat.append(band)
            lows.append(0.0)
            highs.append(1.0)
            continue
        first, last = (
            int(np.searchsorted(cumulative, max(1, math.ceil(share / 100 * total)))) for share in (low, high)
        )
        if first == last:
            flat.append(band)
            last += 1
        lows.append(float(first))
        highs.append(float(last))
    return Scale(low=tuple(lows), high=tuple(highs), method="percentile"), flat
