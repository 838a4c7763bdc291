"""Files by URI: object storage, http(s) and local paths.

An address may lead elsewhere by redirects. They are followed to http(s) only, never from https to http, and to hosts of
the machine, the link or a private network only where the address itself names such a host: a pod can reach servers that
whoever wrote the address cannot, the cloud's metadata service among them.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from landseg import storage
from landseg.contracts.errors import ObjectNotFoundError, OutageError, StorageError, without_credentials

MAX_BYTES = 16 << 30
MAX_SECONDS = 2 * 3600.0

_ATTEMPTS = 4
_TIMEOUT_S = 60.0


class _RefusedError(Exception):
    """Another attempt would not help."""


def is_http(uri: str) -> bool:
    """Whether the URI is fetched over http(s)."""
    return uri.partition("://")[0].lower() in {"http", "https"}


def download(uri: str, target: Path, *, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> None:
    """Copy the file at `uri` to `target`, which is complete or absent afterwards.

    Args:
        uri: http(s)://, s3:// or a path.
        target: a local path.
        max_bytes: a larger file is refused.
        max_seconds: of http(s), all attempts together.

    Raises:
        ObjectNotFoundError: there is no such file.
        StorageError: out of reach, too large, too slow, redirected where it may not, or every attempt was cut short.
    """
    if not is_http(uri):
        fetch_object(uri, target, max_bytes=max_bytes)
        return
    if "@" in urlsplit(uri).netloc:
        raise StorageError(uri, "expected an address without a name and password", "use a presigned address")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    end = time.monotonic() + max_seconds
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _copy(uri, partial, max_bytes, end, max_seconds)
                break
            except _RefusedError as err:
                raise StorageError(uri, str(err)) from err
            except (OSError, ValueError, http.client.HTTPException) as err:
                _give_up(uri, err, last=attempt == _ATTEMPTS or time.monotonic() > end)
                time.sleep(2.0 ** (attempt - 1))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def fetch_object(uri: str, target: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Copy an object or a regular local file, whose size is looked at first.

    Raises:
        ObjectNotFoundError: there is none.
        StorageError: it is too large, or no regular file.
    """
    if not storage.is_s3(uri) and Path(uri).exists() and not Path(uri).is_file():
        raise StorageError(uri, "expected a regular file, found something else")
    found = storage.stat(uri)
    if found is not None and found.size_bytes > max_bytes:
        raise StorageError(uri, f"expected a file of at most {_size(max_bytes)}, found {_size(found.size_bytes)}")
    storage.get_file(uri, target)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):.1f} MiB" if num_bytes < 1 << 30 else f"{num_bytes / (1 << 30):.1f} GiB"


def _copy(uri: str, target: Path, max_bytes: int, end: float, max_seconds: float) -> None:
    with _opener(uri).open(uri, timeout=_TIMEOUT_S) as reader, target.open("wb") as writer:
        expected = reader.headers.get("Content-Length")
        if expected is not None and int(expected) > max_bytes:
            raise _RefusedError(f"expected a file of at most {_size(max_bytes)}, found {_size(int(expected))}")
        while block := reader.read1(1 << 20):
            writer.write(block)
            if writer.tell() > max_bytes:
                raise _RefusedError(f"expected a file of at most {_size(max_bytes)}, found a larger one")
            if time.monotonic() > end:
                raise _RefusedError(f"expected the file within {max_seconds:.0f} s, found it still arriving")
        if expected is not None and writer.tell() != int(expected):
            raise http.client.IncompleteRead(b"", int(expected) - writer.tell())


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects of an address as the module says."""

    def __init__(self, uri: str) -> None:
        self._allowed = _kinds(urlsplit(uri).hostname or "")

    def http_error_302(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Look at where a redirect leads before it is followed."""
        if location := headers.get("location") or headers.get("uri"):
            self.check(req.full_url, urljoin(req.full_url, location))
        return super().http_error_302(req, fp, code, msg, headers)

    def check(self, uri: str, target: str) -> None:
        """Refuse a redirect from `uri` to where it may not lead."""
        before, after = urlsplit(uri), urlsplit(target)
        shown = without_credentials(f"{after.scheme}://{after.netloc}")
        if after.scheme not in {"http", "https"} or (before.scheme == "https" != after.scheme):
            raise _RefusedError(f"expected redirects to {before.scheme} only, found one to {shown}")
        if inner := _kinds(after.hostname or "") - self._allowed:
            raise _RefusedError(f"expected redirects to public hosts, found one to a {min(inner)} host, {shown}")

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener(uri: str) -> urllib.request.OpenerDirector:
    """An opener for http(s) alone: urllib's own reads files and ftp as well."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(uri),
    ):
        opener.add_handler(handler)
    return opener


def _kinds(host: str) -> set[str]:
    """What kinds of hosts that are not public a name stands for; none where it is not known here."""
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return set()  # a proxy may know it; otherwise the request fails
    return {kind for text in found if (kind := _kind(text))}


def _kind(text: str) -> str:
    address = ipaddress.ip_address(text)
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_unspecified:
        return "loopback"
    if address.is_link_local or address == ipaddress.ip_address("fd00:ec2::254"):
        return "link-local"
    return "" if address.is_global and not address.is_multicast else "private"


def _give_up(uri: str, err: Exception, *, last: bool) -> None:
    """Raise errors that another attempt would not fix, and any after the last attempt."""
    if isinstance(err, urllib.error.HTTPError) and err.code in {404, 410}:
        raise ObjectNotFoundError(uri, f"the server answered {err.code}: there is no such file") from err
    lasting = isinstance(err, http.client.InvalidURL | ValueError)
    refused = isinstance(err, urllib.error.HTTPError) and err.code < 500
    if last or lasting or refused:
        kind = StorageError if lasting or refused else OutageError
        raise kind(uri, f"the download failed: {err}", "check the address and the network") from err
