"""What images are like, before they are checked: their kind, and the values of wide ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.errors import DataError
from landseg.raw.expected import Expected
from landseg.raw.images.band_tags import BandTags
from landseg.raw.images.decoded import widest
from landseg.raw.images.transcoding import image_kind, measure_image
from landseg.raw.images.values import Kind
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.reading import read_image
from landseg.raw.sources.source import Source
from landseg.raw.tile_files import READS_AT_ONCE, read_tiles

_SMALL_BYTES = 16 << 20


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


def probe_kind(source: Source, splits: Sequence[Sequence[SourceTile]], samples: int = 16) -> Kind | None:
    """The kind to expect of all images: the most frequent among a few, evenly spread. None if all are damaged."""
    chosen: list[SourceTile] = []
    num_tiles = 0
    every = max(1, sum(map(len, splits)) // samples)
    for tiles in splits:
        chosen += tiles[-num_tiles % every :: every]
        num_tiles += len(tiles)
    # Over a network several at once, unless they are large: otherwise one file is held at a time.
    at_once = READS_AT_ONCE if source.is_remote and all(t.image.size_bytes <= _SMALL_BYTES for t in chosen) else 1
    found = dict(storage.parallel(lambda n: (n, _kind(source, chosen[n])), range(len(chosen)), workers=at_once))
    kinds = [kind for _, kind in sorted(found.items()) if kind]
    if kinds:
        return _most_frequent(kinds)
    return next(
        (kind for kind in (_kind(source, tile) for tile in itertools.chain.from_iterable(splits)) if kind), None
    )


def _most_frequent(kinds: Sequence[Kind]) -> Kind:
    """What most images are, with what most of those that are like it say of their bands."""
    plain = [kind._replace(tags=BandTags()) for kind in kinds]
    found = max(plain, key=plain.count)
    tags = [kind.tags for kind in kinds if kind.is_like(found)]
    names, units = [one.names for one in tags if one.names], [one.units for one in tags if one.units]
    most = BandTags(max(names, key=names.count, default=()), max(units, key=units.count, default=()))
    return found._replace(tags=most)


def _kind(source: Source, tile: SourceTile) -> Kind | None:
    """An image's kind by its header; None for a damaged file, which is reported when it is checked."""
    try:
        return image_kind(read_image(source, tile), source.where(tile.image.path))
    except DataError:
        return None
