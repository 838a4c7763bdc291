"""Tiles as files of a source, and jobs of a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from landseg.raw.compact_list import CompactList
from landseg.raw.sources.source_file import SourceFile, from_row, to_row

_JOB_BYTES = 4 << 20
_JOB_TILES = 32


@dataclass(frozen=True, slots=True)
class SourceTile:
    """An image with its label (None in an unlabelled split), and the files that say where each of them lies.

    `shares_label`: the label is that of all images, and no part of this tile's bytes.
    """

    split: str
    id: str
    image: SourceFile
    label: SourceFile | None
    shares_label: bool = False
    sidecars: tuple[SourceFile, ...] = ()
    label_sidecars: tuple[SourceFile, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        own_label = self.label if not self.shares_label else None
        size = self.image.size_bytes + (own_label.size_bytes if own_label else 0)
        return size + sum(file.size_bytes for file in (*self.sidecars, *self.label_sidecars))


def tile_list(tiles: Iterable[SourceTile] = ()) -> CompactList[SourceTile]:
    """Tiles in little memory: there may be millions."""
    found = CompactList(_to_row, _from_row)
    found.extend(tiles)
    return found


def _to_row(tile: SourceTile) -> tuple[Any, ...]:
    sidecars = [tuple(map(to_row, files)) for files in (tile.sidecars, tile.label_sidecars)]
    return tile.split, tile.id, to_row(tile.image), tile.label and to_row(tile.label), tile.shares_label, *sidecars


def _from_row(row: tuple[Any, ...]) -> SourceTile:
    split, tile_id, image, label, shares_label, *sidecars = row
    of_image, of_label = (tuple(map(from_row, files)) for files in sidecars)
    return SourceTile(split, tile_id, from_row(image), label and from_row(label), shares_label, of_image, of_label)


def jobs(tiles: Iterable[SourceTile]) -> Iterator[list[SourceTile]]:
    """Consecutive tiles for one process at a time, a few megabytes each."""
    job: list[SourceTile] = []
    size = 0
    for tile in tiles:
        if job and (size + tile.size_bytes > _JOB_BYTES or len(job) >= _JOB_TILES):
            yield job
            job, size = [], 0
        job.append(tile)
        size += tile.size_bytes
    if job:
        yield job
