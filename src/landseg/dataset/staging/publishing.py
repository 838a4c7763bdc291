"""Publishing: tile indexes, then the manifest that names them, written last."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from landseg import storage
from landseg.contracts.dataset import DatasetManifest, Scale, Shard, SkippedTile, SplitInfo
from landseg.contracts.documents import Blob, digest, sha256_hex
from landseg.contracts.errors import DataError, StorageError
from landseg.contracts.tile import Tile
from landseg.dataset.places import manifest_uri, shards_folder
from landseg.dataset.staging.checksums import Checksums
from landseg.dataset.staging.previous import lacking_shard
from landseg.dataset.staging.workspace import Workspace
from landseg.dataset.statistics import SplitStatistics
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.expected import Expected

_FORMAT = 1
"""Part of every dataset id: raise it when the same input gives another result."""
_SORTED_AT_ONCE = 8192
_BUFFER_BYTES = 16 << 10
"""Of each sorted part: there are hundreds."""


def source_key(fingerprint: str | None, config: DatasetConfig) -> str | None:
    """The digest that is recorded of a source's fingerprint: another format or configuration means staging again.

    `dataset.yaml` is a file of the source only where it lies there; predicting brings its own.
    """
    return fingerprint and digest({"format": _FORMAT, "source": fingerprint, "config": config.model_dump(mode="json")})


@dataclass
class SplitIndex:
    """The rows of a split, written to a local file as they come and sorted at the end.

    Attributes:
        path: the file; JSON Lines.
        labelled: whether the tiles have labels.
        shards: of the split.
        statistics: over its tiles.
        num_tiles: rows so far.
        has_others: whether a tile is stored otherwise than as its files are, or has pixels without data.
        scenes: checksums of the files of scenes that were cut, by id.
    """

    path: Path
    labelled: bool
    shards: list[Shard] = field(default_factory=list)
    statistics: SplitStatistics = field(default_factory=SplitStatistics)
    num_tiles: int = 0
    has_others: bool = False
    scenes: dict[str, Checksums] = field(default_factory=dict)
    _last_id: str = ""
    _is_sorted: bool = True
    _file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, tile: Tile) -> None:
        """Append a row."""
        assert self._file is not None, "the index is a context manager"
        row = tile.model_dump(mode="json", exclude_defaults=True)
        self._file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        self.statistics.add(tile)
        self._is_sorted = self._is_sorted and self._last_id < tile.id
        self._last_id = tile.id
        self.num_tiles += 1
        self.has_others |= bool(tile.source_image_sha256 or tile.source_label_sha256 or tile.validity)

    def sort(self) -> None:
        """Sort the rows by id; without scenes and an earlier dataset they are sorted already.

        Raises:
            DataError: two tiles have the same id.
        """
        if self._is_sorted:
            return
        unsorted = self.path.with_suffix(".unsorted")
        self.path.rename(unsorted)
        last = ""
        with self.path.open("wb") as writer:
            for tile_id, row in _in_order(unsorted):
                if tile_id == last:
                    problem = "a tile cut from a scene has the same name as another"
                    raise DataError(f"tile {tile_id}", problem, "rename the scene")
                last = tile_id
                writer.write(row)
        unsorted.unlink()

    def contents(self) -> Iterable[tuple[str, Checksums]]:
        """Id and checksums of each tile's files in the source, in order; of a tile cut from a scene, its own."""
        with self.path.open("rb") as file:
            for line in file:
                row = json.loads(line)
                image = row.get("source_image_sha256", row["image_sha256"])
                if "scene" in row and "validity" in row:  # which the bytes of a cut image do not tell
                    image = sha256_hex(f"{image} {row['validity']['sha256']}".encode())
                yield row["id"], (image, row.get("source_label_sha256", row["label_sha256"]))

    def files(self) -> Iterable[tuple[str, Checksums]]:
        """Id and checksums of each tile's or scene's files in the source, in order, among those of tiles of scenes."""
        return heapq.merge(self.contents(), sorted(self.scenes.items()))


def _in_order(path: Path) -> Iterator[tuple[str, bytes]]:
    """The rows of an index by id, sorted in parts that fit into memory: those of a million tiles would not."""
    with path.open("rb") as reader, ExitStack() as stack:
        parts = []
        while rows := [(json.loads(row)["id"], row) for row in itertools.islice(reader, _SORTED_AT_ONCE)]:
            part = stack.enter_context(tempfile.TemporaryFile(dir=path.parent, buffering=_BUFFER_BYTES))
            part.writelines(row for _, row in sorted(rows))
            part.seek(0)
            parts.append(part)
        yield from heapq.merge(*(((json.loads(row)["id"], row) for row in part) for part in parts))


def dataset_id(config: DatasetConfig, splits: Mapping[str, Iterable[tuple[str, Checksums]]]) -> str:
    """The id of a dataset's content: `dataset.yaml`, and id and files of every tile, in order; not of its shards."""
    content = {}
    for name, tiles in splits.items():
        lines = hashlib.sha256()
        for tile_id, (image_sha256, label_sha256) in tiles:
            lines.update(f"{tile_id}\n{image_sha256}\n{label_sha256}\n".encode())
        content[name] = lines.hexdigest()
    fields = config.model_dump(mode="json", exclude={"band_names"} if config.band_names is None else None)
    return digest({"format": _FORMAT, "config": fields, "splits": content})[:16]


def publish(
    workspace: Workspace,
    identity: str,
    expected: Expected,
    scale: Scale | None,
    splits: Mapping[str, SplitIndex],
    skipped: Iterable[SkippedTile],
) -> storage.Loaded[DatasetManifest]:
    """Write the indexes, then the manifest.

    Raises:
        StorageError: a shard that was written, or kept from an earlier dataset, is missing, perhaps pruned meanwhile.
    """
    if lacking := lacking_shard(workspace.storage_uri, (split.shards for split in splits.values())):
        where = storage.join(shards_folder(workspace.storage_uri), lacking.path.rpartition("/")[2])
        raise StorageError(where, f"expected a shard of {lacking.size_bytes} bytes, found none", "stage again")
    uri = manifest_uri(workspace.storage_uri, identity)
    folder = storage.parent(uri)
    config, kind, conversion = expected.config, expected.kind, expected.conversion
    assert kind is not None, "tiles were read"
    schema = config.class_schema(expected.bands, scale)
    infos = {}
    for name, split in splits.items():
        sha256 = storage.file_sha256(split.path)
        # The name holds the checksum: concurrent stagings that cut shards differently do not mix their indexes.
        index = Blob(path=f"tiles-{name}-{sha256[:12]}.jsonl", size_bytes=split.path.stat().st_size, sha256=sha256)
        storage.put_file(storage.join(folder, index.path), split.path)
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
            "dataset_id": identity,
            "name": config.name,
            "class_schema": schema,
            "num_bands": kind.num_bands,
            "dtype": conversion.stored if conversion else kind.dtype,
            "band_names": config.band_names or (),
            "splits": infos,
            "crs": tuple(workspace.crs),
            "skipped": tuple(skipped),
            "label_map": config.label_map,
            "label_source": config.labels,
            "source_values": conversion and conversion.record,
            "nodata": config.nodata,
            "rules": expected.rules if expected.has_own_rules or any(s.has_others for s in splits.values()) else None,
        }
    )
    return storage.publish_manifest(uri, manifest)
