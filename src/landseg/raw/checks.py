"""Decoding and checking tiles before they are staged: what every later stage may rely on. Runs in several processes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landseg import storage
from landseg.contracts.dataset import GeoKeys, SceneWindow
from landseg.contracts.documents import sha256_hex
from landseg.contracts.errors import DataError
from landseg.raw.alignment import alignment_error
from landseg.raw.dataset_yaml import DatasetConfig
from landseg.raw.georeference import Georeference, Transform
from landseg.raw.label_files import encode_label, read_label
from landseg.raw.label_rule import LabelRule, StagedLabel, UsedColours
from landseg.raw.labels import unknown_labels_error
from landseg.raw.pairing import SourceTile
from landseg.raw.sources import Source
from landseg.raw.tiff.decoding import DecodedTiff, decode_tiff, image_info, label_georeference

READS_AT_ONCE = 16
_SMALL_BYTES = 16 << 20
_COUNTED_PX = 1 << 20
"""Pixels that are counted at once: numpy widens them to 64 bits."""


class Kind(NamedTuple):
    """What all images of a dataset share."""

    num_bands: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.num_bands} band{'s' if self.num_bands > 1 else ''} of {self.dtype}"


@dataclass(frozen=True)
class Expected:
    """What a tile must be: `dataset.yaml`, and what most images are (None where none could be read)."""

    config: DatasetConfig
    kind: Kind | None

    @functools.cached_property
    def label_rule(self) -> LabelRule:
        """What labels are staged as."""
        return LabelRule(self.config)


@dataclass(frozen=True)
class TileFacts:
    """The facts of a good tile.

    Attributes:
        height, width: in pixels.
        kind: bands and type.
        image_sha256, label_sha256: of the bytes to stage.
        source_image_sha256, source_label_sha256: of the source's file where the bytes to stage are others: transcoded.
        band_sums, band_squares: exact sums over pixels of the values and their squares, per band in file order.
        label_counts: (stored label value, pixels) by value; empty where unlabelled.
        transform, crs: the georeference.
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


@dataclass(frozen=True)
class CheckedTile:
    """A tile after its check: the bytes and facts of a good one, the errors of a bad one.

    A scene has neither: it is cut first. `num_no_value_px` counts label pixels that are transparent or not a number;
    `used_colours` are those of the label's palette.
    """

    tile: SourceTile
    image: bytes = b""
    label: bytes | None = None
    facts: TileFacts | None = None
    errors: tuple[DataError, ...] = ()
    is_scene: bool = False
    num_no_value_px: int = 0
    used_colours: UsedColours = ()


@dataclass(frozen=True)
class Checked:
    """Some tiles in order, and the histogram of the good ones' values: (B, 256 or 65536) int64, None without any."""

    tiles: list[CheckedTile]
    histogram: NDArray[np.int64] | None


def check_tiles(source: Source, expected: Expected, tiles: Sequence[SourceTile]) -> Checked:
    """Read, decode and check tiles."""
    outcomes = []
    total: NDArray[np.int64] | None = None
    for tile, content in zip(tiles, read_tiles(source, tiles), strict=True):
        outcome, histogram = _check_tile(source, expected, tile, content)
        outcomes.append(outcome)
        if histogram is not None:
            total = histogram if total is None else total + histogram
    return Checked(outcomes, total)


def without_traceback(err: DataError) -> DataError:
    """The error alone: its traceback would keep the file's bytes in memory for as long as the error is kept."""
    rebuild, arguments = err.__reduce__()
    return cast(DataError, rebuild(*arguments))


def identify_tile(source: Source, tile: SourceTile) -> tuple[str, str | None]:
    """SHA-256 of image and label, without decoding; ("", None) for a tile that cannot be read."""
    content = _read_tile(source, tile)
    if isinstance(content, DataError):
        return "", None
    return sha256_hex(content[0]), None if content[1] is None else sha256_hex(content[1])


def read_tiles(source: Source, tiles: Sequence[SourceTile]) -> list[tuple[bytes, bytes | None] | DataError]:
    """Images and labels of a few tiles, or the error of one that cannot be read; over a network several at once."""
    if not source.is_remote:
        return [_read_tile(source, tile) for tile in tiles]
    read = storage.parallel(lambda tile: (tile.id, _read_tile(source, tile)), tiles, workers=READS_AT_ONCE)
    contents = dict(read)
    return [contents[tile.id] for tile in tiles]


def _read_tile(source: Source, tile: SourceTile) -> tuple[bytes, bytes | None] | DataError:
    try:
        return source.read(tile.image), source.read(tile.label) if tile.label else None
    except DataError as err:
        return err


def _check_tile(
    source: Source, expected: Expected, tile: SourceTile, content: tuple[bytes, bytes | None] | DataError
) -> tuple[CheckedTile, NDArray[np.int64] | None]:
    """Check one tile; all its errors are collected."""
    if isinstance(content, DataError):
        return CheckedTile(tile, errors=(content,)), None
    image, label = content
    where = source.where(tile.image.path)
    errors: list[DataError] = []
    decoded: DecodedTiff | None = None
    staged: StagedLabel | None = None
    try:
        decoded = decode_tiff(image, where, max_px=expected.config.scenes.max_px)
        if decoded is None:
            return CheckedTile(tile, is_scene=True), None
        errors += image_errors(decoded.values, where, expected)
    except DataError as err:
        errors.append(without_traceback(err))
    if tile.label is not None and label is not None:
        where = source.where(tile.label.path)
        try:
            staged = expected.label_rule.stage(read_label(label, where), where)
            errors += label_errors(staged, decoded and decoded.values.shape[:2], where, expected)
            if decoded is not None and staged.size == decoded.values.shape[:2]:
                image_georeference = Georeference(decoded.transform, decoded.crs)
                errors += place_errors(source, expected, tile, label, staged.size, image_georeference)
        except DataError as err:
            errors.append(without_traceback(err))
    if errors or decoded is None:
        return CheckedTile(tile, errors=tuple(errors)), None
    if staged is None:
        return good_tile(tile, image, label, decoded, ())
    if staged.is_unchanged:
        checked, histogram = good_tile(tile, image, label, decoded, staged.counts)
        return replace(checked, used_colours=staged.used_colours), histogram
    assert label is not None, "a staged label was read"
    checked, histogram = good_tile(
        tile, image, encode_label(staged.values), decoded, staged.counts, source_label_sha256=sha256_hex(label)
    )
    return (replace(checked, num_no_value_px=staged.num_no_data_px, used_colours=staged.used_colours), histogram)


def place_errors(
    source: Source, expected: Expected, tile: SourceTile, label: bytes, size: tuple[int, int], image: Georeference
) -> list[DataError]:
    """What is wrong with where a label lies; `size` is its (height, width)."""
    assert tile.label is not None, "labelled tiles only"
    where = source.where(tile.label.path)
    own = label_georeference(label, where)
    image_where = source.where(tile.image.path)
    error = alignment_error(own, image, size, where, image_where, expected.config.ignore_index)
    return [] if error is None else [error]


def good_tile(
    tile: SourceTile,
    image: bytes,
    label: bytes | None,
    decoded: DecodedTiff,
    label_counts: tuple[tuple[int, int], ...],
    scene: SceneWindow | None = None,
    source_label_sha256: str | None = None,
) -> tuple[CheckedTile, NDArray[np.int64]]:
    """Facts and histogram of a tile without errors."""
    histogram = band_histogram(decoded.values)
    levels = np.arange(histogram.shape[1], dtype=np.int64)
    facts = TileFacts(
        height=decoded.values.shape[0],
        width=decoded.values.shape[1],
        kind=kind_of(decoded.values),
        image_sha256=sha256_hex(image),
        label_sha256=None if label is None else sha256_hex(label),
        band_sums=tuple(int(value) for value in histogram @ levels),
        band_squares=tuple(int(value) for value in histogram @ (levels * levels)),
        label_counts=label_counts,
        transform=decoded.transform,
        crs=decoded.crs,
        scene=scene,
        source_label_sha256=source_label_sha256,
    )
    return CheckedTile(tile, image, label, facts), histogram


def probe_kind(source: Source, tiles: Sequence[SourceTile], samples: int = 16) -> Kind | None:
    """The kind to expect of all images: the most frequent among a few, evenly spread. None if all are damaged."""
    chosen = tiles[:: max(1, len(tiles) // samples)]
    # Over a network several at once, unless they are large: otherwise one file is held at a time.
    at_once = READS_AT_ONCE if source.is_remote and all(t.image.size_bytes <= _SMALL_BYTES for t in chosen) else 1
    found = dict(storage.parallel(lambda n: (n, _kind(source, chosen[n])), range(len(chosen)), workers=at_once))
    kinds = [kind for _, kind in sorted(found.items()) if kind]
    if kinds:
        return max(kinds, key=kinds.count)
    return next((kind for kind in (_kind(source, tile) for tile in tiles) if kind), None)


def _kind(source: Source, tile: SourceTile) -> Kind | None:
    """An image's kind by its header; None for a damaged file, which is reported when it is checked."""
    try:
        info = image_info(source.read(tile.image), source.where(tile.image.path))
    except DataError:
        return None
    return Kind(info.num_bands, info.dtype)


def band_histogram(values: NDArray[Any]) -> NDArray[np.int64]:
    """Count values exactly.

    Args:
        values: (H, W, B) uint8 or uint16.

    Returns:
        (B, 256 or 65536) int64.
    """
    num_bands = values.shape[2]
    if values.dtype == np.uint8 and num_bands in (3, 4):
        # Pillow counts three times as fast as numpy, which widens to 64 bit first.
        return np.array(Image.fromarray(values).histogram(), np.int64).reshape(num_bands, 256)
    levels = int(np.iinfo(values.dtype).max) + 1
    counts = np.zeros((num_bands, levels), np.int64)
    rows = max(1, _COUNTED_PX // max(1, values.shape[1]))
    for start in range(0, values.shape[0], rows):
        for band in range(num_bands):
            counts[band] += np.bincount(values[start : start + rows, :, band].ravel(), minlength=levels)
    return counts


def kind_of(values: NDArray[Any]) -> Kind:
    """Bands and type of an (H, W, B) array."""
    return Kind(values.shape[2], str(values.dtype))


def image_errors(values: NDArray[Any], where: str, expected: Expected) -> list[DataError]:
    """What is wrong with a decoded image."""
    if expected.kind is None or kind_of(values) == expected.kind:
        return []
    found = kind_of(values)
    return [DataError(where, f"expected {expected.kind}, as in most images, found {found}", "all images must be alike")]


def label_errors(
    label: StagedLabel, image_size: tuple[int, ...] | None, where: str, expected: Expected
) -> list[DataError]:
    """What is wrong with a decoded label; `image_size` is (height, width), None where the image is damaged."""
    errors: list[DataError] = []
    if label.unknown is not None:
        errors.append(unknown_labels_error(label.unknown, where, expected.config))
    if image_size is not None and label.size != image_size:
        errors.append(
            DataError(
                where,
                f"label and image differ in size: expected {image_size[0]}x{image_size[1]} px as in the image, "
                f"found {label.size[0]}x{label.size[1]}",
                "cut both to the same size",
            )
        )
    return errors
