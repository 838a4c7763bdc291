"""Files by URI: object storage, http(s) and local paths."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from landseg import storage
from landseg.contracts.errors import ObjectNotFoundError, StorageError

_ATTEMPTS = 4
_TIMEOUT_S = 60.0


def is_http(uri: str) -> bool:
    """Whether the URI is fetched over http(s)."""
    return urlsplit(uri).scheme in {"http", "https"}


def download(uri: str, target: Path) -> None:
    """Copy the file at `uri` to `target`, which is complete or absent afterwards.

    Raises:
        ObjectNotFoundError: there is no such file.
        StorageError: out of reach, or every attempt was cut short.
    """
    if not is_http(uri):
        storage.get_file(uri, target)
        return
    if "@" in urlsplit(uri).netloc:
        raise StorageError(uri, "expected an address without a name and password", "use a presigned address")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _copy(uri, partial)
                break
            except (OSError, http.client.HTTPException) as err:
                _give_up(uri, err, last=attempt == _ATTEMPTS)
                time.sleep(2.0 ** (attempt - 1))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _copy(uri: str, target: Path) -> None:
    with urllib.request.urlopen(uri, timeout=_TIMEOUT_S) as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            writer.write(block)
        expected = reader.headers.get("Content-Length")
        if expected is not None and writer.tell() != int(expected):
            raise http.client.IncompleteRead(b"", int(expected) - writer.tell())


def _give_up(uri: str, err: Exception, *, last: bool) -> None:
    """Raise errors that another attempt would not fix, and any after the last attempt."""
    if isinstance(err, urllib.error.HTTPError) and err.code in {404, 410}:
        raise ObjectNotFoundError(uri, f"the server answered {err.code}: there is no such file") from err
    if last or (isinstance(err, urllib.error.HTTPError) and err.code < 500):
        raise StorageError(uri, f"the download failed: {err}", "check the address and the network") from err
