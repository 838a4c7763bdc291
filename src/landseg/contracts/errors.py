"""The errors landseg raises on purpose.

A :class:`LandsegError` is something the user can fix: wrong input, wrong parameters, storage out of reach. The CLI
prints it as one line on stderr and exits with status 2. Anything else is a bug: a traceback and status 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

_USER_INFO = re.compile(r"://[^/\s:@]*:(?!\d+/)[^\s@]*@|://[^/\s:@]+@")
_SIGNATURE = re.compile(
    r"([?&][^\s=&]*(?:x-amz-|x-goog-|sig|key|token|credential|password|secret|expires)[^\s=&]*=)[^\s&#'\")]+",
    re.IGNORECASE,
)


# Keys in object storage and paths have no query and no fragment: `?` and `#` are characters like others there.
_URL = re.compile(r"(?<![a-z0-9+.-])(?!s3:|file:)[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_KEPT_PAIR = re.compile(r"sha256=[0-9a-f]*", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """The text without what its URLs may keep secret: user information, and the values of queries and fragments.

    Which parameter of a query is a signature, a token or a password depends on the server, so the values of all of them
    become `***`; their names stay, and so do `#sha256=...` and the fragment of a page's own router (`#/runs/...`).
    """
    return _SIGNATURE.sub(r"\1***", _URL.sub(_mask_url, _USER_INFO.sub("://***@", text)))


def without_signatures(text: str) -> str:
    """The text without user information and without the parameters that change each time an address is signed.

    It tells one file from another (`?versionId=3`) and may therefore hold a secret under an unknown name: take its
    digest, and show :func:`without_credentials`.
    """
    return _SIGNATURE.sub(r"\1***", _USER_INFO.sub("://***@", text))


def masked(value: Any) -> Any:
    """A value as JSON knows them, with :func:`without_credentials` of every text in it, keys included."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Mapping):
        return {masked(key): masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return value


def _mask_url(match: re.Match[str]) -> str:
    url = match[0].rstrip(").,;:!]}")  # the sentence's, not the URL's
    end = match[0][len(url) :]
    head, hash_sign, fragment = url.partition("#")
    path, question_mark, query = head.partition("?")
    if not (fragment.startswith("/") and "=" not in fragment):
        fragment = _mask_pairs(fragment)
    return f"{path}{question_mark}{_mask_pairs(query)}{hash_sign}{fragment}{end}"


def _mask_pairs(text: str) -> str:
    return "&".join(pair if not pair or _KEPT_PAIR.fullmatch(pair) else _mask_pair(pair) for pair in text.split("&"))


def _mask_pair(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}=***" if equals else "***"


def printable(text: str) -> str:
    """The text on one line, with an escape for each character that a terminal would act on or cannot show.

    Names come from datasets and manifests: a line break in one would forge a line of the log, an escape sequence would
    reach the terminal.
    """
    line = re.sub(r"\s*[\r\n]\s*", " ", text)
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class LandsegError(Exception):
    """Where it happened, what was expected, what was found, and what to do, in one line."""

    transient = False
    """Whether the same work may succeed if it is done again, in a new process and some time later."""

    def __init__(self, where: object, problem: str, hint: str = "") -> None:
        """Build the message.

        Args:
            where: the file, URI, tile or option at fault.
            problem: what was expected and what was found.
            hint: what to do about it.
        """
        self.where, self.problem, self.hint = (
            printable(without_credentials(text)) for text in (str(where), problem, hint)
        )
        message = f"{self.where}: {self.problem}" + (f" ({self.hint})" if self.hint else "")
        super().__init__(" ".join(message.split()))

    def __reduce__(self) -> tuple[Callable[..., LandsegError], tuple[object, ...]]:
        """Pickle by the arguments: errors cross process boundaries."""
        return type(self), (self.where, self.problem, self.hint)


class DataError(LandsegError):
    """The dataset is not what the contract says (docs/contracts.md)."""


class ConfigError(LandsegError):
    """A parameter or a configuration file is wrong."""


class StorageError(LandsegError):
    """Object storage refused, is out of reach, or returned damaged bytes."""


class OutageError(StorageError):
    """A server has not answered, or has not answered as it should, for as long as requests are repeated."""

    transient = True


class KilledProcessError(LandsegError):
    """A process of the stage was killed from outside, or ended without an explanation."""

    transient = True


class ObjectNotFoundError(StorageError):
    """The object does not exist."""


class DamagedObjectError(StorageError):
    """The object has another size or other bytes than were written."""


class ContractError(LandsegError):
    """A manifest is of the wrong kind or version, damaged, or does not match its neighbours."""


def without_traceback(err: DataError) -> DataError:
    """The error alone: its traceback would keep the file's bytes in memory for as long as the error is kept."""
    rebuild, arguments = err.__reduce__()
    return cast(DataError, rebuild(*arguments))
