"""Staging: raw tiles are checked, packed into shards, uploaded, and published by a manifest that is written last.

The same input gives the same bytes, whatever the number of processes and however often staging was killed before: what
is packed follows from the source and from the dataset that was *published* last under the same name, never from what a
killed staging left behind.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import ClassSchema, DatasetManifest, GeoKeys, SkippedTile, Tile
from landseg.contracts.errors import DataError
from landseg.dataset.packing import Packer, ShardUploads, tile_row
from landseg.dataset.previous import Checksums, Previous, load_previous, load_whole, note
from landseg.dataset.publishing import SplitIndex, dataset_id, publish, source_key
from landseg.dataset.review import Findings
from landseg.dataset.scaling import config_problems, needs_histogram, resolve_scale
from landseg.dataset.statistics import SplitStatistics
from landseg.raw.checks import (
    READS_AT_ONCE,
    Checked,
    Expected,
    Kind,
    check_tiles,
    identify_tile,
    probe_kind,
)
from landseg.raw.cutting import cut_scene
from landseg.raw.dataset_yaml import FILE_NAME, DatasetConfig, parse_config
from landseg.raw.findings import Problem, Problems
from landseg.raw.pairing import Pairing, SourceTile, jobs, pair
from landseg.raw.processes import Workers
from landseg.raw.sources import Source


@dataclass(frozen=True)
class Options:
    """How to stage.

    Attributes:
        shard_bytes: target size of a shard.
        num_workers: processes that decode.
        on_bad_tile: whether a bad tile fails the staging or is left out.
        max_bad: with `skip`, more bad tiles than this fail it all the same.
    """

    shard_bytes: int
    num_workers: int
    on_bad_tile: Literal["fail", "skip"] = "fail"
    max_bad: int = 10


@dataclass
class Staged:
    """What staging found and did.

    Attributes:
        config: `dataset.yaml`.
        kind: bands and type of the images; None where none could be read.
        loaded: the published manifest; None where problems kept it from being published.
        statistics: by split.
        problems: what is wrong; with a manifest, what was left out.
        findings: what is odd.
        notes: what the user should know and did not ask.
        uploaded_bytes: bytes of shards that were not there before.
    """

    config: DatasetConfig
    kind: Kind | None = None
    loaded: storage.Loaded[DatasetManifest] | None = None
    statistics: dict[str, SplitStatistics] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    findings: Findings = field(default_factory=Findings)
    notes: list[str] = field(default_factory=list)
    uploaded_bytes: int = 0


def stage_dataset(source: Source, storage_uri: str, scratch: Path, options: Options) -> Staged:
    """Stage a raw dataset.

    Files that are wrong do not raise: all of them are in the result, which then has no manifest. Nothing else is
    written in that case but shards that are full already; they are used when the files are mended.

    Raises:
        DataError: there is no dataset to look at.
        StorageError: object storage cannot be reached or refuses.
    """
    key = source_key(source.fingerprint())
    files = source.files()
    config = parse_config(source.config(files), source.where(FILE_NAME))
    pairing = pair(source, files)
    del files
    staging = _Staging(source, key, storage_uri, scratch, options, config, pairing)
    staging.run()
    return staging.result


class _Staging:
    """One staging at work."""

    def __init__(
        self,
        source: Source,
        source_key: str | None,
        storage_uri: str,
        scratch: Path,
        options: Options,
        config: DatasetConfig,
        pairing: Pairing,
    ) -> None:
        self.source_key = source_key
        self.source, self.storage_uri, self.scratch, self.options = source, storage_uri, scratch, options
        self.config, self.tiles = config, pairing.tiles
        every = [tile for tiles in pairing.tiles.values() for tile in tiles]
        self.kind = probe_kind(source, every)
        self.expected = Expected(config, self.kind)
        self.result = Staged(config, self.kind, notes=pairing.notes)
        self.result.problems = Problems(options.on_bad_tile, options.max_bad)
        self.result.problems.add(pairing.problems)
        if self.kind is not None:
            self.result.problems.add(config_problems(config, self.kind, source.where(FILE_NAME)))
        self.crs: list[GeoKeys] = []

    def run(self) -> None:
        """Stage, or find what was staged before."""
        num_jobs = sum(1 for tiles in self.tiles.values() for _ in jobs(tiles))
        previous, notes = load_previous(self.storage_uri, self.config.name, self.scratch)
        self.result.notes += notes
        with Workers(min(self.options.num_workers, num_jobs)) as workers:
            unchanged = previous is not None and self._is_unchanged(previous)
            checksums = self._identify() if previous and not unchanged else {}
            if previous and unchanged:
                self._adopt(previous)
            elif previous and not self.result.problems and (same := self._published(previous, checksums)):
                self._adopt(same)
            else:
                self._stage(workers, previous, checksums)
        if self.result.loaded is not None:
            note(self.storage_uri, self.result.loaded.document, self.source_key)

    def _is_unchanged(self, previous: Previous) -> bool:
        """Whether no file of the source has changed since the earlier dataset was staged, without reading any."""
        same = self.source_key is not None and self.source_key == previous.source
        return same and not self.result.problems and not previous.manifest.skipped

    def _identify(self) -> dict[str, dict[str, Checksums]]:
        """Checksums of all files, by split and stem. Threads will do: reading and hashing leave the interpreter."""
        workers = READS_AT_ONCE if self.source.is_remote else self.options.num_workers
        found: dict[str, dict[str, Checksums]] = {}
        for split, tiles in self.tiles.items():
            found[split] = {}
            with Progress(f"reading {split}", len(tiles), "tiles") as progress:
                # A thread's share is several tiles: handing out single ones costs as much as reading them.
                for identified in storage.parallel(self._identify_some, jobs(tiles), workers=workers):
                    found[split].update(identified)
                    progress.advance(len(identified))
        return found

    def _identify_some(self, tiles: Sequence[SourceTile]) -> list[tuple[str, Checksums]]:
        return [(tile.id, identify_tile(self.source, tile)) for tile in tiles]

    def _published(self, previous: Previous, checksums: Mapping[str, Mapping[str, Checksums]]) -> Previous | None:
        """The dataset with this very content, if it is published."""
        contents = {split: sorted(tiles.items()) for split, tiles in checksums.items()}
        identity = dataset_id(self.config, contents)
        if previous.manifest.dataset_id == identity:
            return previous
        return load_whole(self.storage_uri, identity, self.scratch)[0]

    def _adopt(self, dataset: Previous) -> None:
        """Take what the report needs from the index."""
        self.result.loaded = dataset.loaded
        for split, tiles in dataset.tiles.items():
            statistics = self.result.statistics[split] = SplitStatistics()
            for tile in tiles:
                statistics.add(tile)
                self.result.findings.add(split, tile, self.config.ignore_index)

    def _stage(
        self,
        workers: Workers,
        previous: Previous | None,
        checksums: Mapping[str, Mapping[str, Checksums]],
    ) -> None:
        result = self.result
        with ExitStack() as stack, ShardUploads(self.storage_uri) as uploads:
            splits = {
                split: stack.enter_context(
                    SplitIndex(self.scratch / f"tiles-{split}.jsonl", any(tile.label for tile in tiles))
                )
                for split, tiles in self.tiles.items()
            }
            for split, index in splits.items():
                result.statistics[split] = index.statistics
                self._stage_split(split, index, workers, uploads, previous, checksums.get(split, {}))
                if not index.num_tiles and not self.result.problems.are_fatal:
                    where = self.source.where(split)
                    result.problems.add([Problem(DataError(where, "empty split: every tile is bad"), split)])
            if self.result.problems.are_fatal or self.kind is None:
                return
            uploads.finish()
            result.uploaded_bytes = uploads.uploaded_bytes
        for index in splits.values():
            index.sort()
        identity = dataset_id(self.config, {split: index.contents() for split, index in splits.items()})
        if same := load_whole(self.storage_uri, identity, self.scratch)[0]:
            result.loaded = same.loaded
            return
        scale, notes = resolve_scale(self.config, self.kind, result.statistics)
        result.notes += notes
        skipped = [
            SkippedTile.model_validate({"split": problem.split, "id": problem.id, "problem": self._said(problem)})
            for problem in result.problems
        ]
        result.loaded = publish(self.storage_uri, identity, self.config, self.kind, scale, splits, self.crs, skipped)

    def _said(self, problem: Problem) -> str:
        """The problem in the manifest's words: wherever the source lies, the same dataset has the same manifest."""
        return str(problem.error).removeprefix(f"{self.source.uri}/")

    def _stage_split(
        self,
        split: str,
        index: SplitIndex,
        workers: Workers,
        uploads: ShardUploads,
        previous: Previous | None,
        checksums: Mapping[str, Checksums],
    ) -> None:
        """Check and pack the tiles of a split; a fatal problem ends the packing, not the checking and counting."""
        tiles = self.tiles[split]
        kept = previous.kept(split, checksums, self.options.shard_bytes, self.crs) if previous else None
        index.shards = kept.shards if kept else []
        if previous and kept and self._trusts(previous):
            good = {tile.id for tile in tiles if self._is_known(kept.find(tile.id, checksums[tile.id]))}
            for tile_id in sorted(good):
                index.add(kept.tiles[tile_id])
                self.result.findings.add(split, kept.tiles[tile_id], self.config.ignore_index)
            tiles = [tile for tile in tiles if tile.id not in good]
        packer = Packer(split, index.shards, uploads, self.scratch, self.options.shard_bytes, self.crs)
        progress = Progress(f"staging {split}", len(self.tiles[split]), "tiles", done=index.num_tiles)
        with progress, packer:
            for checked in self._checked(tiles, workers, progress):
                index.statistics.add_histogram(checked.histogram)
                for outcome in checked.tiles:
                    self.result.problems.add(Problem(error, split, outcome.tile.id) for error in outcome.problems)
                    facts = outcome.facts
                    if facts is None:
                        continue
                    before = kept and kept.find(outcome.tile.id, (facts.image_sha256, facts.label_sha256))
                    if self.result.problems.are_fatal:  # for the report only
                        tile = tile_row(outcome, facts, 0, (0, 0), None, self.crs)
                    elif before:
                        tile = tile_row(outcome, facts, before.shard, before.image, before.label, self.crs)
                    else:
                        tile = packer.add(outcome, facts)
                    index.add(tile)
                    self.result.findings.add(split, tile, self.config.ignore_index)
            if not self.result.problems.are_fatal:
                packer.end_shard()

    def _checked(self, tiles: Sequence[SourceTile], workers: Workers, progress: Progress) -> Iterator[Checked]:
        """Check tiles in order; scenes are cut where they come."""
        check = functools.partial(check_tiles, self.source, self.expected)
        for checked in workers.map(check, jobs(tiles)):
            if any(outcome.is_scene for outcome in checked.tiles):
                yield from self._cut(checked, workers)
            else:
                yield checked
            progress.advance(len(checked.tiles))

    def _cut(self, checked: Checked, workers: Workers) -> Iterator[Checked]:
        yield Checked([outcome for outcome in checked.tiles if not outcome.is_scene], checked.histogram)
        for outcome in checked.tiles:
            if outcome.is_scene:
                yield from cut_scene(self.source, self.expected, outcome.tile, workers, self.scratch)

    def _is_known(self, tile: Tile | None) -> bool:
        """Whether a tile of the earlier dataset would be staged as it is, and not be cut."""
        return tile is not None and max(tile.height, tile.width) <= self.config.scenes.max_px

    def _trusts(self, previous: Previous) -> bool:
        """Whether the earlier dataset's tiles need no second look: they were held to the same rules."""
        manifest = previous.manifest
        if self.kind is None or needs_histogram(self.config, self.kind):
            return False
        same = self.config.class_schema(self.kind.num_bands, manifest.class_schema.scale)
        return Kind(manifest.num_bands, manifest.dtype) == self.kind and _label_rules(same) == _label_rules(
            manifest.class_schema
        )


def _label_rules(schema: ClassSchema) -> tuple[int, int, int, int | None]:
    return schema.num_classes, schema.label_offset, schema.ignore_index, schema.stored_ignore
