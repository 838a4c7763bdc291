"""Staging: raw tiles are checked, packed into shards, uploaded, and published by a manifest that is written last.

The same input gives the same bytes, whatever the number of processes and however often staging was killed before: what
is packed follows from the source and from the dataset that was *published* last under the same name. What a killed
staging recorded saves work, and decides nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from landseg import storage
from landseg.contracts.dataset import SkippedTile
from landseg.dataset.scaling import clipped, config_errors, narrow, nodata_ends, resolve_scale
from landseg.dataset.staging.checksums import Checksums, SplitChecksums
from landseg.dataset.staging.identifying import Identifying
from landseg.dataset.staging.measuring import measure_scale
from landseg.dataset.staging.previous import (
    Previous,
    files_uri,
    load_previous,
    load_staged_from,
    load_whole,
    record_latest,
)
from landseg.dataset.staging.publishing import SplitIndex, dataset_id, publish, source_key
from landseg.dataset.staging.ranges.ranges import Ranges
from landseg.dataset.staging.result import Options, StagingResult
from landseg.dataset.staging.review.label_findings import LabelFindings
from landseg.dataset.staging.room import staging_room
from landseg.dataset.staging.source_files import read_known, write_list
from landseg.dataset.staging.workspace import Workspace
from landseg.dataset.statistics import SplitStatistics
from landseg.raw.config.rules import RangeScale
from landseg.raw.expected import Expected
from landseg.raw.findings import Findings
from landseg.raw.images.values import Conversion, Kind
from landseg.raw.labels.shared import open_shared_labels
from landseg.raw.layout.listing import RawDataset
from landseg.raw.layout.source_tiles import jobs
from landseg.raw.probing import probe_kind
from landseg.raw.processes import ProcessPool, memory_bytes
from landseg.raw.tiff.checks import MAX_DECODED_BYTES

_COPIES = 3
"""Of a decoded tile, that checking it takes at the same time."""


def stage_dataset(raw: RawDataset, workspace: Workspace, options: Options) -> StagingResult:
    """Stage a raw dataset.

    Files that are wrong do not raise: all of them are in the result, which then has no manifest. Nothing else is
    written in that case except shards that are full already; they are used once the files are fixed.

    Raises:
        DataError: there is no dataset to look at.
        StorageError: object storage cannot be reached or refuses.
    """
    staging = _Staging(raw, workspace, options)
    staging.run()
    return staging.result


class _Staging:
    """One staging at work."""

    def __init__(self, raw: RawDataset, workspace: Workspace, options: Options) -> None:
        self.source, self.config, self.tiles = raw.source, raw.config, raw.pairing.tiles
        self.source_key = source_key(raw.fingerprint, raw.config)
        self.config_where = self.source.where(raw.config_path)
        self.workspace, self.options = workspace, options
        self.kind = probe_kind(self.source, list(self.tiles.values()))
        self.shared_labels = open_shared_labels(self.source, self.config, self.tiles, workspace.scratch)
        self.expected = Expected(self.config, self.kind, shared_labels=self.shared_labels)
        self.result = StagingResult(self.config, self.kind, Findings(options.on_bad_tile, options.max_bad))
        self.result.review.crs = workspace.crs
        self.findings.add(raw.pairing.findings)
        if self.kind is not None:
            self.findings.add(config_errors(self.config, self.kind, self.config_where))
        self.files: str | None = None
        self.identifying: Identifying | None = None
        self.ranges: Ranges | None = None
        self.indexes: dict[str, SplitIndex] = {}

    @property
    def findings(self) -> Findings:
        """What there is to say so far."""
        return self.result.findings

    def run(self) -> None:
        """Stage, or find what was staged before."""
        every_job = itertools.chain.from_iterable(map(jobs, self.tiles.values()))
        num_jobs = sum(1 for _ in itertools.islice(every_job, self.options.num_processes))
        previous, notes = load_previous(self.workspace, self.config.name)
        self.findings.add(notes)
        if previous and self._is_unchanged(previous):
            self._adopt(previous)
            self.files = previous.files
        else:
            checksums = self._identify(previous) if previous else {}
            if previous and not self.findings.errors and (same := self._published(previous, checksums)):
                self._adopt(same)
            else:
                with ProcessPool(min(self._affordable_processes(), num_jobs)) as processes:
                    if self._knows_how_to_store(processes):
                        self._stage(processes, previous, checksums)
            if self.files is None:
                self._list_files(checksums)
        if self.result.loaded is not None:
            record_latest(self.workspace.storage_uri, self.result.loaded.document, self.source_key, self.files)
            # Not before: of a staging that is killed between the two, only they tell what has been done.
            if self.identifying is not None:
                self.identifying.forget()
            if self.ranges is not None:
                self.ranges.forget()

    def _identify(self, previous: Previous) -> dict[str, SplitChecksums]:
        """The checksums of all files; only those are read that have changed since they were read last."""
        found = {split: SplitChecksums(tiles, self.workspace.scratch) for split, tiles in self.tiles.items()}
        if previous.files is not None:
            where = files_uri(self.workspace.storage_uri, self.config.name)
            shared = self.shared_labels.sha256 if self.shared_labels else None
            read_known(where, previous.files, self.tiles, found, shared, self.workspace.scratch)
        uri, options = self.workspace.storage_uri, self.options
        self.identifying = Identifying(self.source, self.tiles, found, uri, self.shared_labels)
        self.identifying.run(options.share, options.num_shares, options.num_processes)
        return found

    def _list_files(self, checksums: Mapping[str, SplitChecksums]) -> None:
        """Note the checksums of the source's files, for the next staging."""
        if self.result.loaded is None:
            return
        where = files_uri(self.workspace.storage_uri, self.config.name)
        found: dict[str, Iterable[tuple[str, Checksums]]] = {
            split: of_split.in_order() for split, of_split in checksums.items()
        }
        if not checksums:
            found = {split: index.files() for split, index in self.indexes.items()}
        self.files = write_list(where, self.tiles, found, self.workspace.scratch)

    def _knows_how_to_store(self, processes: ProcessPool) -> bool:
        """Find out how the images' values are stored; False where `dataset.yaml` has to say it."""
        kind = self.kind
        if kind is None or any(finding.where == self.config_where for finding in self.findings.errors):
            return True  # nothing is stored: all files are checked
        if kind.is_wide and not isinstance(self.config.scale, RangeScale):
            split = next(name for name, tiles in self.tiles.items() if tiles)
            measured = self.source, self.expected, split, self.tiles[split], processes
            scale, findings = measure_scale(*measured, where=self.config_where)
            self.findings.add(findings)
            if scale is None:
                return False
            self.expected = replace(self.expected, measured=scale)
        conversion = Conversion.of(kind, self.expected.bands, self.expected.scale)
        self.expected = replace(self.expected, conversion=conversion)
        return True

    def _affordable_processes(self) -> int:
        """As many as were asked for, unless their largest tiles would not fit into half of the memory."""
        side, kind = self.config.scenes.max_px, self.kind
        pixel_bytes = kind.num_bands * np.dtype(kind.dtype).itemsize if kind else 1
        tile_bytes = min(MAX_DECODED_BYTES, side * side * pixel_bytes)
        return max(1, min(self.options.num_processes, memory_bytes() // 2 // (_COPIES * tile_bytes)))

    def _is_unchanged(self, previous: Previous) -> bool:
        """Whether no file of the source has changed since the earlier dataset was staged, without reading any."""
        same = self.source_key is not None and self.source_key == previous.source
        return same and not self.findings.errors and not previous.manifest.skipped

    def _published(self, previous: Previous, checksums: Mapping[str, SplitChecksums]) -> Previous | None:
        """The dataset with this very content, if it is published."""
        contents = {split: of_split.in_order() for split, of_split in checksums.items()}
        identity = dataset_id(self.config, contents)
        return previous if previous.manifest.dataset_id == identity else load_whole(self.workspace, identity)[0]

    def _published_by_another(self, previous: Previous | None) -> Previous | None:
        """The dataset that another worker has published since this one began, and then removed what it joined."""
        if not self.options.joins or self.source_key is None:
            return None
        found = load_staged_from(self.workspace, self.config.name, self.source_key)
        return found if found and not (previous and previous.loaded.uri == found.loaded.uri) else None

    def _adopt(self, dataset: Previous) -> None:
        """Take what the report needs from the index."""
        self.result.loaded = dataset.loaded
        self.result.review.crs = dataset.manifest.crs
        for split, tiles in dataset.tiles.items():
            statistics = self.result.statistics[split] = SplitStatistics()
            for tile in tiles:
                statistics.add(tile)
                self.result.review.add(split, tile, self.config.ignore_index)

    def _stage(
        self, processes: ProcessPool, previous: Previous | None, checksums: Mapping[str, SplitChecksums]
    ) -> None:
        """Check and pack this share's ranges, then publish unless others are missing or an error forbids it."""
        needed = staging_room(self.tiles, self.options, is_new=previous is None)
        storage.check_room(self.workspace.scratch, needed)
        before = self.findings.copy()
        ranges = Ranges(
            self.source, self.expected, self.workspace, self.options, self.result, self.tiles, previous, checksums
        )
        joined = ranges.stage(processes)
        if self.result.unjoined and (published := self._published_by_another(previous)):
            self.result.begin(before, published.manifest.crs)
            self.result.unjoined = ""
            self._adopt(published)
            self.files, self.ranges = published.files, ranges
            return
        if joined is None or self.kind is None:
            return
        self.indexes = joined.indexes
        for index in self.indexes.values():
            index.sort()
        self._publish(self.kind, joined.labels)
        self.ranges = ranges

    def _publish(self, kind: Kind, labels: LabelFindings) -> None:
        splits = self.indexes
        identity = dataset_id(self.config, {split: index.contents() for split, index in splits.items()})
        if same := load_whole(self.workspace, identity)[0]:
            self.result.loaded = same.loaded
            return
        self.findings.add(labels.remarks())
        scale, notes = resolve_scale(self.expected, kind, self.result.statistics)
        if self.options.for_models and (errors := nodata_ends(self.expected, scale, self.config_where)):
            self.findings.add(errors)
            return
        notes += clipped(self.expected, scale, self.result.statistics)
        notes += narrow(self.expected, scale, self.result.statistics)
        self.findings.add(notes if self.options.for_models else [])
        # Wherever the source lies, the same dataset has the same manifest: paths are relative to it.
        skipped = [
            SkippedTile.model_validate(
                {
                    "split": finding.split,
                    "id": finding.tile_id,
                    "problem": str(finding.error).removeprefix(f"{self.source.uri}/"),
                }
            )
            for finding in self.findings.errors
        ]
        self.result.loaded = publish(self.workspace, identity, self.expected, scale, splits, skipped)
