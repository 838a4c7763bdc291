"""Decoding and checking tiles before they are staged: what every later stage may rely on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landseg.data.sources import Source, SourceTile
from landseg.data.tiles import decode_image, decode_label
from landseg.documents import sha256_hex
from landseg.errors import DataError


class Kind(NamedTuple):
    """What all images of a dataset share."""

    num_bands: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.num_bands} band{'s' if self.num_bands > 1 else ''} of {self.dtype}"


@dataclass(frozen=True)
class Expected:
    """What a tile must be.

    Attributes:
        kind: bands and type; None where no image could be read.
        label_values: stored label values that mean a class or are ignored.
        labels_hint: says which values those are.
    """

    kind: Kind | None
    label_values: frozenset[int]
    labels_hint: str


@dataclass(frozen=True)
class TileFacts:
    """What was found in a tile that is fine.

    Attributes:
        height, width: in pixels.
        kind: bands and type.
        image_sha256, label_sha256: of the files' bytes.
        band_sums, band_squares: exact sums over pixels of the values and their squares, per band in file order.
        label_counts: pixels by stored label value; empty where unlabelled.
    """

    height: int
    width: int
    kind: Kind
    image_sha256: str
    label_sha256: str | None
    band_sums: tuple[int, ...]
    band_squares: tuple[int, ...]
    label_counts: dict[int, int]


@dataclass(frozen=True)
class CheckedTile:
    """A tile after its check: the bytes and facts of a good one, the problems of a bad one."""

    tile: SourceTile
    image: bytes
    label: bytes | None
    facts: TileFacts | None
    problems: tuple[DataError, ...]


def check_tiles(
    source: Source, tiles: Sequence[SourceTile], expected: Expected
) -> tuple[list[CheckedTile], NDArray[np.int64] | None]:
    """Read, decode and check tiles; runs in worker processes.

    Returns:
        The tiles in order, and the histogram of the good ones' values: (B, 256 or 65536) int64, None without any.
    """
    checked, total = [], None
    for tile in tiles:
        outcome, histogram = check_tile(source, tile, expected)
        checked.append(outcome)
        if histogram is not None:
            total = histogram if total is None else total + histogram
    return checked, total


def check_tile(source: Source, tile: SourceTile, expected: Expected) -> tuple[CheckedTile, NDArray[np.int64] | None]:
    """Check one tile; all its problems are collected."""
    problems: list[DataError] = []
    image = label = None
    values: NDArray[Any] | None = None
    classes: NDArray[Any] | None = None
    try:
        image = source.read(tile.image.path)
        values = decode_image(image, source.where(tile.image.path))
        problems += _image_problems(values, source.where(tile.image.path), expected)
    except DataError as err:
        problems.append(err)
    counts: dict[int, int] = {}
    if tile.label is not None:
        where = source.where(tile.label.path)
        try:
            label = source.read(tile.label.path)
            classes = decode_label(label, where)
            counts = _value_counts(classes)
            problems += _label_problems(counts, where, expected)
            if values is not None and classes.shape != values.shape[:2]:
                problems.append(
                    DataError(
                        where,
                        f"label and image differ in size: expected {_size(values)} px as in the image, "
                        f"found {_size(classes)}",
                    )
                )
        except DataError as err:
            problems.append(err)
    if problems or image is None or values is None:
        return CheckedTile(tile, b"", None, None, tuple(problems)), None
    histogram = band_histogram(values)
    levels = np.arange(histogram.shape[1], dtype=np.int64)
    facts = TileFacts(
        height=values.shape[0],
        width=values.shape[1],
        kind=_kind(values),
        image_sha256=sha256_hex(image),
        label_sha256=None if label is None else sha256_hex(label),
        band_sums=tuple(int(value) for value in histogram @ levels),
        band_squares=tuple(int(value) for value in histogram @ (levels * levels)),
        label_counts=counts,
    )
    return CheckedTile(tile, image, label, facts, ()), histogram


def probe_kind(source: Source, tiles: Sequence[SourceTile], samples: int = 16) -> Kind | None:
    """What most of a few images, evenly spread, are; the rest is measured against it."""
    kinds: list[Kind] = []
    for index in range(0, len(tiles), max(1, len(tiles) // samples)):
        path = tiles[index].image.path
        try:
            kinds.append(_kind(decode_image(source.read(path), source.where(path))))
        except DataError:
            continue  # reported when its turn comes
    return max(kinds, key=kinds.count) if kinds else None


def band_histogram(values: NDArray[Any]) -> NDArray[np.int64]:
    """Count values exactly.

    Args:
        values: (H, W, B) uint8 or uint16.

    Returns:
        (B, 256 or 65536) int64.
    """
    levels = int(np.iinfo(values.dtype).max) + 1
    return np.stack([np.bincount(values[:, :, band].ravel(), minlength=levels) for band in range(values.shape[2])])


def _kind(values: NDArray[Any]) -> Kind:
    return Kind(values.shape[2], str(values.dtype))


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"


def _value_counts(classes: NDArray[Any]) -> dict[int, int]:
    counts = np.bincount(classes.ravel())
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _image_problems(values: NDArray[Any], where: str, expected: Expected) -> list[DataError]:
    if expected.kind is None or _kind(values) == expected.kind:
        return []
    return [DataError(where, f"expected {expected.kind}, as in most images, found {_kind(values)}", "all images alike")]


def _label_problems(counts: dict[int, int], where: str, expected: Expected) -> list[DataError]:
    outside = sorted(counts.keys() - expected.label_values)
    if not outside:
        return []
    shown = ", ".join(str(value) for value in outside[:5]) + (", ..." if len(outside) > 5 else "")
    pixels = sum(counts[value] for value in outside)
    return [
        DataError(
            where,
            f"label value outside the class list: {pixels} px with {shown}; expected {expected.labels_hint}",
            "mend the label, or classes, label_offset and ignore_index in dataset.yaml",
        )
    ]
