"""Writing and reading a model's probabilities in object storage, a shard at a time."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

from landseg import storage
from landseg.contracts.dataset import Split, Tile
from landseg.contracts.documents import Blob, sha256_hex
from landseg.contracts.errors import ContractError, DataError
from landseg.contracts.probabilities import ProbsManifest, ProbsShard, ProbsSpec, ProbsSplit, StoredTile
from landseg.dataset.index import TileIndex
from landseg.probabilities import codec
from landseg.probabilities.codec import DTYPES, Probs, Stored
from landseg.probabilities.layout import ShardPlan, plan_splits, share_cuts, zarr_metadata
from landseg.probabilities.shard_index import ShardIndex, write_index
from landseg.storage.records import read_record, write_record

_RECORDS_AHEAD = 256


class ProbsWriter:
    """Writes a model's probabilities. Whenever it is killed, the next writer on the folder resumes where it stopped.

    Several writers may share the work (`pending(share, num_shares)`): each writes its own shards, and the manifest is
    the same as that of a single writer.

    Attributes:
        folder: URI of the folder.
        spec: what the probabilities depend on.
        plan: every shard.
    """

    def __init__(self, folder: str, spec: ProbsSpec, tiles: Mapping[Split, TileIndex | Iterable[Tile]]) -> None:
        """Plan the shards.

        Args:
            folder: URI; used for this `spec` and these tiles only, e.g. `StageContext.folder` with their digests.
            spec: what the probabilities depend on.
            tiles: the tiles of each split, sorted by id.
        """
        self.folder, self.spec = folder, spec
        self.plan = plan_splits(tiles, len(spec.classes))

    @functools.cached_property
    def metadata(self) -> dict[str, bytes]:
        """The arrays' metadata, which the manifest does not list: by name in the folder."""
        return zarr_metadata(self.spec, self.plan)

    def share(self, share: int, num_shares: int) -> Sequence[ShardPlan]:
        """The shards of a share (counted from 0, of `num_shares`): neighbours, so that no two read the same data."""
        cuts = share_cuts(self.plan, num_shares)
        return self.plan[cuts[share] : cuts[share + 1]]

    def pending(self, share: int = 0, num_shares: int = 1) -> list[ShardPlan]:
        """The shards of a share that have yet to be written."""
        own, sizes = self.share(share, num_shares), self._sizes()
        recorded = [plan for plan in own if storage.join(self.folder, plan.record) in sizes]
        found = storage.parallel(lambda plan: (plan.record, self._finished(plan, sizes) is not None), recorded)
        finished = {record for record, is_finished in found if is_finished}
        return [plan for plan in own if plan.record not in finished]

    def shard(self, plan: ShardPlan) -> ShardBuilder:
        """Start a shard."""
        return ShardBuilder(self.folder, self.spec, plan)

    def publish(self) -> storage.Loaded[ProbsManifest] | None:
        """Write the arrays' metadata and the manifest; None while shards are missing, e.g. those of other shares."""
        sizes = self._sizes()
        if any(storage.join(self.folder, plan.record) not in sizes for plan in self.plan):
            return None
        splits: dict[Split, ProbsSplit | tuple[ProbsShard, ...]] = {}
        try:
            for split, plans in groupby(self.plan, key=lambda plan: plan.split):
                splits[split] = write_index(self.folder, split, self._in_order(plans, sizes))
        except _UnfinishedError:
            return None
        storage.put_many((storage.join(self.folder, name), data) for name, data in self.metadata.items())
        manifest = ProbsManifest(spec=self.spec, splits=splits)
        return storage.publish_manifest(storage.join(self.folder, "manifest.json"), manifest)

    def _sizes(self) -> dict[str, int]:
        """Sizes of all objects in the folder, by URI."""
        return {info.uri: info.size_bytes for info in storage.list_objects(self.folder)}

    def _in_order(self, plans: Iterable[ShardPlan], sizes: Mapping[str, int]) -> Iterator[ProbsShard]:
        """The finished shards, a few in memory at a time."""
        ahead = iter(plans)
        while some := list(islice(ahead, _RECORDS_AHEAD)):
            found = dict(storage.parallel(lambda plan: (plan.record, self._finished(plan, sizes)), some))
            for plan in some:
                shard = found[plan.record]
                if shard is None:
                    raise _UnfinishedError
                yield shard

    def _finished(self, plan: ShardPlan, sizes: Mapping[str, int]) -> ProbsShard | None:
        """The shard, from its record; None where that, or an object that it lists, is not in place."""
        where = storage.join(self.folder, plan.record)
        shard = read_record(ProbsShard, where)
        if shard is None:
            return None
        if (shard.path, shard.tiles) != (plan.path, plan.tiles):
            raise ContractError(where, "describes tiles other than this run's", "use another run id")
        blobs: tuple[Blob, ...] = (shard, *shard.views)
        stands = all(sizes.get(storage.join(self.folder, blob.path)) == blob.size_bytes for blob in blobs)
        return shard if stands else None


class _UnfinishedError(Exception):
    """A shard has yet to be written."""


@dataclass
class ShardBuilder:
    """Takes a shard's tiles in any order, from any thread, and writes the finished object."""

    folder: str
    spec: ProbsSpec
    plan: ShardPlan
    _tiles: dict[str, StoredTile] = field(init=False)
    _chunks: dict[str, list[bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._tiles = {tile.id: tile for tile in self.plan.tiles}

    def add(self, tile_id: str, probs: Probs, views: Sequence[Probs] = ()) -> None:
        """Encode a tile.

        Args:
            tile_id: a tile of the plan.
            probs: (C, H, W) float32 in 0-1, sums to 1 over C, at the tile's own size.
            views: likewise, for each view that `spec` keeps.

        Raises:
            DataError: `probs` is something else, or the tile does not belong to the shard.
        """
        tile = self._tiles.get(tile_id)
        if tile is None:
            raise DataError(f"tile {tile_id}", f"is not a tile of shard {self.plan.path}")
        where = f"probabilities of tile {tile_id} by {self.spec.model}"
        if len(views) != len(self.spec.views):
            raise DataError(where, f"expected the views {self.spec.views}, found {len(views)} views")
        chunks = []
        for values in (probs, *views):
            codec.check_probs(values, len(self.spec.classes), (tile.height, tile.width), where)
            chunks.append(codec.encode_tile(codec.quantize(values, DTYPES[self.spec.dtype]), self.plan.canvas))
        with self._lock:
            self._chunks[tile_id] = chunks

    def close(self) -> ProbsShard:
        """Write the shard, then its record, which marks it as finished.

        Raises:
            DataError: a tile was not added.
        """
        missing = [tile_id for tile_id in self._tiles if tile_id not in self._chunks]
        if missing:
            raise DataError(
                f"shard {self.plan.path}", f"{len(missing)} tiles were not added, the first is {missing[0]}"
            )
        paths = [self.plan.path, *(self.plan.view_path(view) for view in range(len(self.spec.views)))]
        mean, *views = [self._put(path, position) for position, path in enumerate(paths)]
        shard = ProbsShard(
            **mean.model_dump(),
            canvas=self.plan.canvas,
            capacity=self.plan.capacity,
            tiles=tuple(self._tiles.values()),
            views=tuple(views),
        )
        write_record(storage.join(self.folder, self.plan.record), shard)
        return shard

    def _put(self, path: str, position: int) -> Blob:
        """Write the object that joins the chunks at one position of :attr:`_chunks`, of all tiles."""
        data = codec.pack_shard([self._chunks[tile_id][position] for tile_id in self._tiles], self.plan.capacity)
        storage.put_bytes(storage.join(self.folder, path), data)
        return Blob(path=path, size_bytes=len(data), sha256=sha256_hex(data))


@dataclass(frozen=True)
class ProbsReader:
    """A model's published probabilities.

    Attributes:
        manifest: their manifest.
        uri: where it was read from.
        sha256: its checksum.
        scratch: local folder for shards while they are open.
    """

    manifest: ProbsManifest
    uri: str
    sha256: str
    scratch: Path

    @classmethod
    def open(cls, ref: str, scratch: Path) -> ProbsReader:
        """Open the manifest at a URI or path, or the one that a reference file points to.

        Args:
            ref: the manifest or reference.
            scratch: see :attr:`scratch`.

        Raises:
            StorageError: it cannot be read.
            ContractError: it is not a manifest of probabilities, or its version is unknown.
        """
        loaded = storage.read_document(ProbsManifest, ref)
        return cls(loaded.document, loaded.uri, loaded.sha256, scratch)

    @property
    def spec(self) -> ProbsSpec:
        """What the probabilities depend on."""
        return self.manifest.spec

    def index(self, split: Split) -> ShardIndex:
        """The shards of a split."""
        return self._indexes[split]

    @functools.cached_property
    def _indexes(self) -> dict[Split, ShardIndex]:
        folder = storage.parent(self.uri)
        return {split: ShardIndex(self.manifest, split, folder) for split in self.manifest.splits}

    @contextlib.contextmanager
    def shard(self, split: Split, index: int, view: int | None = None) -> Iterator[ShardReader]:
        """A shard, verified against its checksum; one in object storage lies in :attr:`scratch` while it is open.

        Args:
            split: the split.
            index: number of the shard in the split.
            view: number of the view in `spec.views`; None for the mean over views.

        Raises:
            DamagedObjectError: the shard is not what was written.
            StorageError: it is missing or cannot be read.
        """
        shard = self.index(split)[index]
        blob = shard if view is None else shard.views[view]
        uri = self._uri(blob)
        with contextlib.ExitStack() as stack:
            if storage.is_s3(uri):
                path = self.scratch / f"{self.sha256[:16]}-{split}-{index}-{'mean' if view is None else view}"
                stack.callback(path.unlink, missing_ok=True)
                storage.get_file(uri, path, sha256=blob.sha256)
            else:
                path = Path(uri)
                storage.check(uri, size_bytes=blob.size_bytes, sha256=blob.sha256)
            file = stack.enter_context(path.open("rb"))
            yield ShardReader(
                shard, self.spec, uri, blob.size_bytes, lambda offset, length: os.pread(file.fileno(), length, offset)
            )

    def read_tile(self, split: Split, tile_id: str, view: int | None = None) -> Stored:
        """One tile, by ranged reads: as :meth:`ShardReader.read`, but only damage to its own bytes is noticed.

        Args:
            split: the split.
            tile_id: the tile.
            view: number of the view in `spec.views`; None for the mean over views.
        """
        place = self.index(split).place(tile_id) if split in self.manifest.splits else None
        if place is None:
            raise DataError(f"tile {tile_id}", f"is not in the probabilities of {self.spec.model} for split {split}")
        shard, position = self.index(split)[place[0]], place[1]
        blob = shard if view is None else shard.views[view]
        uri = self._uri(blob)
        return ShardReader(shard, self.spec, uri, blob.size_bytes, functools.partial(_fetch_range, uri)).read(position)

    def _uri(self, blob: Blob) -> str:
        return storage.join(storage.parent(self.uri), blob.path)


@dataclass(frozen=True)
class ShardReader:
    """An open shard; several threads may read at once.

    Attributes:
        shard: what the manifest says about it.
        spec: what the probabilities depend on.
        uri: the object.
        size_bytes: of the object.
        fetch: returns the bytes at (offset, length).
    """

    shard: ProbsShard
    spec: ProbsSpec
    uri: str
    size_bytes: int
    fetch: Callable[[int, int], bytes]

    def read(self, position: int) -> Stored:
        """Decode the tile at a position of `shard.tiles`.

        Returns:
            (C, H, W), stored values: :func:`landseg.probabilities.codec.dequantize` turns them into probabilities.

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
        tail = self.fetch(max(0, self.size_bytes - length), length)
        return codec.unpack_index(tail, len(self.shard.tiles), self.shard.capacity, self.size_bytes, self.uri)


def _fetch_range(uri: str, offset: int, length: int) -> bytes:
    return storage.get_bytes(uri, byte_range=(offset, length))
