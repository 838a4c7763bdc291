"""Going through the tiles of a source: checksums of all files, or checked tiles with scenes cut, in order."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from landseg import storage
from landseg.cli.progress import Progress
from landseg.dataset.staging.previous import Checksums
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
    known: Mapping[str, Mapping[str, Checksums]],
    num_threads: int,
    shared_labels: SharedLabels | None,
) -> dict[str, dict[str, Checksums]]:
    """Checksums of all files, by split and stem.

    Args:
        source: where the files are.
        splits: the tiles of each split.
        known: the checksums of some of them, which are not read.
        shared_labels: the labels of all images, if they are one file.
        num_threads: threads for a local source. Threads will do: reading and hashing release the interpreter's lock.
    """
    if source.is_remote:
        num_threads = READS_AT_ONCE

    def identify(tiles: Sequence[SourceTile]) -> list[tuple[str, Checksums]]:
        return [(tile.id, with_shared(tile, identify_tile(source, tile))) for tile in tiles]

    def with_shared(tile: SourceTile, found: Checksums) -> Checksums:
        return (found[0], shared_labels.sha256) if tile.shares_label and shared_labels else found

    found: dict[str, dict[str, Checksums]] = {}
    for split, tiles in splits.items():
        found[split] = dict(known.get(split, {}))
        left = [tile for tile in tiles if tile.id not in found[split]]
        with Progress(f"reading {split}", len(tiles), "tiles", done=len(tiles) - len(left)) as progress:
            # A thread's share is several tiles: handing out single ones costs as much as reading them.
            for identified in storage.parallel(identify, jobs(left), workers=num_threads):
                found[split].update(identified)
                progress.advance(len(identified))
    return found


def checked_tiles(
    source: Source,
    expected: Expected,
    tiles: Sequence[SourceTile],
    processes: ProcessPool,
    scratch: Path,
    progress: Progress,
) -> Iterator[Checked]:
    """Check tiles in order. Each scene is cut in its turn, and its tiles follow those checked together with it."""
    for checked in processes.map(functools.partial(check_tiles, source, expected), jobs(tiles)):
        scenes = [outcome.tile for outcome in checked.tiles if outcome.is_scene]
        if scenes:
            yield replace(checked, tiles=[outcome for outcome in checked.tiles if not outcome.is_scene])
            for scene in scenes:
                yield from cut_scene(source, expected, scene, processes, scratch)
        else:
            yield checked
        progress.advance(len(checked.tiles))
