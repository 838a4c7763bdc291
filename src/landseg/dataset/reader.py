"""Reading a staged dataset: tile index, shards on local disk, images and labels by tile."""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.dataset import ClassSchema, DatasetManifest, SplitInfo, Tile
from landseg.contracts.documents import Blob, Sha256
from landseg.contracts.errors import ConfigError, ContractError, StorageError
from landseg.dataset.index import TileIndex
from landseg.raw.tiff.decoding import decode_image, decode_label


@dataclass
class StagedDataset:
    """A published dataset, read through a cache on local disk.

    Attributes:
        manifest: the dataset's manifest.
        uri: where the manifest was read.
        sha256: checksum of the manifest's bytes.
        cache: local folder for shards; may be shared by processes and datasets.
        image_schema: bands and scale that images are read with; None: the dataset's own.
    """

    manifest: DatasetManifest
    uri: str
    sha256: Sha256
    cache: Path
    image_schema: ClassSchema | None = None

    @classmethod
    def open(cls, ref: str, cache: Path) -> StagedDataset:
        """Open a dataset by the URI or path of its manifest, or by a reference file.

        Raises:
            StorageError: it cannot be read.
            ContractError: it is not a dataset manifest.
        """
        loaded = storage.read_document(DatasetManifest, ref)
        return cls(loaded.document, loaded.uri, loaded.sha256, cache)

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
        return TileIndex(self._fetched(where, info.index, ".jsonl"), where, info)

    def shard_path(self, split: str, index: int) -> Path:
        """A shard on local disk, downloaded once and verified; safe for several processes at once."""
        shard = self._split(split).shards[index]
        uri = self._resolve(shard.path)
        return self._fetched(uri, shard, ".tar") if storage.is_s3(uri) else _local(uri, shard.size_bytes)

    def seen_as(self, schema: ClassSchema) -> StagedDataset:
        """The dataset with images of the bands and the scale of a model that was trained on another one."""
        return replace(self, image_schema=schema)

    def read_image(self, split: str, tile: Tile) -> NDArray[np.uint8]:
        """Decode a tile's image.

        Returns:
            (H, W, B) uint8: the selected bands in the schema's order, scaled to 0-255 as the schema says; see
            :meth:`seen_as`.
        """
        stored = decode_image(self._bytes(split, tile.shard, tile.image), f"tile {tile.id} of {self.uri}")
        return to_model_range(stored, self.image_schema or self.schema)

    def read_label(self, split: str, tile: Tile) -> NDArray[np.uint8]:
        """Decode a tile's label.

        Returns:
            (H, W) uint8 class ids, `ignore_index` where ignored.
        """
        if tile.label is None:
            raise ConfigError(f"tile {tile.id}", f"split {split} has no labels")
        where = f"label of tile {tile.id} of {self.uri}"
        stored = decode_label(self._bytes(split, tile.shard, tile.label), where)
        return to_class_ids(stored, self.schema, where)

    def _bytes(self, split: str, shard: int, span: tuple[int, int]) -> memoryview:
        offset, length = span
        if not length:
            return memoryview(b"")
        # Mapped only while these bytes are in use: mappings of whole shards would fill memory with pages used once.
        before = offset % mmap.ALLOCATIONGRANULARITY
        with self.shard_path(split, shard).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), before + length, access=mmap.ACCESS_READ, offset=offset - before)
        return memoryview(mapped)[before:]

    def _fetched(self, uri: str, blob: Blob, suffix: str) -> Path:
        """An object on local disk, verified."""
        if not storage.is_s3(uri):
            storage.check(uri, size_bytes=blob.size_bytes, sha256=blob.sha256)
            return Path(uri)
        path = self.cache / f"{blob.sha256}{suffix}"
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


def to_model_range(values: NDArray[Any], schema: ClassSchema) -> NDArray[np.uint8]:
    """Select bands and scale them as models expect.

    Args:
        values: (H, W, B) uint8 or uint16, all bands as stored.
        schema: bands and scale.

    Returns:
        (H, W, selected bands) uint8.
    """
    selected = [band - 1 for band in schema.bands]
    if schema.scale is None:
        if values.dtype != np.uint8:
            raise ContractError("class schema", f"expected a scale for {values.dtype} images, found none")
        whole = selected == list(range(values.shape[2]))
        return values if whole else np.ascontiguousarray(values[:, :, selected])
    result = np.empty((*values.shape[:2], len(selected)), np.uint8)
    for position, table in enumerate(_scale_lookups(schema, int(np.iinfo(values.dtype).max) + 1)):
        result[:, :, position] = table[values[:, :, selected[position]]]
    return result


def to_class_ids(stored: NDArray[Any], schema: ClassSchema, where: object) -> NDArray[np.uint8]:
    """Turn stored label values into class ids.

    Args:
        stored: (H, W) uint8 or uint16.
        schema: offset, classes and ignored value.
        where: the tile, for the error line.

    Returns:
        (H, W) uint8 class ids, `ignore_index` where ignored.

    Raises:
        ContractError: a value is outside the class list.
    """
    # Values below the offset wrap around to values above every class. Lookup tables would take five times as long.
    classes: NDArray[np.uint8] = stored.astype(np.uint8) - np.uint8(schema.label_offset)
    ignored = stored == (schema.ignore_index if schema.stored_ignore is None else schema.stored_ignore)
    outside = (classes >= schema.num_classes) | (stored > 255)
    if np.any(outside & ~ignored):
        raise ContractError(where, "holds a label value outside the class list", "stage the dataset again")
    classes[ignored] = schema.ignore_index
    return classes


@functools.lru_cache(8)
def _scale_lookups(schema: ClassSchema, levels: int) -> list[NDArray[np.uint8]]:
    """One table per selected band: stored value to 0-255, rounded half up, clipped as the scale asks."""
    assert schema.scale is not None
    stored = np.arange(levels, dtype=np.float64)
    return [
        np.floor(np.clip((stored - low) * 255 / (high - low), 0, 255) + 0.5).astype(np.uint8)
        for low, high in zip(schema.scale.low, schema.scale.high, strict=True)
    ]


def _local(uri: str, size_bytes: int) -> Path:
    """A shard in a storage folder, read in place. Its size is checked here, its bytes by `landseg verify`."""
    path = Path(uri)
    try:
        found = path.stat().st_size
    except OSError as err:
        raise StorageError(uri, f"the shard cannot be read: {os.strerror(err.errno or 0)}") from err
    if found != size_bytes:
        raise StorageError(
            uri, f"expected {size_bytes} bytes, found {found}", "stage the data again: what is damaged is then replaced"
        )
    return path
