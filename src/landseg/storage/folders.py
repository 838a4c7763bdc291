"""Which objects there are below a URI, in S3 or in a folder, and removing them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from landseg.storage import local
from landseg.storage.object_info import ObjectInfo
from landseg.storage.parallel import parallel
from landseg.storage.stores import store_of
from landseg.storage.uris import is_s3, join

_DAY_S = 86_400.0


def stat(uri: str) -> ObjectInfo | None:
    """Size of an object, or None if it does not exist."""
    return store_of(uri).stat(uri)


def list_objects(uri: str) -> list[ObjectInfo]:
    """All objects below a folder, sorted by URI."""
    return sorted(store_of(uri).list_objects(uri), key=lambda info: info.uri)


def each_object(uri: str) -> Iterable[ObjectInfo]:
    """All objects below a folder, in no certain order, few of them in memory at once."""
    return store_of(uri).list_objects(uri)


def sizes_below(folder: str) -> dict[str, int]:
    """Sizes of all objects below a folder, by path in it: all that is kept of a listing that may be of very many."""
    start = len(join(folder if is_s3(folder) else str(Path(folder)), ""))
    return {info.uri[start:]: info.size_bytes for info in each_object(folder)}


def links(uri: str) -> list[str]:
    """All symbolic links at or below a local folder, in order; what lies behind one to a folder is not listed."""
    return store_of(uri).links(uri)


def delete(uri: str) -> None:
    """Remove an object, if it exists."""
    store_of(uri).delete(uri)


def delete_many(uris: Iterable[str]) -> None:
    """Remove objects, in no order; those in object storage 1,000 a request."""
    in_s3: list[str] = []
    in_folders: list[str] = []
    for uri in uris:
        (in_s3 if is_s3(uri) else in_folders).append(uri)
    if in_s3:
        from landseg.storage import s3

        s3.delete_many(in_s3)
    for _ in parallel(delete, in_folders):
        pass


def clean_abandoned(uri: str, *, older_than_s: float = _DAY_S) -> int:
    """Remove what killed writers left behind below a folder: multipart uploads, temporary files.

    Returns:
        How many were removed.
    """
    return store_of(uri).clean_abandoned(uri, older_than_s)


def clean_abandoned_daily(uri: str) -> None:
    """As :func:`clean_abandoned`, but a folder only where nobody has within a day: all of its files are looked at."""
    if is_s3(uri):
        clean_abandoned(uri)
        return
    stamp = Path(uri) / local.CLEANED
    if not Path(uri).is_dir() or (stamp.exists() and time.time() - stamp.stat().st_mtime < _DAY_S):
        return
    with local.errors(uri):
        stamp.touch()
    clean_abandoned(uri)
