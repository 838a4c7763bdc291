"""What landseg prints on stderr besides results: how much of it, and in which colours.

Modules log to `logging.getLogger("landseg.…")`, and :func:`begin` shows it: warnings always, information unless
`--quiet` was given, debugging output with `--verbose`. Where neither was given, `LANDSEG_VERBOSITY` decides, which is
for pods; a process that a stage starts is told by an argument (:func:`verbosity`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Literal, TextIO

from landseg.contracts.errors import printable, without_credentials

Verbosity = Literal["quiet", "normal", "verbose"]
VARIABLE = "LANDSEG_VERBOSITY"

_LEVELS = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}
_STYLES = {"bold": "1", "dim": "2", "red": "1;31", "green": "32", "yellow": "33"}
_CLEAR_LINE = "\r\x1b[K"


def begin(verbosity: Verbosity | None = None) -> None:
    """Show what landseg logs.

    Args:
        verbosity: how much; None for what `LANDSEG_VERBOSITY` says, and `normal` where it says nothing.
    """
    logger = logging.getLogger("landseg")
    logger.setLevel(_LEVELS.get(verbosity or os.environ.get(VARIABLE, ""), logging.INFO))
    logger.propagate = False
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())


def verbosity() -> Verbosity:
    """How much is shown, for the processes that this one starts."""
    level = logging.getLogger("landseg").level
    return "quiet" if level > logging.INFO else "verbose" if 0 < level < logging.INFO else "normal"


def is_quiet() -> bool:
    """Whether only warnings are to be shown."""
    return logging.getLogger("landseg").level > logging.INFO


def paint(text: str, style: str, stream: TextIO) -> str:
    """Text in a style (bold, dim, red, green, yellow) if the stream is a terminal with colours, else unchanged."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not stream or not stream.isatty()
    return text if plain else f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


class _Lines(logging.Handler):
    """One line per record, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr
        if stream is None:  # closed when this process began
            return
        text = printable(without_credentials(record.getMessage()))
        if record.levelno >= logging.WARNING:
            text = f"{paint('warning:', 'yellow', stream)} {text}"
        elif record.levelno < logging.INFO:
            text = paint(text, "dim", stream)
        with contextlib.suppress(OSError):  # nobody reads it any more: the work goes on
            stream.write(f"{_CLEAR_LINE if stream.isatty() else ''}{text}\n")
            stream.flush()
