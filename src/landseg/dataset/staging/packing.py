"""Packing: good tiles are appended to shards, which are uploaded while the next ones are filled."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from landseg import storage
from landseg.contracts.dataset import Geo, Shard, Tile, Validity
from landseg.contracts.documents import sha256_hex
from landseg.dataset.shards import Boundaries, ShardWriter, member_names
from landseg.dataset.staging.workspace import Workspace
from landseg.raw.checked_tiles import CheckedTile, TileFacts

_WAITING = 2
"""Finished shards on local disk at once: one being uploaded, in parallel parts, and one that waits for its turn."""


class ShardUploads:
    """Uploads finished shards in the background; those already in storage are left alone."""

    def __init__(self, storage_uri: str) -> None:
        self._folder = storage.join(storage_uri, "datasets", "shards")
        self.uploaded_bytes = 0
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future[int]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def add(self, path: Path, sha256: str) -> None:
        """Upload a shard file, which is removed once it is in storage."""
        while len(self._pending) >= _WAITING:
            self.uploaded_bytes += self._pending.popleft().result()
        self._pending.append(self._pool.submit(_upload, path, storage.join(self._folder, f"{sha256}.tar")))

    def finish(self) -> None:
        """Wait until every shard is in storage."""
        while self._pending:
            self.uploaded_bytes += self._pending.popleft().result()


def _upload(path: Path, uri: str) -> int:
    size = path.stat().st_size
    written = storage.put_if_absent(uri, path)
    path.unlink()
    return size if written else 0


class Packer:
    """Appends the tiles of a split to the current shard and hands full shards to the uploads.

    Args:
        split: the split.
        shards: shards of the split so far, kept from an earlier dataset; new ones are appended.
        uploads: takes the finished files.
        workspace: the local folder for them, and the dataset's coordinate reference systems.
        shard_bytes: target size.
    """

    def __init__(
        self,
        split: str,
        shards: list[Shard],
        uploads: ShardUploads,
        workspace: Workspace,
        shard_bytes: int,
    ) -> None:
        self.shards = shards
        self._split, self._uploads, self._workspace = split, uploads, workspace
        self._boundaries = Boundaries(shard_bytes)
        self._writer: ShardWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, checked: CheckedTile, facts: TileFacts) -> Tile:
        """Append a tile; returns its row of the index."""
        size = len(checked.image) + len(checked.label or b"") + len(checked.valid or b"")
        if self._boundaries.starts_shard(checked.tile.id, size):
            self.end_shard()
        if self._writer is None:
            self._writer = ShardWriter(self._workspace.scratch / f"{self._split}-{len(self.shards)}.tar").__enter__()
        names = member_names(checked.tile.id, checked.label)
        image = self._writer.add(names.image, checked.image)
        label = None if checked.label is None else self._writer.add(names.label, checked.label)
        validity = None
        if checked.valid is not None:
            mask = self._writer.add(names.valid, checked.valid)
            validity = Validity(mask=mask, sha256=sha256_hex(checked.valid), num_px=facts.num_valid_px)
        self._writer.num_tiles += 1
        return tile_row(checked, facts, Place(len(self.shards), image, label, validity), self._workspace)

    def end_shard(self) -> None:
        """Finish the current shard, if there is one."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        sha256 = writer.finish()
        self._uploads.add(writer.path, sha256)
        self.shards.append(
            Shard(
                path=f"../shards/{sha256}.tar",
                size_bytes=writer.size_bytes,
                sha256=sha256,
                num_tiles=writer.num_tiles,
            )
        )


class Place(NamedTuple):
    """Where a tile lies: its shard, and (byte offset, length) of its members inside of it."""

    shard: int
    image: tuple[int, int]
    label: tuple[int, int] | None
    validity: Validity | None


def tile_row(checked: CheckedTile, facts: TileFacts, place: Place, workspace: Workspace) -> Tile:
    """A tile's row of the index."""
    geo = None
    if facts.transform is not None:
        crs = None if facts.crs is None else workspace.crs_index(facts.crs)
        geo = Geo(crs=crs, transform=facts.transform)
    return Tile(
        id=checked.tile.id,
        shard=place.shard,
        image=place.image,
        label=place.label,
        height=facts.height,
        width=facts.width,
        image_sha256=facts.image_sha256,
        label_sha256=facts.label_sha256,
        source_image_sha256=facts.source_image_sha256,
        source_label_sha256=facts.source_label_sha256,
        geo=geo,
        scene=facts.scene,
        band_sums=facts.band_sums,
        band_squares=facts.band_squares,
        label_counts=facts.label_counts,
        validity=place.validity,
        unused_labels=facts.unused_labels,
    )
