"""stdout and stderr that may be closed, or whose reader may go: the command goes on, and its own status counts."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class _Output:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._quiet():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as err:  # a name in letters that the locale does not have
                self._stream.write(text.encode(err.encoding, "backslashreplace").decode(err.encoding))
        return len(text)

    def flush(self) -> None:
        with self._quiet():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Send the rest nowhere once nobody reads it."""
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def open_closed() -> None:
    """Open what was closed when the program began: else the next file to be opened would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number, inheritable=True)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Make stdout fit to be written to for as long as a command runs."""
    output = _Output(sys.stdout)
    with contextlib.redirect_stdout(output):
        try:
            yield
        finally:
            output.flush()
