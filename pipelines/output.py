"""stdout and stderr that may be closed, or whose reader may go: the command goes on, and its own status counts.

`landseg.cli.streams` does this for the verbs; it stands apart because `pipelines` imports nothing of landseg.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class _Output:
    def __init__(self, stream: TextIO, *, is_result: bool) -> None:
        self._stream, self._is_result = stream, is_result

    def write(self, text: str) -> int:
        with self._errors():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as err:  # a name in letters that the locale does not have
                self._stream.write(text.encode(err.encoding, "backslashreplace").decode(err.encoding))
        return len(text)

    def flush(self) -> None:
        with self._errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Send the rest nowhere once a write has failed; a result that is lost on a full disk, say, is an error."""
        try:
            yield
        except OSError as err:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if self._is_result and not isinstance(err, BrokenPipeError):
                raise


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Make stdout and stderr fit to be written to for as long as the program runs."""
    _open_closed()
    results, messages = _Output(sys.stdout, is_result=True), _Output(sys.stderr, is_result=False)
    with contextlib.redirect_stdout(results), contextlib.redirect_stderr(messages):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # while another error, or --help, ends the program
                results.flush()


def _open_closed() -> None:
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
