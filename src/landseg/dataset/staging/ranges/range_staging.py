"""Checking and packing ranges of tiles, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from operator import itemgetter
from typing import Self

from landseg.cli.progress import Progress
from landseg.contracts.documents import sha256_hex
from landseg.contracts.tile import Tile
from landseg.dataset.staging.checking import checked_tiles
from landseg.dataset.staging.checksums import Checksums
from landseg.dataset.staging.kept_split import KeptSplit
from landseg.dataset.staging.packing import Packer, Place, ShardUploads, tile_row
from landseg.dataset.staging.ranges.range_plan import TileRange
from landseg.dataset.staging.ranges.range_results import RangeResult, to_text
from landseg.dataset.staging.review.label_findings import LabelFindings
from landseg.dataset.staging.workspace import Workspace
from landseg.dataset.statistics import SplitStatistics
from landseg.raw.checked_tiles import Checked, CheckedTile
from landseg.raw.expected import Expected
from landseg.raw.findings import Finding
from landseg.raw.processes import ProcessPool
from landseg.raw.sources.source import Source


class SplitProgress:
    """The progress of one split after the other.

    Args:
        totals: tiles of each split, and how many of them are done before.
    """

    def __init__(self, totals: Mapping[str, tuple[int, int]]) -> None:
        self._totals = totals
        self._split = ""
        self._stack = ExitStack()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def advance(self, split: str, count: int) -> None:
        """Count finished tiles of a split."""
        if split != self._split or self._progress is None:
            self._stack.close()
            total, done = self._totals[split]
            self._progress = self._stack.enter_context(Progress(f"staging {split}", total, "tiles", done=done))
            self._split = split
        self._progress.advance(count)


class RangeStager:
    """Checks and packs ranges.

    Args:
        source: where the files are.
        expected: what the tiles must be, and how they are stored.
        workspace: where shards are written before they are uploaded.
        kept: what each split takes over from an earlier dataset.
        uploads: takes the finished shards.
        shard_bytes: target size of a shard.
        are_too_many: whether these further bad tiles, by split and id, keep the dataset from being published: then
            nothing is packed any more, but tiles are checked and counted to the end.
    """

    def __init__(
        self,
        source: Source,
        expected: Expected,
        workspace: Workspace,
        kept: Mapping[str, KeptSplit],
        uploads: ShardUploads,
        shard_bytes: int,
        are_too_many: Callable[[Set[tuple[str, str]]], bool],
    ) -> None:
        self._source, self._expected, self._workspace = source, expected, workspace
        self._kept, self._uploads, self._shard_bytes, self._are_too_many = kept, uploads, shard_bytes, are_too_many

    def stage(
        self, ranges: Sequence[TileRange], processes: ProcessPool, progress: SplitProgress
    ) -> Iterator[RangeResult]:
        """Stage ranges in order.

        Args:
            ranges: the ranges.
            processes: check the tiles; they go on with the next range while one is being packed.
            progress: is told of them.
        """
        found = checked_tiles(
            self._source,
            self._expected,
            [one.tiles for one in ranges],
            processes,
            self._workspace.scratch,
            lambda number, count: progress.advance(ranges[number].split, count),
        )
        for number, of_range in itertools.groupby(found, key=itemgetter(0)):
            yield self._stage(ranges[number], (checked for _, checked in of_range))

    def has_same_errors(self, one: TileRange, recorded: RangeResult, processes: ProcessPool) -> bool:
        """Whether the bad tiles of a recorded range, checked again, are as bad as before."""
        errors = _errors(recorded.findings)
        ids = {finding.tile_id for finding in errors}
        bad = [tile for tile in one.tiles if tile.id in ids]
        if len(bad) < len(ids):  # others were cut from a scene, which is cut as a whole
            return False
        scratch = self._workspace.scratch
        found = checked_tiles(self._source, self._expected, [bad], processes, scratch, lambda number, count: None)
        outcomes = (outcome for _, checked in found for outcome in checked.tiles)
        return _errors(about for outcome in outcomes for about in self._about(one.split, outcome)) == errors

    def _stage(self, one: TileRange, found: Iterator[Checked]) -> RangeResult:
        kept = self._kept[one.split]
        workspace = Workspace(self._workspace.storage_uri, self._workspace.scratch)
        values = SplitStatistics()
        labels = LabelFindings(self._source, self._expected.config)
        findings: list[Finding] = []
        rows: list[Tile] = []
        scenes: dict[str, Checksums] = {}
        bad: set[tuple[str, str]] = set()
        is_fatal = self._are_too_many(bad)
        name = f"{one.split}-{one.number}"
        with Packer(name, len(kept.shards), self._uploads, workspace, self._shard_bytes) as packer:
            for checked in found:
                values.add_values(checked)
                for outcome in checked.tiles:
                    labels.add(outcome)
                    if outcome.scene_files is not None:
                        scenes[outcome.tile.id] = outcome.scene_files
                    findings += self._about(one.split, outcome)
                    if outcome.errors:
                        bad.add((one.split, outcome.tile.id))
                        is_fatal = is_fatal or self._are_too_many(bad)
                    if outcome.facts is not None:
                        rows.append(self._row(outcome, kept, packer, workspace, is_fatal))
            if not is_fatal:
                packer.end_shard()
        return RangeResult(
            shards=tuple(packer.shards),
            crs=tuple(workspace.crs),
            rows=tuple(rows),
            scenes=scenes,
            findings=tuple(findings),
            labels=labels.facts(),
            histogram=to_text(values.histogram),
            extremes=to_text(values.extremes),
        )

    def _about(self, split: str, outcome: CheckedTile) -> Iterator[Finding]:
        for error in outcome.errors:
            yield Finding.of(error, split, outcome.tile.id)
        for remark in outcome.remarks:
            where = self._source.where(remark.path or outcome.tile.image.path)
            yield Finding(where, remark.problem, remark.action, remark.severity, split, outcome.tile.id)

    def _row(self, outcome: CheckedTile, kept: KeptSplit, packer: Packer, workspace: Workspace, is_fatal: bool) -> Tile:
        """The row of a good tile, which lies in a shard that was kept or is packed now."""
        facts = outcome.facts
        assert facts is not None, "only good tiles are packed"
        if is_fatal:  # for the report only
            return tile_row(outcome, facts, Place(0, (0, 0), None, None), workspace)
        valid_sha256 = None if outcome.valid is None else sha256_hex(outcome.valid)
        before = kept.find(outcome.tile.id, (facts.image_sha256, facts.label_sha256), valid_sha256)
        if before is not None:
            return tile_row(outcome, facts, Place(before.shard, before.image, before.label, before.validity), workspace)
        return packer.add(outcome, facts)


def _errors(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]
