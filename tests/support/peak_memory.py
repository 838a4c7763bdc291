"""The most memory that a verb takes, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_VERB = """
import os, sys
from benchmarks.processes import peak_bytes
from landseg.cli.main import main
status = main(sys.argv[1:])
print(peak_bytes(os.getpid()))
sys.exit(status)
"""


def peak_of_verb(arguments: Sequence[str]) -> int:
    """Run a verb that succeeds; returns its peak in bytes."""
    command = [sys.executable, "-c", _VERB, *arguments]
    done = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])
