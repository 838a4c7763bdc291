"""How much a scratch folder may hold."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from landseg.contracts.errors import ConfigError

SCRATCH_VARIABLE = "LANDSEG_SCRATCH_BYTES"
"""In a pod, the size of the scratch volume: an emptyDir's limit cannot be seen from inside."""


def scratch_room(folder: Path, held_bytes: int = 0) -> int:
    """How much a scratch folder may hold: what its volume has room for, or less where the pod's specification says so.

    Args:
        folder: the folder; it need not exist yet.
        held_bytes: what is there and may go.

    Raises:
        ConfigError: the environment says something that is not a number.
    """
    there = folder
    while not there.exists():
        there = there.parent
    room = shutil.disk_usage(there).free + held_bytes
    if text := os.environ.get(SCRATCH_VARIABLE):
        if not text.isascii() or not text.isdecimal():
            raise ConfigError(SCRATCH_VARIABLE, f"expected a number of bytes, found {text!r}", "unset it")
        room = min(room, int(text))
    return room
