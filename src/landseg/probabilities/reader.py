"""Reading a model's probabilities from object storage, a shard or a tile at a time."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.documents import Blob
from landseg.contracts.errors import DataError
from landseg.contracts.probabilities import ProbsManifest, ProbsShard, ProbsSpec
from landseg.probabilities import codec
from landseg.probabilities.codec import DTYPES, Stored
from landseg.probabilities.shard_index import ShardIndex


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
