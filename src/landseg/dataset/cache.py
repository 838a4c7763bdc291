"""Shards of a dataset on local disk: a cache with a limit, shared by threads and processes.

What has not been used for longest is removed to make room. Removing is safe at any time: whoever has the file open
reads on, and whoever finds it gone fetches it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from landseg import storage
from landseg.contracts.documents import Blob

_CACHE_SHARE = 0.75
"""The rest of the volume is for indexes, checkpoints and archives."""


def default_limit(folder: Path) -> int:
    """How large a cache in a scratch folder may grow unless the user says otherwise."""
    held = sum(size for _, size, _ in _files(folder))
    return int(_CACHE_SHARE * storage.scratch_room(folder, held))


@dataclass
class ShardCache:
    """A folder of shards.

    Attributes:
        folder: local folder; several processes may use it at once, with the same limit.
        limit_bytes: what the shards in it take at most, unless a single one takes more.
    """

    folder: Path
    limit_bytes: int

    @contextlib.contextmanager
    def open(self, uri: str, shard: Blob) -> Iterator[int]:
        """A file descriptor of a shard, which is fetched and verified where it is not there.

        Raises:
            DamagedObjectError: it is not what was written.
            StorageError: it cannot be read, or there is no room.
        """
        path = self.folder / f"{shard.sha256}.tar"
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY)
                break
            except FileNotFoundError:  # not there yet, or removed since
                self.fetch(uri, shard)
        try:
            os.utime(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def fetch(self, uri: str, shard: Blob) -> Path:
        """A shard's path; where it is not there, it is fetched and verified."""
        path = self.folder / f"{shard.sha256}.tar"
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            with contextlib.suppress(FileNotFoundError):  # fetched by another meanwhile
                os.utime(path)
                return path
            coming = path.with_suffix(".coming")
            with _locked(self.folder / "room.lock"):
                self._make_room(shard.size_bytes)
                with coming.open("wb") as file:
                    file.truncate(shard.size_bytes)  # takes no disk, but counts
            try:
                storage.get_file(uri, path, sha256=shard.sha256)
            finally:
                coming.unlink(missing_ok=True)
        return path

    def _make_room(self, size_bytes: int) -> None:
        """Remove shards until one of this size fits, or none is left."""
        files = list(_files(self.folder))
        used = sum(size for _, size, _ in files)
        for _, size, path in sorted(file for file in files if file[2].suffix == ".tar"):
            if used + size_bytes <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            used -= size


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Last use, size and path of the shards in a folder, and of those on their way to it."""
    for path in folder.glob("*.*"):
        if path.suffix in {".tar", ".coming"}:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                status = path.stat()
                yield status.st_mtime, status.st_size, path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, among threads and processes."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
