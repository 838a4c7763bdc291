"""What ranges of tiles give together: the rows, sums and findings of a dataset, taken range by range in order."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from landseg.contracts.errors import DataError
from landseg.contracts.tile import Tile
from landseg.dataset.staging.kept_split import KeptSplit
from landseg.dataset.staging.publishing import SplitIndex
from landseg.dataset.staging.ranges.range_results import RangeResult, from_text
from landseg.dataset.staging.result import StagingResult
from landseg.dataset.staging.review.label_findings import LabelFindings
from landseg.dataset.staging.workspace import Workspace
from landseg.raw.checked_tiles import Checked
from landseg.raw.findings import Finding
from landseg.raw.sources.source import Source


class Joined:
    """Rows, sums and findings of the splits, filled range by range.

    Args:
        source: where the files are, for error lines.
        workspace: takes the coordinate reference systems of the rows; its local folder holds the rows.
        result: takes the findings, the statistics and what looks suspicious.
        kept: what each split takes over from an earlier dataset. The tiles that it has adopted are added first.
        labelled: whether each split has labels.

    Attributes:
        indexes: the rows, by split.
        labels: what the labels show only together.
    """

    def __init__(
        self,
        source: Source,
        workspace: Workspace,
        result: StagingResult,
        kept: Mapping[str, KeptSplit],
        labelled: Mapping[str, bool],
    ) -> None:
        self._source, self._workspace, self._result, self._kept = source, workspace, result, kept
        self.labels = LabelFindings(source, result.config)
        self.indexes = {
            split: SplitIndex(workspace.scratch / f"tiles-{split}.jsonl", is_labelled)
            for split, is_labelled in labelled.items()
        }

    def __enter__(self) -> Self:
        for split, index in self.indexes.items():
            index.__enter__()
            self._result.statistics[split] = index.statistics
            index.shards = list(self._kept[split].shards)
            for row in self._kept[split].adopted():
                self._add_row(split, row)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for index in self.indexes.values():
            index.close()

    def add(self, split: str, found: RangeResult) -> None:
        """Take the next range of a split."""
        index, num_kept = self.indexes[split], len(self._kept[split].shards)
        moved_by = len(index.shards) - num_kept
        positions = [self._workspace.crs_index(keys) for keys in found.crs]
        is_as_it_is = not moved_by and positions == list(range(len(positions)))
        index.statistics.add_values(Checked([], from_text(found.histogram), from_text(found.extremes)))
        for row in found.rows:
            self._add_row(split, row if is_as_it_is else _moved(row, num_kept, moved_by, positions))
        index.shards += found.shards
        index.scenes |= found.scenes
        self._result.findings.add(found.findings)
        self.labels.add_facts(found.labels)

    def _add_row(self, split: str, row: Tile) -> None:
        self.indexes[split].add(row)
        self._result.review.add(split, row, self._result.config.ignore_index)

    def finish(self) -> None:
        """Look at the whole, once all ranges are in or one of them had a fatal error."""
        findings = self._result.findings
        for split, index in self.indexes.items():
            if not index.num_tiles and not findings.are_fatal:
                where = self._source.where(split)
                findings.add([Finding.of(DataError(where, "empty split: every tile is bad"), split)])
        findings.add(Finding.of(error) for error in self.labels.contradictions())
        findings.add(Finding.of(error) for error in self.labels.unsaid_masks(self._result.statistics))
        if not findings.are_fatal:
            findings.add(Finding.of(error) for error in self.labels.nothing_labelled(self._result.statistics))
            findings.add(Finding.of(error) for error in self.labels.one_class_alone(self._result.statistics))
        if findings.are_fatal:
            self.labels.condense_unknown(findings, self._result.statistics.values())


def _moved(row: Tile, num_kept: int, moved_by: int, positions: list[int]) -> Tile:
    """A row with the numbers that its shard and its coordinate reference system have in the dataset."""
    return row.moved(row.shard + moved_by if row.shard >= num_kept else row.shard, positions.__getitem__)
