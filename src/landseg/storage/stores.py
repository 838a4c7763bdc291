"""Which storage a URI is in, and what each of them can do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, cast

from landseg.storage import local
from landseg.storage.object_info import ObjectInfo
from landseg.storage.uris import is_s3


class _Store(Protocol):
    """What both kinds of storage can do: :mod:`landseg.storage.local` and :mod:`landseg.storage.s3`."""

    def put_bytes(self, uri: str, data: bytes) -> None: ...
    def put_file(self, uri: str, source: Path) -> None: ...
    def create(self, uri: str, content: bytes | Path) -> bool: ...
    def get_bytes(
        self, uri: str, byte_range: tuple[int, int] | None, *, confirm: bool, most: int | None = None
    ) -> tuple[bytes, bool]: ...
    def get_file(self, uri: str, target: Path, *, confirm: bool) -> bool: ...
    def checksum(self, uri: str) -> tuple[int, str]: ...
    def stat(self, uri: str) -> ObjectInfo | None: ...
    def list_objects(self, uri: str) -> Iterable[ObjectInfo]: ...
    def links(self, uri: str) -> list[str]: ...
    def delete(self, uri: str) -> None: ...
    def clean_abandoned(self, uri: str, older_than_s: float) -> int: ...


def store_of(uri: str) -> _Store:
    """The storage of a URI: a folder, or object storage."""
    if not is_s3(uri):
        return cast(_Store, local)
    from landseg.storage import s3  # boto3 takes a third of a second to import: not for local paths and --help

    return cast(_Store, s3)
