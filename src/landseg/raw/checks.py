"""Decoding and checking tiles before they are staged: what every later stage may rely on. Runs in several processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landseg import storage
from landseg.contracts.dataset import GeoKeys, SceneWindow
from landseg.contracts.documents import sha256_hex
from landseg.contracts.errors import DataError
from landseg.raw.expected import Expected
from landseg.raw.georeference.tags import Transform
from landseg.raw.images.decoded import DecodedImage, widest
from landseg.raw.images.remarks import Remark
from landseg.raw.images.transcoding import decode_image_files, image_kind, measure_image
from landseg.raw.images.validity import encode_mask
from landseg.raw.images.values import Kind
from landseg.raw.labels.checks import stage_label, without_traceback
from landseg.raw.labels.files import encode_label
from landseg.raw.labels.rule import UsedColours, value_counts
from landseg.raw.layout.pairing import SourceTile
from landseg.raw.sources.files import ImageFiles
from landseg.raw.sources.reading import read_image
from landseg.raw.sources.source import Source

READS_AT_ONCE = 16
_SMALL_BYTES = 16 << 20
_COUNTED_PX = 1 << 20
"""Pixels that are counted at once: numpy widens them to 64 bits."""


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
    unused_labels: tuple[tuple[int, int], ...] = ()
    num_valid_px: int = 0


@dataclass(frozen=True)
class CheckedTile:
    """A tile after its check: the bytes and facts of a good one, the errors of a bad one.

    A scene has neither: it is cut first. `valid` is the mask of the pixels that have data, None where all have.
    `num_no_value_px` counts label pixels that are transparent or not a number; `used_colours` are those of the label's
    palette; `label_nodata` is the nodata value that the label declares; `remarks` are about the image.
    """

    tile: SourceTile
    image: bytes = b""
    label: bytes | None = None
    valid: bytes | None = None
    facts: TileFacts | None = None
    errors: tuple[DataError, ...] = ()
    is_scene: bool = False
    num_no_value_px: int = 0
    used_colours: UsedColours = ()
    label_nodata: float | None = None
    remarks: tuple[Remark, ...] = ()


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


def check_tiles(source: Source, expected: Expected, tiles: Sequence[SourceTile]) -> Checked:
    """Read, decode and check tiles."""
    checked = (
        _check_tile(source, expected, tile, content)
        for tile, content in zip(tiles, read_tiles(source, tiles), strict=True)
    )
    return joined(checked)


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


def identify_tile(source: Source, tile: SourceTile) -> tuple[str, str | None]:
    """SHA-256 of image and label, without decoding; ("", None) for a tile that cannot be read."""
    content = _read_tile(source, tile)
    if isinstance(content, DataError):
        return "", None
    return content[0].sha256, None if content[1] is None else sha256_hex(content[1])


TileFiles = tuple[ImageFiles, bytes | None]
"""The bytes of image and label."""


def read_tiles(source: Source, tiles: Sequence[SourceTile]) -> list[TileFiles | DataError]:
    """Images and labels of a few tiles, or the error of one that cannot be read; over a network several at once."""
    if not source.is_remote:
        return [_read_tile(source, tile) for tile in tiles]
    read = storage.parallel(lambda tile: (tile.id, _read_tile(source, tile)), tiles, workers=READS_AT_ONCE)
    contents = dict(read)
    return [contents[tile.id] for tile in tiles]


def _read_tile(source: Source, tile: SourceTile) -> TileFiles | DataError:
    try:
        label = source.read(tile.label) if tile.label and not tile.shares_label else None
        return read_image(source, tile), label
    except DataError as err:
        return without_traceback(err)


def _check_tile(source: Source, expected: Expected, tile: SourceTile, content: TileFiles | DataError) -> Checked:
    """Check one tile; all its errors are collected."""
    if isinstance(content, DataError):
        return Checked([CheckedTile(tile, errors=(content,))], None)
    image, label = content
    where = source.where(tile.image.path)
    errors: list[DataError] = []
    decoded: DecodedImage | None = None
    try:
        decoded = decode_image_files(image, where, expected, max_px=expected.config.scenes.max_px)
        if decoded is None:
            return Checked([CheckedTile(tile, is_scene=True)], None)
    except DataError as err:
        errors.append(without_traceback(err))
    staged, found = stage_label(source, expected, tile, label, decoded)
    errors += found
    if errors or decoded is None:
        return Checked([CheckedTile(tile, errors=tuple(errors))], None)
    shared = expected.shared_labels
    label_sha256 = sha256_hex(label) if label is not None else shared.sha256 if staged and shared else None
    sources = image.sha256, label_sha256
    if staged is None:
        checked = good_tile(tile, decoded, None, None, expected, sources=sources)
        return replace(checked, tiles=[replace(checked.tiles[0], remarks=decoded.remarks)])
    checked = good_tile(tile, decoded, staged.values, label if staged.is_unchanged else None, expected, sources=sources)
    about_label = replace(
        checked.tiles[0],
        num_no_value_px=staged.num_no_data_px,
        used_colours=staged.used_colours,
        label_nodata=staged.nodata,
        remarks=decoded.remarks,
    )
    return replace(checked, tiles=[about_label])


def good_tile(
    tile: SourceTile,
    image: DecodedImage,
    classes: NDArray[Any] | None,
    label: bytes | None,
    expected: Expected,
    *,
    sources: tuple[str | None, str | None] = (None, None),
    scene: SceneWindow | None = None,
) -> Checked:
    """Bytes, facts and values of a tile without errors.

    Args:
        tile: the tile.
        image: its image.
        classes: (H, W) label values as they are staged; None where unlabelled.
        label: the label's bytes, if they can be staged as they are.
        expected: what says which label value is ignored.
        sources: checksums of the files of image and label; None for a tile of a scene.
        scene: the window of the scene that it was cut from.
    """
    unused: tuple[tuple[int, int], ...] = ()
    is_source = label is not None
    if classes is not None and image.valid is not None:
        ignored = expected.label_rule.ignored
        classes, unused = _without_data(classes, image.valid, ignored)
        label, is_source = (None, False) if unused else (label, is_source)
    if classes is not None and label is None:
        label = encode_label(classes.astype(np.uint8))
    data = image.encoded()
    num_px = image.values.shape[0] * image.values.shape[1]
    histogram = band_histogram(image.values, image.valid)
    levels = np.arange(histogram.shape[1], dtype=np.int64)
    # Bytes that are staged as they are have been hashed, with those of the sidecars if there are any.
    is_hashed = image.plain is not None and not tile.sidecars
    image_sha256 = sources[0] if is_hashed and sources[0] else sha256_hex(data)
    label_sha256 = None if label is None else sources[1] if is_source and sources[1] else sha256_hex(label)
    facts = TileFacts(
        height=image.values.shape[0],
        width=image.values.shape[1],
        kind=kind_of(image.values),
        image_sha256=image_sha256,
        label_sha256=label_sha256,
        band_sums=tuple(int(value) for value in histogram @ levels),
        band_squares=tuple(int(value) for value in histogram @ (levels * levels)),
        label_counts=() if classes is None else value_counts(classes),
        transform=image.transform,
        crs=image.crs,
        scene=scene,
        source_image_sha256=sources[0] if sources[0] != image_sha256 else None,
        source_label_sha256=sources[1] if sources[1] != label_sha256 else None,
        unused_labels=unused,
        num_valid_px=num_px if image.valid is None else int(np.count_nonzero(image.valid)),
    )
    for band, level in image.sentinels:  # they are values of single bands, but not for percentiles
        histogram[band - 1, level] = 0
    valid = None if image.valid is None else encode_mask(image.valid)
    return Checked([CheckedTile(tile, data, label, valid, facts)], histogram, image.extremes)


def _without_data(
    classes: NDArray[Any], valid: NDArray[np.bool_], ignored: int
) -> tuple[NDArray[Any], tuple[tuple[int, int], ...]]:
    """Label values, ignored where there is no data, and how many pixels of each value that changes."""
    changed = ~valid & (classes != ignored)
    if not changed.any():
        return classes, ()
    values, counts = np.unique(classes[changed], return_counts=True)
    unused = tuple((int(value), int(count)) for value, count in zip(values, counts, strict=True))
    return np.where(changed, classes.dtype.type(ignored), classes), unused


def measure_tiles(
    source: Source, expected: Expected, per_tile: int, tiles: Sequence[SourceTile]
) -> tuple[int, NDArray[np.float64] | None, NDArray[np.float64]]:
    """Look at the values of the selected bands of some tiles, scenes included.

    Returns:
        The number of tiles; (2, bands) least and largest value, None without data; and (pixels, bands) a sample of
        about `per_tile` pixels of each tile. Files that cannot be read are left out: the checks report them.
    """
    extremes: NDArray[np.float64] | None = None
    samples = [np.empty((0, len(expected.bands)))]
    for tile, content in zip(tiles, read_tiles(source, tiles), strict=True):
        if isinstance(content, DataError):
            continue
        try:
            found, sample = measure_image(content[0], source.where(tile.image.path), expected, per_tile)
        except DataError:
            continue
        extremes = widest(extremes, found)
        samples.append(sample)
    return len(tiles), extremes, np.concatenate(samples)


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
        return image_kind(read_image(source, tile), source.where(tile.image.path))
    except DataError:
        return None


def band_histogram(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Count values exactly.

    Args:
        values: (H, W, B) uint8 or uint16.
        valid: (H, W), where values count; None: everywhere.

    Returns:
        (B, 256 or 65536) int64.
    """
    num_bands = values.shape[2]
    if valid is not None:
        values = values[valid][:, None]
    elif values.dtype == np.uint8 and num_bands in (3, 4):
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
