"""What a user who deploys should know though nothing is wrong."""

from __future__ import annotations

import sys


def note(line: str) -> None:
    """Print a note to standard error, apart from what is applied."""
    print(f"note: {line}", file=sys.stderr)
