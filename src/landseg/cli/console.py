"""What landseg says on stderr beside results: how much of it, and in which colours.

Modules log to `logging.getLogger("landseg.…")`, and :func:`begin` shows it: warnings always, information unless
`--quiet` was given, debugging with `--verbose`. The choice stands in `LANDSEG_VERBOSITY`, where the processes that a
stage starts find it, and where a pod can set it.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal, TextIO

from landseg.contracts.errors import without_credentials

Verbosity = Literal["quiet", "normal", "verbose"]
VARIABLE = "LANDSEG_VERBOSITY"

_LEVELS = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}
_STYLES = {"bold": "1", "dim": "2", "red": "1;31", "green": "32", "yellow": "33"}
_CLEAR_LINE = "\r\x1b[K"


def begin(verbosity: Verbosity | None = None) -> None:
    """Show what landseg logs.

    Args:
        verbosity: how much; None takes what a parent process or the environment chose.
    """
    if verbosity is not None:
        os.environ[VARIABLE] = verbosity
    logger = logging.getLogger("landseg")
    logger.setLevel(_LEVELS.get(os.environ.get(VARIABLE, ""), logging.INFO))
    logger.propagate = False
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())


def is_quiet() -> bool:
    """Whether only warnings are wanted."""
    return logging.getLogger("landseg").level > logging.INFO


def paint(text: str, style: str, stream: TextIO) -> str:
    """Text in a style (bold, dim, red, green, yellow) where the stream is a terminal that takes one; else as it is."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


class _Lines(logging.Handler):
    """One line per record, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr
        text = without_credentials(record.getMessage())
        if record.levelno >= logging.WARNING:
            text = f"{paint('warning:', 'yellow', stream)} {text}"
        elif record.levelno < logging.INFO:
            text = paint(text, "dim", stream)
        stream.write(f"{_CLEAR_LINE if stream.isatty() else ''}{text}\n")
        stream.flush()
