"""Staging: raw tiles are checked, packed into shards, uploaded, and published by a manifest that is written last."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from landseg import storage
from landseg.data.checks import CheckedTile, Expected, Kind, TileFacts, check_tiles, probe_kind
from landseg.data.manifest import DatasetManifest, Scale, Shard, SplitInfo, Tile
from landseg.data.schema import DatasetConfig, PercentileScale, parse_config
from landseg.data.shards import Boundaries, ShardWriter, member_names
from landseg.data.sources import Source, SourceTile, pair
from landseg.data.statistics import SplitStatistics, percentile_scale
from landseg.data.workers import ordered_map
from landseg.documents import Blob, digest
from landseg.errors import DataError, ObjectNotFoundError
from landseg.progress import Progress

_CHUNK_BYTES = 8 << 20
_CHUNK_TILES = 64
_SHOWN_PROBLEMS = 5


@dataclass
class Staged:
    """What staging did.

    Attributes:
        loaded: the published manifest.
        statistics: by split.
        notes: what the user should know and did not ask.
        uploaded_bytes: bytes of shards that were not there before.
    """

    loaded: storage.Loaded[DatasetManifest]
    statistics: dict[str, SplitStatistics]
    notes: list[str]
    uploaded_bytes: int


@dataclass
class _StagedSplit:
    """A split whose shards are uploaded."""

    labelled: bool
    index: Path
    content: hashlib._Hash = field(default_factory=hashlib.sha256)
    shards: list[Shard] = field(default_factory=list)
    statistics: SplitStatistics = field(default_factory=SplitStatistics)
    num_tiles: int = 0


class ShardUploads:
    """Uploads finished shards in the background, at most two waiting; those already in storage are left alone."""

    def __init__(self, storage_uri: str) -> None:
        self.folder = storage.join(storage_uri, "datasets", "shards")
        self.uploaded_bytes = 0
        self._pool = ThreadPoolExecutor(2)
        self._pending: deque[Future[int]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def add(self, path: Path, sha256: str) -> None:
        """Take over a shard file; it is removed once it is in storage."""
        while len(self._pending) >= 2:
            self.uploaded_bytes += self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._upload, path, storage.join(self.folder, f"{sha256}.tar")))

    def finish(self) -> None:
        """Wait until every shard is in storage."""
        while self._pending:
            self.uploaded_bytes += self._pending.popleft().result()

    @staticmethod
    def _upload(path: Path, uri: str) -> int:
        size = path.stat().st_size
        there = storage.stat(uri)
        known = there is not None and there.size_bytes == size
        if not known:
            storage.put_file(uri, path)
        path.unlink()
        return 0 if known else size


def stage_dataset(source: Source, storage_uri: str, scratch: Path, *, shard_bytes: int, num_workers: int) -> Staged:
    """Stage a raw dataset.

    The same input gives the same bytes, whatever the number of processes; what is already in storage is not uploaded
    again; and unless every file is fine, no manifest is written.

    Raises:
        DataError: what is wrong with the dataset, all files considered.
    """
    files = source.files()
    config = parse_config(source.config(), source.where("dataset.yaml"))
    pairing = pair(source, files)
    tiles = [tile for split in pairing.tiles.values() for tile in split]
    kind = probe_kind(source, tiles)
    problems = pairing.problems + _config_problems(config, kind, source)
    expected = Expected(kind, _label_values(config), _labels_hint(config))
    with ShardUploads(storage_uri) as uploads:
        splits = {
            split: _stage_split(source, split, members, expected, uploads, problems, scratch, shard_bytes, num_workers)
            for split, members in pairing.tiles.items()
        }
        if problems or kind is None:
            raise summarised(problems, source)
        uploads.finish()
    scale, notes = _resolve_scale(config, kind, {name: split.statistics for name, split in splits.items()})
    loaded = _publish(config, kind, scale, splits, storage_uri)
    return Staged(
        loaded,
        {name: split.statistics for name, split in splits.items()},
        _band_notes(config, kind) + pairing.notes + notes,
        uploads.uploaded_bytes,
    )


def summarised(problems: Sequence[DataError], source: Source) -> DataError:
    """All problems as one error line: the first few, and how many more there are."""
    if len(problems) == 1:
        return problems[0]
    prefix = f"{source.uri}/"
    shown = "; ".join(str(problem).removeprefix(prefix) for problem in problems[:_SHOWN_PROBLEMS])
    more = len(problems) - _SHOWN_PROBLEMS
    return DataError(source.uri, f"{len(problems)} problems: {shown}" + (f"; and {more} more" if more > 0 else ""))


def _stage_split(
    source: Source,
    split: str,
    tiles: Sequence[SourceTile],
    expected: Expected,
    uploads: ShardUploads,
    problems: list[DataError],
    scratch: Path,
    shard_bytes: int,
    num_workers: int,
) -> _StagedSplit:
    """Check and pack the tiles of a split in order; from the first problem on, checking goes on but uploading ends."""
    staged = _StagedSplit(any(tile.label for tile in tiles), scratch / f"tiles-{split}.jsonl")
    jobs = list(_chunks(tiles))
    check = functools.partial(check_tiles, source, expected=expected)
    with (
        Progress(f"staging {split}", len(tiles), "tiles") as progress,
        staged.index.open("w", encoding="utf-8") as index,
        _Packer(split, staged, uploads, scratch, shard_bytes) as packer,
    ):
        for checked, histogram in ordered_map(check, jobs, min(num_workers, len(jobs))):
            staged.statistics.add_histogram(histogram)
            for outcome in checked:
                problems += outcome.problems
                if outcome.facts is not None and not problems:
                    tile = packer.add(outcome, outcome.facts)
                    staged.statistics.add(outcome.facts)
                    staged.num_tiles += 1
                    staged.content.update(f"{tile.id} {tile.image_sha256} {tile.label_sha256}\n".encode())
                    index.write(json.dumps(tile.model_dump(mode="json"), separators=(",", ":")) + "\n")
            progress.advance(len(checked))
        if not problems:
            packer.end_shard()
    return staged


class _Packer:
    """Appends tiles to the current shard and hands full shards to the uploads."""

    def __init__(
        self, split: str, staged: _StagedSplit, uploads: ShardUploads, scratch: Path, shard_bytes: int
    ) -> None:
        self._split, self._staged, self._uploads, self._scratch = split, staged, uploads, scratch
        self._boundaries = Boundaries(shard_bytes)
        self._writer: ShardWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, checked: CheckedTile, facts: TileFacts) -> Tile:
        """Append a tile; returns its row of the index."""
        tile = checked.tile
        if self._boundaries.starts_shard(tile.id, len(checked.image) + len(checked.label or b"")):
            self.end_shard()
        if self._writer is None:
            path = self._scratch / f"{self._split}-{len(self._staged.shards)}.tar"
            self._writer = ShardWriter(path).__enter__()
        names = member_names(tile.id, checked.label)
        image = self._writer.add(next(names), checked.image)
        label = None if checked.label is None else self._writer.add(next(names), checked.label)
        self._writer.num_tiles += 1
        return Tile(
            id=tile.id,
            shard=len(self._staged.shards),
            image=image,
            label=label,
            height=facts.height,
            width=facts.width,
            image_sha256=facts.image_sha256,
            label_sha256=facts.label_sha256,
        )

    def end_shard(self) -> None:
        """Finish the current shard, if there is one."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        sha256 = writer.finish()
        self._uploads.add(writer.path, sha256)
        self._staged.shards.append(
            Shard(
                path=f"../shards/{sha256}.tar",
                size_bytes=writer.size_bytes,
                sha256=sha256,
                num_tiles=writer.num_tiles,
            )
        )


def _publish(
    config: DatasetConfig, kind: Kind, scale: Scale | None, splits: dict[str, _StagedSplit], storage_uri: str
) -> storage.Loaded[DatasetManifest]:
    """Write the indexes, then the manifest; a dataset that is already published stays as it is."""
    content = {name: split.content.hexdigest() for name, split in splits.items()}
    dataset_id = digest({"format": 1, "config": config.model_dump(mode="json"), "splits": content})[:16]
    folder = storage.join(storage_uri, "datasets", dataset_id)
    uri = storage.join(folder, "manifest.json")
    try:
        return storage.read_document(DatasetManifest, uri)
    except ObjectNotFoundError:
        pass
    schema = config.class_schema(kind.num_bands, scale)
    infos = {}
    for name, split in splits.items():
        sha256 = storage.file_sha256(split.index)
        # The name holds the checksum: two stagings at once that cut shards differently do not mix their indexes.
        index = Blob(path=f"tiles-{name}-{sha256[:12]}.jsonl", size_bytes=split.index.stat().st_size, sha256=sha256)
        storage.put_file(storage.join(folder, index.path), split.index)
        mean, std = split.statistics.mean_std(schema.bands)
        infos[name] = SplitInfo(
            num_tiles=split.num_tiles,
            labelled=split.labelled,
            shards=tuple(split.shards),
            index=index,
            class_pixels=split.statistics.class_pixels(schema) if split.labelled else (),
            ignored_pixels=split.statistics.ignored_pixels(schema) if split.labelled else 0,
            band_mean=mean,
            band_std=std,
        )
    manifest = DatasetManifest.model_validate(
        {
            "dataset_id": dataset_id,
            "name": config.name,
            "class_schema": schema,
            "num_bands": kind.num_bands,
            "dtype": kind.dtype,
            "splits": infos,
        }
    )
    return storage.write_document(uri, manifest)


def _chunks(tiles: Iterable[SourceTile]) -> Iterator[list[SourceTile]]:
    """Jobs for worker processes: consecutive tiles, a few megabytes each."""
    chunk: list[SourceTile] = []
    size = 0
    for tile in tiles:
        if chunk and (size + tile.size_bytes > _CHUNK_BYTES or len(chunk) >= _CHUNK_TILES):
            yield chunk
            chunk, size = [], 0
        chunk.append(tile)
        size += tile.size_bytes
    if chunk:
        yield chunk


def _config_problems(config: DatasetConfig, kind: Kind | None, source: Source) -> list[DataError]:
    """What dataset.yaml asks for and the images do not have."""
    if kind is None:
        return []
    where = source.where("dataset.yaml")
    if config.bands and max(config.bands) > kind.num_bands:
        return [DataError(where, f"bands asks for band {max(config.bands)}, the images have {kind.num_bands}")]
    try:
        config.scale_for(len(config.bands) if config.bands else kind.num_bands)
    except ValueError as err:
        return [DataError(where, str(err))]
    return []


def _label_values(config: DatasetConfig) -> frozenset[int]:
    return frozenset(range(config.label_offset, config.label_offset + len(config.classes))) | {config.ignore_index}


def _labels_hint(config: DatasetConfig) -> str:
    last = config.label_offset + len(config.classes) - 1
    return f"{config.label_offset}-{last} for the {len(config.classes)} classes, or {config.ignore_index} (ignored)"


def _band_notes(config: DatasetConfig, kind: Kind) -> list[str]:
    if config.bands or kind.num_bands == 3:
        return []
    return [f"dataset.yaml names no bands: all {kind.num_bands} are used, in the files' order"]


def _resolve_scale(
    config: DatasetConfig, kind: Kind, statistics: dict[str, SplitStatistics]
) -> tuple[Scale | None, list[str]]:
    """The scale of the selected bands, and what to say about it."""
    bands = config.bands or tuple(range(1, kind.num_bands + 1))
    if fixed := config.scale_for(len(bands)):
        return fixed, []
    rule, notes = config.scale, []
    if rule is None and kind.dtype == "uint16":
        rule = PercentileScale()
        notes.append("uint16 images and no scale in dataset.yaml: percentiles 1-99 become 0-255")
    if not isinstance(rule, PercentileScale):
        return None, notes
    split = next(iter(statistics))
    if split != "train":
        notes.append(f"there is no train split: the scale comes from {split}")
    histogram = statistics[split].histogram
    assert histogram is not None, "a staged split has tiles"
    scale, flat = percentile_scale(histogram, bands, rule.low, rule.high)
    shown = ", ".join(f"{low:g}-{high:g}" for low, high in itertools.zip_longest(scale.low, scale.high))
    notes.append(f"scale per band: {shown}")
    notes += [f"band {band} is nearly constant in {split}: its percentiles fall together" for band in flat]
    return scale, notes
