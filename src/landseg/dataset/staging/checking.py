"""Going through the tiles of a source: checksums of all files, or checked tiles with scenes cut, in order."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from landseg import storage
from landseg.cli.progress import Progress
from landseg.dataset.staging.checksums import Checksums, SplitChecksums
from landseg.raw.checked_tiles import Checked
from landseg.raw.checks import check_tiles
from landseg.raw.cutting import cut_scene
from landseg.raw.expected import Expected
from landseg.raw.labels.shared import SharedLabels
from landseg.raw.layout.source_tiles import SourceTile, jobs
from landseg.raw.processes import ProcessPool
from landseg.raw.sources.source import Source
from landseg.raw.tile_files import READS_AT_ONCE, identify_tile


def identify_tiles(
    source: Source,
    splits: Mapping[str, Sequence[SourceTile]],
    checksums: Mapping[str, SplitChecksums],
    num_threads: int,
    shared_labels: SharedLabels | None,
) -> None:
    """Find the checksums of all files.

    Args:
        source: where the files are.
        splits: the tiles of each split.
        checksums: takes them, by split; files whose checksums it holds are not read.
        shared_labels: the labels of all images, if they are one file.
        num_threads: threads for a local source. Threads will do: reading and hashing release the interpreter's lock.
    """
    if source.is_remote:
        num_threads = READS_AT_ONCE

    def identify(tiles: Sequence[SourceTile]) -> list[tuple[str, Checksums]]:
        return [(tile.id, with_shared(tile, identify_tile(source, tile))) for tile in tiles]

    def with_shared(tile: SourceTile, found: Checksums) -> Checksums:
        return (found[0], shared_labels.sha256) if tile.shares_label and shared_labels else found

    for split, tiles in splits.items():
        found = checksums[split]
        num_known = len(found)
        left = (tile for tile in tiles if tile.id not in found) if num_known < len(tiles) else ()
        with Progress(f"reading {split}", len(tiles), "tiles", done=num_known) as progress:
            # A thread's share is several tiles: handing out single ones costs as much as reading them.
            for identified in storage.parallel(identify, jobs(left), workers=num_threads):
                for tile_id, of_tile in identified:
                    found.put(tile_id, of_tile)
                progress.advance(len(identified))


def checked_tiles(
    source: Source,
    expected: Expected,
    ranges: Sequence[Sequence[SourceTile]],
    processes: ProcessPool,
    scratch: Path,
    advance: Callable[[int, int], None],
) -> Iterator[tuple[int, Checked]]:
    """Check the tiles of ranges in order. Each scene is cut in its turn, and its tiles follow those checked with it.

    Args:
        source: where the files are.
        expected: what the tiles must be, and how they are stored.
        ranges: the tiles of each range.
        processes: do the work. They are handed the first tiles of a range while the last of the one before are checked.
        scratch: local folder.
        advance: told a range's position and how many more of its tiles are done.

    Yields:
        A range's position, and some of its tiles, checked.
    """
    numbers: deque[int] = deque()

    def numbered() -> Iterator[list[SourceTile]]:
        for number, tiles in enumerate(ranges):
            for job in jobs(tiles):
                numbers.append(number)
                yield job

    for checked in processes.map(functools.partial(check_tiles, source, expected), numbered()):
        number = numbers.popleft()
        scenes = [outcome.tile for outcome in checked.tiles if outcome.is_scene]
        if scenes:
            yield number, replace(checked, tiles=[outcome for outcome in checked.tiles if not outcome.is_scene])
            for scene in scenes:
                for cut in cut_scene(source, expected, scene, processes, scratch):
                    yield number, cut
        else:
            yield number, checked
        advance(number, len(checked.tiles))
