"""stdout and stderr that may be closed, or whose reader may go: neither keeps a verb from doing its work."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from landseg.contracts.errors import LandsegError


class Output:
    """A stream that turns quiet when nobody reads it any more (`landseg status ... | head -1`).

    Args:
        stream: where to write.
        name: what to call it in an error line; None where errors are not worth one.
    """

    def __init__(self, stream: TextIO, name: str | None) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Write text; what nobody reads is dropped, and what the stream's encoding lacks is escaped."""
        with self._errors():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as err:  # a name in letters that the locale does not have
                self._stream.write(text.encode(err.encoding, "backslashreplace").decode(err.encoding))
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        with self._errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Send the rest nowhere once a write has failed.

        Raises:
            LandsegError: the failure is not that the reader has gone, e.g. a full disk.
        """
        try:
            yield
        except OSError as err:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            if self._name and not isinstance(err, BrokenPipeError):
                problem = (err.strerror or str(err)).lower()
                raise LandsegError(self._name, f"cannot be written: {problem}") from err


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Make stdout and stderr fit to be written to for as long as a verb runs."""
    before = sys.stdout, sys.stderr
    _open_closed()
    sys.stdout, sys.stderr = Output(sys.stdout, "stdout"), Output(sys.stderr, None)
    try:
        yield
    finally:
        with contextlib.suppress(LandsegError):  # while another error, or --help, ends the program
            sys.stdout.flush()
        sys.stdout, sys.stderr = (old or new for old, new in zip(before, (sys.stdout, sys.stderr), strict=True))


def _open_closed() -> None:
    """Open what was closed when the program began: else the next file to be opened would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
