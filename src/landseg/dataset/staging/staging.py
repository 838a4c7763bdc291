"""Staging: raw tiles are checked, packed into shards, uploaded, and published by a manifest that is written last.

The same input gives the same bytes, whatever the number of processes and however often staging was killed before: what
is packed follows from the source and from the dataset that was *published* last under the same name, never from what a
killed staging left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from landseg.cli.progress import Progress
from landseg.contracts.dataset import SkippedTile, Tile
from landseg.contracts.documents import sha256_hex
from landseg.contracts.errors import DataError
from landseg.dataset.scaling import clipped, config_errors, resolve_scale
from landseg.dataset.staging.checking import checked_tiles, identify_tiles
from landseg.dataset.staging.label_findings import LabelFindings
from landseg.dataset.staging.measuring import measure_scale
from landseg.dataset.staging.packing import Packer, Place, ShardUploads, tile_row
from landseg.dataset.staging.previous import (
    Checksums,
    KeptSplit,
    Previous,
    files_uri,
    load_previous,
    load_whole,
    record_latest,
)
from landseg.dataset.staging.publishing import SplitIndex, dataset_id, publish, source_key
from landseg.dataset.staging.result import Options, StagingResult
from landseg.dataset.staging.source_files import known_checksums, write_list
from landseg.dataset.staging.workspace import Workspace
from landseg.dataset.statistics import SplitStatistics
from landseg.raw.checked_tiles import CheckedTile
from landseg.raw.config_rules import RangeScale
from landseg.raw.expected import Expected
from landseg.raw.findings import Finding, Findings
from landseg.raw.images.values import Conversion, Kind
from landseg.raw.labels.shared import open_shared_labels
from landseg.raw.layout.listing import RawDataset
from landseg.raw.layout.source_tiles import SourceTile, jobs
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
        self.source_key = source_key(raw.fingerprint)
        self.config_where = self.source.where(raw.config_path)
        self.workspace, self.options = workspace, options
        self.kind = probe_kind(self.source, [tile for tiles in self.tiles.values() for tile in tiles])
        self.shared_labels = open_shared_labels(self.source, self.config, workspace.scratch)
        self.expected = Expected(self.config, self.kind, shared_labels=self.shared_labels)
        self.findings = Findings(options.on_bad_tile, options.max_bad)
        self.findings.add(raw.pairing.findings)
        self.labels = LabelFindings(self.source, self.config)
        if self.kind is not None:
            self.findings.add(config_errors(self.config, self.kind, self.config_where))
        self.files: str | None = None
        self.indexes: dict[str, SplitIndex] = {}
        self.result = StagingResult(self.config, self.kind, self.findings)
        self.result.review.crs = workspace.crs

    def run(self) -> None:
        """Stage, or find what was staged before."""
        num_jobs = sum(1 for tiles in self.tiles.values() for _ in jobs(tiles))
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
            self._list_files(checksums)
        if self.result.loaded is not None:
            record_latest(self.workspace.storage_uri, self.result.loaded.document, self.source_key, self.files)

    def _identify(self, previous: Previous) -> dict[str, dict[str, Checksums]]:
        """The checksums of all files; only those are read that have changed since they were read last."""
        known: Mapping[str, Mapping[str, Checksums]] = {}
        if previous.files is not None and self.shared_labels is None:  # a file of all labels changes every tile
            where = files_uri(self.workspace.storage_uri, self.config.name)
            known = known_checksums(where, previous.files, self.tiles, self.workspace.scratch)
        return identify_tiles(self.source, self.tiles, known, self.options.num_processes, self.shared_labels)

    def _list_files(self, checksums: Mapping[str, Mapping[str, Checksums]]) -> None:
        """Note the checksums of the source's files, for the next staging."""
        if self.result.loaded is None or self.shared_labels is not None:
            return
        where = files_uri(self.workspace.storage_uri, self.config.name)
        found: dict[str, Iterable[tuple[str, Checksums]]] = {
            split: sorted(tiles.items()) for split, tiles in checksums.items()
        }
        if not checksums:
            found = {split: index.contents() for split, index in self.indexes.items()}
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

    def _published(self, previous: Previous, checksums: Mapping[str, Mapping[str, Checksums]]) -> Previous | None:
        """The dataset with this very content, if it is published."""
        contents = {split: sorted(tiles.items()) for split, tiles in checksums.items()}
        identity = dataset_id(self.config, contents)
        return previous if previous.manifest.dataset_id == identity else load_whole(self.workspace, identity)[0]

    def _adopt(self, dataset: Previous) -> None:
        """Take what the report needs from the index."""
        self.result.loaded = dataset.loaded
        self.result.review.crs = dataset.manifest.crs
        for split, tiles in dataset.tiles.items():
            statistics = self.result.statistics[split] = SplitStatistics()
            for tile in tiles:
                statistics.add(tile)
                self._review(split, tile)

    def _review(self, split: str, tile: Tile) -> None:
        self.result.review.add(split, tile, self.config.ignore_index)

    def _stage(
        self, processes: ProcessPool, previous: Previous | None, checksums: Mapping[str, Mapping[str, Checksums]]
    ) -> None:
        """Check and pack every split, then publish unless an error forbids it."""
        with ExitStack() as stack, ShardUploads(self.workspace.storage_uri) as uploads:
            splits = {
                split: stack.enter_context(
                    SplitIndex(self.workspace.scratch / f"tiles-{split}.jsonl", any(tile.label for tile in tiles))
                )
                for split, tiles in self.tiles.items()
            }
            for split, index in splits.items():
                self.result.statistics[split] = index.statistics
                kept = self._keep(split, index, previous, checksums.get(split, {}))
                self._stage_split(split, index, kept, processes, uploads)
                if not index.num_tiles and not self.findings.are_fatal:
                    where = self.source.where(split)
                    self.findings.add([Finding.of(DataError(where, "empty split: every tile is bad"), split)])
            self.findings.add(Finding.of(error) for error in self.labels.contradictions())
            if self.findings.are_fatal or self.kind is None:
                self.labels.condense_unknown(self.findings, self.result.statistics.values())
                return
            uploads.finish()
            self.result.uploaded_bytes = uploads.uploaded_bytes
        for index in splits.values():
            index.sort()
        self.indexes = splits
        self._publish(self.kind, splits)

    def _keep(
        self, split: str, index: SplitIndex, previous: Previous | None, checksums: Mapping[str, Checksums]
    ) -> KeptSplit:
        """Take over what the earlier dataset has of a split: shards and, where they need no second look, tiles."""
        if previous is None:
            return KeptSplit([], {})
        same_rules = self.kind is None or previous.has_rules_of(self.expected)
        kept = previous.kept(split, checksums, self.options.shard_bytes, self.workspace, same_rules=same_rules)
        index.shards = kept.shards
        if previous.passed_same_checks(self.expected):
            for source_tile in self.tiles[split]:
                tile = kept.find_source(source_tile.id, checksums[source_tile.id])
                # Tiles above the limit would be cut today.
                if tile is not None and max(tile.height, tile.width) <= self.config.scenes.max_px:
                    index.add(tile)
                    self._review(split, tile)
                    kept.adopted.add(tile.id)
        return kept

    def _stage_split(
        self, split: str, index: SplitIndex, kept: KeptSplit, processes: ProcessPool, uploads: ShardUploads
    ) -> None:
        """Check and pack the other tiles of a split; a fatal error ends the packing, not the checking and counting."""
        tiles: list[SourceTile] = [tile for tile in self.tiles[split] if tile.id not in kept.adopted]
        packer = Packer(split, index.shards, uploads, self.workspace, self.options.shard_bytes)
        progress = Progress(f"staging {split}", len(self.tiles[split]), "tiles", done=index.num_tiles)
        with progress, packer:
            for checked in checked_tiles(
                self.source, self.expected, tiles, processes, self.workspace.scratch, progress
            ):
                index.statistics.add_values(checked)
                for outcome in checked.tiles:
                    self.labels.add(outcome)
                    self.findings.add(Finding.of(error, split, outcome.tile.id) for error in outcome.errors)
                    self.findings.add(
                        Finding(
                            self.source.where(remark.path or outcome.tile.image.path),
                            remark.problem,
                            remark.action,
                            "note",
                            split,
                            outcome.tile.id,
                        )
                        for remark in outcome.remarks
                    )
                    if outcome.facts is not None:
                        tile = self._packed(outcome, kept, packer)
                        index.add(tile)
                        self._review(split, tile)
            if not self.findings.are_fatal:
                packer.end_shard()

    def _packed(self, outcome: CheckedTile, kept: KeptSplit, packer: Packer) -> Tile:
        """The row of a good tile, which lies in a shard that was kept or is packed now."""
        facts = outcome.facts
        assert facts is not None, "only good tiles are packed"
        if self.findings.are_fatal:  # for the report only
            return tile_row(outcome, facts, Place(0, (0, 0), None, None), self.workspace)
        valid_sha256 = None if outcome.valid is None else sha256_hex(outcome.valid)
        before = kept.find(outcome.tile.id, (facts.image_sha256, facts.label_sha256), valid_sha256)
        if before is not None:
            place = Place(before.shard, before.image, before.label, before.validity)
            return tile_row(outcome, facts, place, self.workspace)
        return packer.add(outcome, facts)

    def _publish(self, kind: Kind, splits: Mapping[str, SplitIndex]) -> None:
        identity = dataset_id(self.config, {split: index.contents() for split, index in splits.items()})
        if same := load_whole(self.workspace, identity)[0]:
            self.result.loaded = same.loaded
            return
        self.findings.add(self.labels.remarks())
        scale, notes = resolve_scale(self.expected, kind, self.result.statistics)
        notes += clipped(self.expected, scale, self.result.statistics)
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
