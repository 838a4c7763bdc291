"""Writing a model's probabilities to object storage, a shard at a time."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.documents import Blob, sha256_hex
from landseg.contracts.errors import ContractError, DataError
from landseg.contracts.probabilities import ProbsManifest, ProbsShard, ProbsSpec, ProbsSplit, StoredTile
from landseg.contracts.tile import Tile
from landseg.dataset.index import TileIndex
from landseg.probabilities import codec
from landseg.probabilities.codec import DTYPES, Probs, Stored, Summary
from landseg.probabilities.layout import ShardPlan, plan_splits, share_cuts, zarr_metadata
from landseg.probabilities.shard_index import write_index
from landseg.storage.records import read_record, write_record

_RECORDS_AHEAD = 64


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
        own, sizes = self.share(share, num_shares), storage.sizes_below(self.folder)
        recorded = [plan for plan in own if plan.record in sizes]
        found = storage.parallel(lambda plan: (plan.record, self._finished(plan, sizes) is not None), recorded)
        finished = {record for record, is_finished in found if is_finished}
        return [plan for plan in own if plan.record not in finished]

    def shard(self, plan: ShardPlan) -> ShardBuilder:
        """Start a shard."""
        return ShardBuilder(self.folder, self.spec, plan)

    def publish(self) -> storage.Loaded[ProbsManifest] | None:
        """Write the arrays' metadata and the manifest; None while shards are missing, e.g. those of other shares."""
        sizes = storage.sizes_below(self.folder)
        if any(plan.record not in sizes for plan in self.plan):
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
        """The shard, from its record; None where that, or an object that it lists, is not in place.

        Args:
            plan: the shard.
            sizes: of all objects in the folder, by path in it.
        """
        where = storage.join(self.folder, plan.record)
        shard = read_record(ProbsShard, where)
        if shard is None:
            return None
        if (shard.path, shard.tiles) != (plan.path, plan.tiles):
            raise ContractError(where, "describes tiles other than this run's", "use another run id")
        blobs: tuple[Blob, ...] = (shard, *shard.views)
        stands = all(sizes.get(blob.path) == blob.size_bytes for blob in blobs)
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
    _in_bf16: set[str] = field(default_factory=set)
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
        tile, where = self._tile(tile_id), self._where(tile_id)
        for values in (probs, *views):
            codec.check_probs(values, len(self.spec.classes), (tile.height, tile.width), where)
        self._store(tile_id, [codec.quantize(values, DTYPES[self.spec.dtype]) for values in (probs, *views)])

    def add_stored(self, tile_id: str, stored: Sequence[Stored], summaries: Sequence[Summary]) -> None:
        """Compress a tile that was quantised elsewhere.

        Args:
            tile_id: a tile of the plan.
            stored: (C, H, W) each: the mean, then each view that `spec` keeps.
            summaries: of the probabilities that these were, in the same order.

        Raises:
            DataError: they were no probabilities, or the tile does not belong to the shard.
        """
        self._tile(tile_id)
        for summary in summaries:
            codec.check_summary(summary, self._where(tile_id))
        self._store(tile_id, stored)

    def note_bf16(self, tile_id: str) -> None:
        """Record that the network overflowed in fp16 on a tile, which was predicted in bf16 instead."""
        with self._lock:
            self._in_bf16.add(tile_id)

    def _tile(self, tile_id: str) -> StoredTile:
        tile = self._tiles.get(tile_id)
        if tile is None:
            raise DataError(f"tile {tile_id}", f"is not a tile of shard {self.plan.path}")
        return tile

    def _where(self, tile_id: str) -> str:
        return f"probabilities of tile {tile_id} by {self.spec.model}"

    def _store(self, tile_id: str, arrays: Sequence[Stored]) -> None:
        if len(arrays) != 1 + len(self.spec.views):
            raise DataError(
                self._where(tile_id), f"expected the views {self.spec.views}, found {len(arrays) - 1} views"
            )
        chunks = [codec.encode_tile(stored, self.plan.canvas) for stored in arrays]
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
            in_bf16=tuple(sorted(self._in_bf16)),
        )
        write_record(storage.join(self.folder, self.plan.record), shard)
        return shard

    def _put(self, path: str, position: int) -> Blob:
        """Write the object that joins the chunks at one position of :attr:`_chunks`, of all tiles."""
        data = codec.pack_shard([self._chunks[tile_id][position] for tile_id in self._tiles], self.plan.capacity)
        storage.put_bytes(storage.join(self.folder, path), data)
        return Blob(path=path, size_bytes=len(data), sha256=sha256_hex(data))
