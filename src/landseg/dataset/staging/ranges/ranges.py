"""The ranges of a staging: those of this worker's share are staged, and all of them are joined."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Mapping, Sequence

from landseg.contracts.errors import DataError
from landseg.dataset.staging.checksums import SplitChecksums
from landseg.dataset.staging.kept_split import KeptSplit
from landseg.dataset.staging.packing import ShardUploads
from landseg.dataset.staging.previous import Previous
from landseg.dataset.staging.ranges.joining import Joined
from landseg.dataset.staging.ranges.range_plan import TileRange, plan_ranges, share_of
from landseg.dataset.staging.ranges.range_results import RangeRecords
from landseg.dataset.staging.ranges.range_staging import RangeStager, SplitProgress
from landseg.dataset.staging.result import Options, StagingResult
from landseg.dataset.staging.workspace import Workspace
from landseg.raw.compact_list import Selection
from landseg.raw.expected import Expected
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.processes import ProcessPool
from landseg.raw.sources.source import Source

_STAGED_BYTES_PER_S = 139_000_000
"""By one pod, from object storage to object storage (docs/scale.md)."""

_log = logging.getLogger(__name__)


class Ranges:
    """The ranges of a staging.

    Args:
        source: where the files are.
        expected: what the tiles must be, and how they are stored.
        workspace: takes the shards, and the coordinate reference systems.
        options: how to stage, and which share of the ranges.
        result: takes what there is to say, with what was found before tiles are checked.
        tiles: the source's tiles, by split.
        previous: the dataset whose shards are used again, if there is one.
        checksums: of the tiles' files, by split, where there is such a dataset.
    """

    def __init__(
        self,
        source: Source,
        expected: Expected,
        workspace: Workspace,
        options: Options,
        result: StagingResult,
        tiles: Mapping[str, Sequence[SourceTile]],
        previous: Previous | None,
        checksums: Mapping[str, SplitChecksums],
    ) -> None:
        self._source, self._expected, self._workspace, self._options = source, expected, workspace, options
        self._result, self._tiles = result, tiles
        self._kept = self._keep(previous, checksums)
        left = {split: _without_adopted(own, self._kept[split]) for split, own in tiles.items()}
        self._all = plan_ranges(source, expected, left, self._kept, checksums, options.shard_bytes, options.code)
        self._records = RangeRecords(workspace.storage_uri)
        self._first_crs, self._first_findings = list(workspace.crs), result.findings.copy()

    def stage(self, processes: ProcessPool) -> Joined | None:
        """Check and pack this share's ranges, unless they are recorded, and join all.

        Returns:
            None where the dataset must not be published: files are wrong, or shares are not joined, for a reason that
            is in the result.

        Raises:
            DataError: several workers cannot tell each other which files they have staged.
        """
        options = self._options
        if options.num_shares > 1 and (unknown := next((one for one in self._all if one.key is None), None)):
            where = self._source.where(unknown.tiles[0].image.path)
            problem = (
                "expected files whose versions are known without reading them, as several workers need, found others"
            )
            action = "if they have just been written, try again in a few seconds; stage virtual images with one worker"
            raise DataError(where, problem, action)
        own = share_of(self._all, options.share, options.num_shares)
        joined = self._begin()
        with joined, ShardUploads(self._workspace.storage_uri) as uploads:
            self._stage(own, joined, uploads, processes)
            if options.num_shares == 1 or self._result.findings.are_fatal:
                joined.finish()
            if self._result.findings.are_fatal:
                return None
            uploads.finish()
            self._result.uploaded_bytes = uploads.uploaded_bytes
        if options.num_shares == 1:
            return joined
        if not options.joins:
            self._result.unjoined = "a run without --worker is to do it"
            return None
        return self._join()

    def forget(self) -> None:
        """Remove the records, once the dataset is published."""
        self._records.look()
        self._records.remove(self._all)

    def _begin(self) -> Joined:
        """Rows, sums and findings of nothing but what is kept of an earlier dataset."""
        self._workspace.crs[:] = self._first_crs
        self._result.begin(self._first_findings.copy(), self._workspace.crs)
        labelled = {split: any(tile.label for tile in tiles) for split, tiles in self._tiles.items()}
        return Joined(self._source, self._workspace, self._result, self._kept, labelled)

    def _stage(
        self, ranges: Sequence[TileRange], joined: Joined, uploads: ShardUploads, processes: ProcessPool
    ) -> None:
        """Take ranges from their records, or check and pack them."""
        records, findings = self._records, self._result.findings
        records.look()
        left = [one for one in ranges if not records.has(one)]
        self._warn_if_too_long(sum(one.size_bytes for one in left))
        totals = {}
        for split in self._tiles:
            total, todo = (sum(len(one.tiles) for one in some if one.split == split) for some in (ranges, left))
            totals[split] = total, total - todo
        work = self._source, self._expected, self._workspace, self._kept, uploads, self._options.shard_bytes
        stager = RangeStager(*work, findings.are_too_many)
        recorded = records.read_all(one for one in ranges if records.has(one))
        with SplitProgress(totals) as progress:
            staged = stager.stage(left, processes, progress)
            for one in ranges:
                result = next(recorded) if records.has(one) else None
                # An error need not come from the files: tiles that were bad are checked again.
                if result is None or (result.has_errors and not stager.has_same_errors(one, result, processes)):
                    result = next(stager.stage([one], processes, progress) if records.has(one) else staged)
                    if one.key is not None and not findings.would_be_fatal(result.findings):
                        uploads.add_record(records.uri(one.key), result)
                joined.add(one.split, result)

    def _warn_if_too_long(self, left_bytes: int) -> None:
        """Say so where the pipeline is likely to end the step before this share is staged."""
        limit_s, seconds = self._options.timeout_s, left_bytes / _STAGED_BYTES_PER_S
        if limit_s is None or seconds <= limit_s:
            return
        _log.warning(
            "to stage %.3g TB takes about %.3g h: the pipeline ends the step after %.3g h, and a retry goes on from "
            'the last shard; expected stage_workers=%d at least, or SET="stage-data.timeout=%dh"',
            *(left_bytes / 1e12, seconds / 3600, limit_s / 3600),
            *(math.ceil(seconds * self._options.num_shares / limit_s), math.ceil(1.1 * seconds / 3600)),
        )

    def _join(self) -> Joined | None:
        """All ranges, from their records."""
        self._records.look()
        missing = sum(not self._records.has(one) for one in self._all)
        with self._begin() as joined:
            if not missing:
                for one, result in zip(self._all, self._records.read_all(self._all), strict=True):
                    if result is None:  # removed by another worker, which has published, or damaged
                        missing += 1
                        continue
                    joined.add(one.split, result)
            if missing:
                self._result.unjoined = (
                    f"{missing} of {len(self._all)} ranges of tiles have yet to be staged by other workers, "
                    "with the same options and the same landseg"
                )
                return None
            joined.finish()
        return None if self._result.findings.are_fatal else joined

    def _keep(self, previous: Previous | None, checksums: Mapping[str, SplitChecksums]) -> dict[str, KeptSplit]:
        """What each split takes over of the earlier dataset: shards and, where they need no second look, tiles."""
        if previous is None:
            return {split: KeptSplit() for split in self._tiles}
        expected = self._expected
        same_rules = expected.kind is None or previous.has_rules_of(expected)
        scene_rule = expected.config.scenes if previous.passed_same_checks(expected) else None
        rest = self._options.shard_bytes, self._workspace
        return {
            split: previous.kept(split, checksums[split], *rest, same_rules=same_rules, scene_rule=scene_rule)
            for split in self._tiles
        }


def _without_adopted(tiles: Sequence[SourceTile], kept: KeptSplit) -> Sequence[SourceTile]:
    """The tiles that are to be checked."""
    left = array("I", (number for number, tile in enumerate(tiles) if not kept.is_adopted(tile.id)))
    return tiles if len(left) == len(tiles) else Selection(tiles, left)
