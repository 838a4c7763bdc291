"""Decoding and checking tiles before they are staged: what every later stage may rely on. Runs in several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landseg.contracts.documents import sha256_hex
from landseg.contracts.errors import DataError, without_traceback
from landseg.contracts.tile import SceneWindow
from landseg.raw.checked_tiles import Checked, CheckedTile, TileFacts, joined
from landseg.raw.expected import Expected
from landseg.raw.images.decoded import DecodedImage
from landseg.raw.images.remarks import Remark
from landseg.raw.images.transcoding import decode_image_files
from landseg.raw.images.validity import encode_mask
from landseg.raw.images.values import Kind
from landseg.raw.labels.checks import stage_label
from landseg.raw.labels.files import encode_label
from landseg.raw.labels.rule import value_counts
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.source import Source
from landseg.raw.tile_files import TileFiles, read_tiles

_FEWEST_BANDS = 2
"""Of which all are 0 in pixels that were not measured; a single band may well be 0, as heights of the sea."""
_BLACK_SHARE, _WHITE_SHARE = 0.05, 0.2
"""Of an image's pixels; clouds and roofs may be white."""
_COUNTED_PX = 1 << 20
"""Pixels that are counted at once: numpy widens them to 64 bits."""


def check_tiles(source: Source, expected: Expected, tiles: Sequence[SourceTile]) -> Checked:
    """Read, decode and check tiles."""
    checked = (
        _check_tile(source, expected, tile, content)
        for tile, content in zip(tiles, read_tiles(source, tiles), strict=True)
    )
    return joined(checked)


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
    sources = expected.source_checksums(tile, content)
    if staged is None:
        checked = good_tile(tile, decoded, None, None, expected, sources=sources)
        return replace(checked, tiles=[replace(checked.tiles[0], remarks=decoded.remarks)])
    unchanged = label.data if label is not None and staged.is_unchanged else None
    checked = good_tile(tile, decoded, staged.values, unchanged, expected, sources=sources)
    about_label = replace(
        checked.tiles[0],
        num_no_value_px=staged.num_no_data_px,
        num_near_px=staged.num_near_px,
        num_overlap_px=staged.num_overlap_px,
        used_colours=staged.used_colours,
        label_nodata=staged.nodata,
        remarks=decoded.remarks + staged.remarks + checked.tiles[0].remarks,
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
    is_hashed = is_source and not tile.label_sidecars
    label_sha256 = None if label is None else sources[1] if is_hashed and sources[1] else sha256_hex(label)
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
        control_points=image.control_points,
        rpc=image.rpc,
        scene=scene,
        source_image_sha256=sources[0] if sources[0] != image_sha256 else None,
        source_label_sha256=sources[1] if sources[1] != label_sha256 else None,
        unused_labels=unused,
        num_valid_px=num_px if image.valid is None else int(np.count_nonzero(image.valid)),
    )
    for band, level in image.sentinels:  # they are values of single bands, but not for percentiles
        histogram[band - 1, level] = 0
    valid = None if image.valid is None else encode_mask(image.valid)
    remarks = () if classes is None else _about_black(image, histogram, expected)
    return Checked([CheckedTile(tile, data, label, valid, facts, remarks=remarks)], histogram, image.extremes)


def _about_black(image: DecodedImage, histogram: NDArray[np.int64], expected: Expected) -> tuple[Remark, ...]:
    """That all selected bands of a labelled image are 0, or white, in many pixels: is that no data?"""
    num_bands = image.values.shape[2]
    bands = [band - 1 for band in expected.bands if band <= num_bands] if expected.kind is not None else []
    is_said = image.valid is not None or expected.config.nodata is not None
    if len(bands) < _FEWEST_BANDS or is_said or expected.conversion:
        return ()
    num_px = image.values.shape[0] * image.values.shape[1]
    for value, least in ((0, _BLACK_SHARE), (histogram.shape[1] - 1, _WHITE_SHARE)):
        if histogram[bands, value].min() < least * num_px:  # no more are so in all bands
            continue
        share = np.count_nonzero((image.values[:, :, bands] == value).all(axis=2)) / num_px
        if least <= share < 1:  # of an image of this value alone, the review warns
            problem = f"{100 * share:.0f} % of its pixels are {value} in all bands: no data?"
            action = f"then write nodata: {value} in dataset.yaml, else nodata: none"
            return (Remark(problem, action=action, severity="warning"),)
    return ()


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
