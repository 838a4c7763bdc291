"""Reading a staged dataset: tile index, images and labels by tile, from shards on local disk or by range."""

from __future__ import annotations

import fcntl
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.dataset import ClassSchema, DatasetManifest, SplitInfo
from landseg.contracts.documents import Blob, Sha256
from landseg.contracts.errors import ConfigError
from landseg.contracts.tile import Tile
from landseg.dataset.cache import ShardCache, default_limit
from landseg.dataset.index import TileIndex
from landseg.dataset.shard_bytes import mapped, neighbours, open_shard
from landseg.dataset.stored_values import to_class_ids, to_model_range
from landseg.raw.images.validity import decode_mask
from landseg.raw.tiff.decoding import decode_image, decode_label

Access = Literal["neighbours", "random", "few"]
"""How a dataset in object storage is read. `neighbours`: shard by shard; those read before make room. `random`: in
shards too where the whole dataset fits into the cache, else by tile. `few`: single tiles, or only labels: by tile."""


@dataclass
class StagedDataset:
    """A published dataset, read in place or, from object storage, as its tiles are asked for.

    Attributes:
        manifest: the dataset's manifest.
        uri: where the manifest was read.
        sha256: checksum of the manifest's bytes.
        cache: local folder for shards and indexes; may be shared by processes and datasets.
        image_schema: bands and scale that images are read with; None: the dataset's own.
        access: which tiles are going to be asked for.
        cache_bytes: what the shards in `cache` take at most; None: three quarters of what its volume has room for.
    """

    manifest: DatasetManifest
    uri: str
    sha256: Sha256
    cache: Path
    image_schema: ClassSchema | None = None
    access: Access = "random"
    cache_bytes: int | None = None

    @classmethod
    def open(cls, ref: str, cache: Path, *, access: Access = "random", cache_bytes: int | None = None) -> StagedDataset:
        """Open a dataset by the URI or path of its manifest, or by a reference file.

        Args:
            ref: the manifest or reference.
            cache: local folder for shards and indexes.
            access: which tiles are going to be asked for.
            cache_bytes: what the shards in `cache` take at most.

        Raises:
            StorageError: it cannot be read.
            ContractError: it is not a dataset manifest.
        """
        loaded = storage.read_document(DatasetManifest, ref)
        return cls(loaded.document, loaded.uri, loaded.sha256, cache, access=access, cache_bytes=cache_bytes)

    @property
    def schema(self) -> ClassSchema:
        """The class schema."""
        return self.manifest.class_schema

    def tiles(self, split: str) -> list[Tile]:
        """The tiles of a split, sorted by id, all in memory: some 3 kB each. See :meth:`index`."""
        return list(self.index(split))

    def index(self, split: str) -> TileIndex:
        """The tiles of a split, sorted by id, on local disk; the index is checked against its checksum.

        Raises:
            ConfigError: the dataset has no such split.
            ContractError: the index does not fit the manifest.
        """
        info = self._split(split)
        where = self._resolve(info.index.path)
        return TileIndex(self._fetched(where, info.index), where, info)

    def check_room(self) -> None:
        """Refuse a volume of :attr:`cache` that cannot hold what reading the dataset takes, before any of it is read.

        Raises:
            ConfigError: it has less room, or :attr:`cache_bytes` asks for more than is left of it.
        """
        if not self.is_cached:
            return
        storage.check_room(self.cache, self.room_needed(self.access))
        room = storage.scratch_room(self.cache) - self.room_needed("few").least_bytes
        if self.cache_bytes is not None and self.held_bytes > room:
            raise ConfigError(
                "--cache-bytes", f"expected at most {room}, the room that --scratch has, found {self.cache_bytes}"
            )

    def room_needed(self, access: Access) -> storage.RoomNeeded:
        """What reading the dataset from object storage keeps on local disk at least, by which tiles are asked for."""
        splits = self.manifest.splits.values()
        size = sum(info.index.size_bytes for info in splits)
        what = "the dataset's indexes"
        if access == "neighbours":
            size += max((shard.size_bytes for info in splits for shard in info.shards), default=0)
            what += " and its largest shard"
        return storage.RoomNeeded(size, 2 * size, what)

    def shard_path(self, split: str, index: int) -> Path:
        """A shard on local disk: in place, or in the cache until others need its room."""
        shard = self._split(split).shards[index]
        uri = self._resolve(shard.path)
        return self._shard_cache.fetch(uri, shard) if storage.is_s3(uri) else Path(uri)

    def seen_as(self, schema: ClassSchema) -> StagedDataset:
        """The dataset with images of the bands and the scale of a model that was trained on another one."""
        return replace(self, image_schema=schema)

    def read_image(self, split: str, tile: Tile) -> NDArray[np.uint8]:
        """Decode a tile's image.

        Returns:
            (H, W, B) uint8: the selected bands in the schema's order, scaled to 0-255 as the schema says; see
            :meth:`seen_as`.
        """
        where = f"tile {tile.id} of {self.uri}"
        stored = decode_image(self._bytes(split, tile.shard, tile.image, tile.image_sha256), where)
        return to_model_range(stored, self.image_schema or self.schema)

    def read_label(self, split: str, tile: Tile) -> NDArray[np.uint8]:
        """Decode a tile's label.

        Returns:
            (H, W) uint8 class ids, `ignore_index` where ignored.
        """
        if tile.label is None:
            raise ConfigError(f"tile {tile.id}", f"split {split} has no labels")
        return self._label(tile, self._bytes(split, tile.shard, tile.label, tile.label_sha256))

    def read_labels(self, split: str, tiles: Iterable[Tile]) -> dict[str, NDArray[np.uint8]]:
        """The labels of several tiles by id, as :meth:`read_label`; several are fetched at once.

        From object storage, labels near each other in a shard are read in one request: of tiny tiles, hundreds.

        Args:
            split: the split.
            tiles: those without a label are left out.
        """
        labelled = [tile for tile in tiles if tile.label is not None]
        if not self._by_range:
            return dict(storage.parallel(lambda tile: (tile.id, self.read_label(split, tile)), labelled))
        found: dict[str, NDArray[np.uint8]] = {}
        for labels in storage.parallel(lambda group: self._labels_at_once(split, group), neighbours(labelled)):
            found |= labels
        return found

    def _labels_at_once(self, split: str, tiles: Sequence[Tile]) -> dict[str, NDArray[np.uint8]]:
        """The labels of tiles in one shard, read in one request."""
        uri = self._resolve(self._split(split).shards[tiles[0].shard].path)
        spans = [(*tile.label, tile.label_sha256) for tile in tiles if tile.label is not None]
        contents = storage.get_spans(uri, spans)
        return {tile.id: self._label(tile, data) for tile, data in zip(tiles, contents, strict=True)}

    def _label(self, tile: Tile, data: bytes | memoryview) -> NDArray[np.uint8]:
        where = f"label of tile {tile.id} of {self.uri}"
        return to_class_ids(decode_label(data, where), self.schema, where)

    def read_valid(self, split: str, tile: Tile) -> NDArray[np.bool_] | None:
        """Decode the mask of a tile's pixels that have data.

        Returns:
            (H, W), True where there is data; None where all pixels have data.
        """
        if tile.validity is None:
            return None
        data = self._bytes(split, tile.shard, tile.validity.mask, tile.validity.sha256)
        return decode_mask(data, (tile.height, tile.width), f"mask of tile {tile.id} of {self.uri}")

    def _bytes(self, split: str, shard: int, span: tuple[int, int], sha256: str | None) -> memoryview:
        if not span[1]:
            return memoryview(b"")
        blob = self._split(split).shards[shard]
        uri = self._resolve(blob.path)
        if self._by_range:
            return memoryview(storage.get_bytes(uri, byte_range=span, sha256=sha256))
        with self._shard_cache.open(uri, blob) if storage.is_s3(uri) else open_shard(uri, blob) as descriptor:
            return mapped(descriptor, span)

    @property
    def is_cached(self) -> bool:
        """Whether shards are fetched from object storage; else they are read in place."""
        return storage.is_s3(self.uri)

    @functools.cached_property
    def _shard_cache(self) -> ShardCache:
        return ShardCache(self.cache, self.cache_limit)

    @functools.cached_property
    def cache_limit(self) -> int:
        """What the shards in :attr:`cache` take at most, in bytes."""
        return default_limit(self.cache) if self.cache_bytes is None else self.cache_bytes

    @functools.cached_property
    def _by_range(self) -> bool:
        """Whether tiles are read one by one: too few of a shard are wanted, or it would be gone before the next is."""
        if not self.is_cached:
            return False
        return self.access == "few" or (self.access == "random" and self._shard_bytes > self.cache_limit)

    @property
    def held_bytes(self) -> int:
        """What shards take in :attr:`cache` at most: nothing where they are read in place or by range."""
        return 0 if self._by_range or not self.is_cached else min(self.cache_limit, self._shard_bytes)

    @property
    def _shard_bytes(self) -> int:
        return sum(shard.size_bytes for info in self.manifest.splits.values() for shard in info.shards)

    def _fetched(self, uri: str, blob: Blob) -> Path:
        """An index on local disk, verified."""
        if not storage.is_s3(uri):
            storage.check(uri, size_bytes=blob.size_bytes, sha256=blob.sha256)
            return Path(uri)
        path = self.cache / f"{blob.sha256}.jsonl"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    storage.get_file(uri, path, sha256=blob.sha256)
        return path

    def _split(self, split: str) -> SplitInfo:
        splits = {str(name): info for name, info in self.manifest.splits.items()}
        if split not in splits:
            raise ConfigError(
                f"split {split!r}",
                f"the dataset {self.manifest.name!r} has only {', '.join(splits)}",
                "choose one of them",
            )
        return splits[split]

    def _resolve(self, path: str) -> str:
        return storage.join(storage.parent(self.uri), path)
