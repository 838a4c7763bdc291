"""Packing: good tiles are appended to shards, which are uploaded while the next ones are filled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from landseg import storage
from landseg.contracts.dataset import Shard
from landseg.contracts.documents import Model, sha256_hex
from landseg.contracts.tile import ControlPoints, Geo, Rpc, Tile, Validity
from landseg.dataset.places import shards_folder
from landseg.dataset.shards import Boundaries, ShardWriter, member_names
from landseg.dataset.staging.workspace import Workspace
from landseg.raw.checked_tiles import CheckedTile, TileFacts
from landseg.storage.records import write_record

_WAITING = 2
"""Finished shards on local disk at once: one being uploaded, in parallel parts, and one that waits for its turn."""


class ShardUploads:
    """Uploads finished shards in the background; those already in storage are left alone."""

    def __init__(self, storage_uri: str) -> None:
        self._folder = shards_folder(storage_uri)
        self.uploaded_bytes = 0
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[tuple[bool, Future[int]]] = deque()  # whether it is a shard, and its upload

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def add(self, path: Path, sha256: str) -> None:
        """Upload a shard file, which is removed once it is in storage."""
        while sum(is_shard for is_shard, _ in self._pending) >= _WAITING:
            self._wait()
        self._submit(True, _upload, path, storage.join(self._folder, f"{sha256}.tar"))

    def add_record(self, uri: str, content: Model) -> None:
        """Write a record once the shards so far are in storage."""
        self._submit(False, _record, uri, content)

    def finish(self) -> None:
        """Wait until everything is in storage."""
        while self._pending:
            self._wait()

    def _submit(self, is_shard: bool, work: Callable[..., int], *arguments: Any) -> None:
        self._pending.append((is_shard, self._pool.submit(work, *arguments)))

    def _wait(self) -> None:
        _, upload = self._pending.popleft()
        self.uploaded_bytes += upload.result()


def _upload(path: Path, uri: str) -> int:
    size = path.stat().st_size
    written = storage.put_if_absent(uri, path)
    path.unlink()
    return size if written else 0


def _record(uri: str, content: Model) -> int:
    write_record(uri, content)
    return 0


class Packer:
    """Appends tiles to the current shard and hands full shards to the uploads.

    Args:
        name: begins the names of the local files.
        first: number of the first shard: rows count shards from there.
        uploads: takes the finished files.
        workspace: the local folder for them, and the tiles' coordinate reference systems.
        shard_bytes: target size.

    Attributes:
        shards: the finished ones.
    """

    def __init__(
        self,
        name: str,
        first: int,
        uploads: ShardUploads,
        workspace: Workspace,
        shard_bytes: int,
    ) -> None:
        self.shards: list[Shard] = []
        self._name, self._first, self._uploads, self._workspace = name, first, uploads, workspace
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
            self._writer = ShardWriter(self._workspace.scratch / f"{self._name}-{len(self.shards)}.tar").__enter__()
        names = member_names(checked.tile.id, checked.label)
        image = self._writer.add(names.image, checked.image)
        label = None if checked.label is None else self._writer.add(names.label, checked.label)
        validity = None
        if checked.valid is not None:
            mask = self._writer.add(names.valid, checked.valid)
            validity = Validity(mask=mask, sha256=sha256_hex(checked.valid), num_px=facts.num_valid_px)
        self._writer.num_tiles += 1
        return tile_row(checked, facts, Place(self._first + len(self.shards), image, label, validity), self._workspace)

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
    geo, points = None, None
    if facts.transform is not None or facts.control_points:
        crs = None if facts.crs is None else workspace.crs_index(facts.crs)
        geo = facts.transform and Geo(crs=crs, transform=facts.transform)
        points = None if geo else ControlPoints(crs=crs, points=facts.control_points)
    rpc = Rpc(coefficients=facts.rpc) if facts.rpc and not geo and not points else None
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
        control_points=points,
        rpc=rpc,
    )
