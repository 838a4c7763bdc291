"""The errors landseg raises on purpose.

A :class:`LandsegError` is something the user can fix: wrong input, wrong parameters, storage out of reach. The CLI
prints it as one line on stderr and exits with status 2. Anything else is a bug: a traceback and status 1.
"""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"://[^/\s:@]*:(?!\d+/)[^\s@]*@|://[^/\s:@]+@")
_SIGNATURE = re.compile(
    r"([?&][^\s=&]*(?:x-amz-|x-goog-|sig|key|token|credential|password|secret|expires)[^\s=&]*=)[^\s&#'\")]+",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """The text without the user names and passwords in its URIs and without the signatures of presigned ones."""
    return _SIGNATURE.sub(r"\1***", _USER_INFO.sub("://***@", text))


def printable(text: str) -> str:
    """The text on one line, with an escape for each character that a terminal would act on or cannot show.

    Names come from datasets and manifests: a line break in one would forge a line of the log, an escape sequence would
    reach the terminal.
    """
    line = re.sub(r"\s*[\r\n]\s*", " ", text)
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class LandsegError(Exception):
    """Where it happened, what was expected, what was found, and what to do, in one line."""

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

    def __reduce__(self) -> tuple[type[LandsegError], tuple[str, str, str]]:
        """Pickle by the arguments: errors cross process boundaries."""
        return type(self), (self.where, self.problem, self.hint)


class DataError(LandsegError):
    """The dataset is not what the contract says (docs/contracts.md)."""


class ConfigError(LandsegError):
    """A parameter or a configuration file is wrong."""


class StorageError(LandsegError):
    """Object storage refused, is out of reach, or returned damaged bytes."""


class ObjectNotFoundError(StorageError):
    """The object does not exist."""


class DamagedObjectError(StorageError):
    """The object has another size or other bytes than were written."""


class ContractError(LandsegError):
    """A manifest is of the wrong kind or version, damaged, or does not match its neighbours."""
