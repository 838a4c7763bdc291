"""Tiles as files of a source, and jobs of a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from landseg.raw.sources.source import SourceFile

_JOB_BYTES = 4 << 20
_JOB_TILES = 32


@dataclass(frozen=True, slots=True)
class SourceTile:
    """An image with its label (None in an unlabelled split), and the files that say where the image lies.

    `shares_label`: the label is that of all images, and no part of this tile's bytes.
    """

    split: str
    id: str
    image: SourceFile
    label: SourceFile | None
    shares_label: bool = False
    sidecars: tuple[SourceFile, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        own_label = self.label if not self.shares_label else None
        size = self.image.size_bytes + (own_label.size_bytes if own_label else 0)
        return size + sum(file.size_bytes for file in self.sidecars)


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
