"""Going through the tiles of a source: checked tiles with scenes cut, in order."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from landseg.raw.checked_tiles import Checked
from landseg.raw.checks import check_tiles
from landseg.raw.cutting import cut_scene
from landseg.raw.expected import Expected
from landseg.raw.layout.source_tiles import SourceTile, jobs
from landseg.raw.processes import ProcessPool
from landseg.raw.sources.source import Source


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
