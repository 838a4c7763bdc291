"""The bytes of tiles' images and labels, read from a source."""

from __future__ import annotations

from collections.abc import Sequence

from landseg import storage
from landseg.contracts.errors import DataError, without_traceback
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.files import ImageFiles, LabelFiles
from landseg.raw.sources.reading import read_header, read_image, read_sidecars
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile

READS_AT_ONCE = 16


def identify_tile(source: Source, tile: SourceTile) -> tuple[str, str | None]:
    """SHA-256 of image and label, without decoding; ("", None) for a tile that cannot be read."""
    content = _read_tile(source, tile)
    if isinstance(content, DataError):
        return "", None
    return content[0].sha256, None if content[1] is None else content[1].sha256


TileFiles = tuple[ImageFiles, LabelFiles | None]
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
        label = _read_label(source, tile, tile.label) if tile.label and not tile.shares_label else None
        return read_image(source, tile), label
    except DataError as err:
        return without_traceback(err)


def _read_label(source: Source, tile: SourceTile, file: SourceFile) -> LabelFiles:
    return LabelFiles(source.read(file), read_header(source, file), read_sidecars(source, tile.label_sidecars))
