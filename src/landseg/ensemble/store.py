"""Writing and reading a model's probabilities in object storage, a shard at a time."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from landseg import storage
from landseg.data.manifest import Split, Tile
from landseg.documents import sha256_hex, validate
from landseg.ensemble import codec
from landseg.ensemble.codec import DTYPES, Probs, Stored
from landseg.ensemble.layout import ShardPlan, plan_shards, zarr_metadata
from landseg.ensemble.manifest import ProbsManifest, ProbsShard, ProbsSpec, StoredTile
from landseg.errors import ContractError, DataError


class ProbsWriter:
    """Writes a model's probabilities; killed at any moment, the next writer on the folder goes on where it stopped.

    Several writers may share the work (`pending(worker, num_workers)`): each writes its own shards, and the manifest is
    the same as one writer's.

    Attributes:
        folder: URI of the folder.
        spec: what decides the probabilities.
        plan: every shard.
    """

    def __init__(self, folder: str, spec: ProbsSpec, tiles: Mapping[Split, Sequence[Tile]]) -> None:
        """Plan the shards.

        Args:
            folder: URI; must be of this `spec` and these tiles alone, e.g. `StageContext.folder` with their digests.
            spec: what decides the probabilities.
            tiles: the tiles of each split, sorted by id.
        """
        self.folder, self.spec = folder, spec
        self.plan: list[ShardPlan] = []
        for split, members in tiles.items():
            stored = [StoredTile(tile.id, tile.height, tile.width) for tile in members]
            self.plan += plan_shards(split, stored, len(spec.classes))

    def pending(self, worker: int = 0, num_workers: int = 1) -> list[ShardPlan]:
        """The shards that worker `worker` (counted from 0) of `num_workers` has still to write."""
        finished = self._finished()
        return [plan for plan in self.plan[worker::num_workers] if plan.record not in finished]

    def shard(self, plan: ShardPlan) -> ShardBuilder:
        """Begin a shard."""
        return ShardBuilder(self.folder, self.spec, plan)

    def publish(self) -> storage.Loaded[ProbsManifest] | None:
        """Write the arrays' metadata and the manifest; None while shards are missing, e.g. those of other workers."""
        finished = self._finished()
        if len(finished) < len(self.plan):
            return None
        metadata = zarr_metadata(self.spec, self.plan)
        storage.put_many((storage.join(self.folder, name), data) for name, data in metadata.items())
        splits: dict[Split, list[ProbsShard]] = {}
        for plan in self.plan:
            splits.setdefault(plan.split, []).append(finished[plan.record])
        manifest = ProbsManifest(spec=self.spec, splits={split: tuple(shards) for split, shards in splits.items()})
        return storage.write_document(storage.join(self.folder, "manifest.json"), manifest)

    def _finished(self) -> dict[str, ProbsShard]:
        """Records of the shards that are in place, by name."""
        sizes = {info.uri: info.size_bytes for info in storage.list_objects(self.folder)}

        def read(plan: ShardPlan) -> tuple[ShardPlan, ProbsShard]:
            uri = storage.join(self.folder, plan.record)
            return plan, validate(ProbsShard, storage.get_bytes(uri), uri)

        recorded = [plan for plan in self.plan if storage.join(self.folder, plan.record) in sizes]
        finished = {}
        for plan, shard in storage.parallel(read, recorded):
            if (shard.path, shard.tiles) != (plan.path, plan.tiles):
                where = storage.join(self.folder, plan.record)
                raise ContractError(where, "describes other tiles than this run's", "use another run id")
            if sizes.get(storage.join(self.folder, plan.path)) == shard.size_bytes:
                finished[plan.record] = shard
        return finished


@dataclass
class ShardBuilder:
    """Takes a shard's tiles in any order, from any thread, and puts the finished object in place."""

    folder: str
    spec: ProbsSpec
    plan: ShardPlan
    _chunks: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, tile_id: str, probs: Probs) -> None:
        """Encode a tile.

        Args:
            tile_id: a tile of the plan.
            probs: (C, H, W) float32 in 0-1, sums to 1 over C, at the tile's own size.

        Raises:
            DataError: that is not what `probs` holds, or the tile does not belong here.
        """
        tile = next((tile for tile in self.plan.tiles if tile.id == tile_id), None)
        if tile is None:
            raise DataError(f"tile {tile_id}", f"is not a tile of shard {self.plan.path}")
        where = f"probabilities of tile {tile_id} by {self.spec.model}"
        codec.check_probs(probs, len(self.spec.classes), (tile.height, tile.width), where)
        chunk = codec.encode_tile(codec.quantize(probs, DTYPES[self.spec.dtype]), self.plan.canvas)
        with self._lock:
            self._chunks[tile_id] = chunk

    def close(self) -> ProbsShard:
        """Write the shard, then its record: from then on it counts as finished.

        Raises:
            DataError: a tile was not added.
        """
        missing = [tile.id for tile in self.plan.tiles if tile.id not in self._chunks]
        if missing:
            raise DataError(
                f"shard {self.plan.path}", f"{len(missing)} tiles were not added, the first is {missing[0]}"
            )
        data = codec.pack_shard([self._chunks[tile.id] for tile in self.plan.tiles], self.plan.capacity)
        shard = ProbsShard(
            path=self.plan.path,
            size_bytes=len(data),
            sha256=sha256_hex(data),
            canvas=self.plan.canvas,
            capacity=self.plan.capacity,
            tiles=self.plan.tiles,
        )
        storage.put_bytes(storage.join(self.folder, shard.path), data)
        record = json.dumps(shard.model_dump(mode="json")).encode()
        storage.put_bytes(storage.join(self.folder, self.plan.record), record)
        return shard


@dataclass(frozen=True)
class ProbsReader:
    """A model's published probabilities.

    Attributes:
        manifest: their manifest.
        uri: where it was read.
        sha256: its checksum.
    """

    manifest: ProbsManifest
    uri: str
    sha256: str

    @classmethod
    def open(cls, ref: str) -> ProbsReader:
        """Open by the URI or path of the manifest, or by a reference file.

        Raises:
            StorageError: it cannot be read.
            ContractError: it is not a manifest of probabilities, or one of an unknown version.
        """
        loaded = storage.read_document(ProbsManifest, ref)
        return cls(loaded.document, loaded.uri, loaded.sha256)

    @property
    def spec(self) -> ProbsSpec:
        """What decides the probabilities."""
        return self.manifest.spec

    @contextlib.contextmanager
    def shard(self, split: Split, index: int, scratch: Path) -> Iterator[ShardReader]:
        """A shard, verified against its checksum; downloaded to `scratch` for as long as it is open.

        Raises:
            DamagedObjectError: the shard is not what was written.
            StorageError: it is missing or cannot be read.
        """
        shard = self.manifest.splits[split][index]
        uri = self._uri(shard)
        with contextlib.ExitStack() as stack:
            if storage.is_s3(uri):
                path = scratch / f"{self.sha256[:16]}-{split}-{index}"
                stack.callback(path.unlink, missing_ok=True)
                storage.get_file(uri, path, sha256=shard.sha256)
            else:
                path = Path(uri)
                storage.check(uri, size_bytes=shard.size_bytes, sha256=shard.sha256)
            file = stack.enter_context(path.open("rb"))
            yield ShardReader(shard, self.spec, uri, lambda offset, length: os.pread(file.fileno(), length, offset))

    def read_tile(self, split: Split, tile_id: str) -> Stored:
        """One tile, by ranged reads: as :meth:`ShardReader.read`, but only damage to its own bytes can be seen."""
        if (split, tile_id) not in self._places:
            raise DataError(f"tile {tile_id}", f"is not in the probabilities of {self.spec.model} for split {split}")
        shard, position = self._places[split, tile_id]
        uri = self._uri(shard)
        return ShardReader(shard, self.spec, uri, functools.partial(_fetch_range, uri)).read(position)

    @functools.cached_property
    def _places(self) -> dict[tuple[Split, str], tuple[ProbsShard, int]]:
        return {
            (split, tile.id): (shard, position)
            for split, shards in self.manifest.splits.items()
            for shard in shards
            for position, tile in enumerate(shard.tiles)
        }

    def _uri(self, shard: ProbsShard) -> str:
        return storage.join(storage.parent(self.uri), shard.path)


@dataclass(frozen=True)
class ShardReader:
    """An open shard; reads from several threads at once.

    Attributes:
        shard: what the manifest says of it.
        spec: what decides the probabilities.
        uri: the shard.
        fetch: bytes at (offset, length).
    """

    shard: ProbsShard
    spec: ProbsSpec
    uri: str
    fetch: Callable[[int, int], bytes]

    def read(self, position: int) -> Stored:
        """Decode the tile at a position of `shard.tiles`.

        Returns:
            (C, H, W), stored values: :func:`landseg.ensemble.codec.dequantize` makes probabilities of them.

        Raises:
            DamagedObjectError: the bytes are not what was written.
        """
        tile = self.shard.tiles[position]
        offset, length = self._index[position]
        chunk = self.fetch(offset, length)
        where = f"tile {tile.id} in {self.uri}"
        size = (tile.height, tile.width)
        return codec.decode_tile(chunk, DTYPES[self.spec.dtype], len(self.spec.classes), self.shard.canvas, size, where)

    @functools.cached_property
    def _index(self) -> list[tuple[int, int]]:
        length = codec.index_bytes(self.shard.capacity)
        tail = self.fetch(max(0, self.shard.size_bytes - length), length)
        return codec.unpack_index(tail, len(self.shard.tiles), self.shard.capacity, self.shard.size_bytes, self.uri)


def _fetch_range(uri: str, offset: int, length: int) -> bytes:
    return storage.get_bytes(uri, byte_range=(offset, length))
