"""How much a scratch folder may hold."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
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
    room = shutil.disk_usage(_existing(folder)).free + held_bytes
    if text := os.environ.get(SCRATCH_VARIABLE):
        if not text.isascii() or not text.isdecimal():
            raise ConfigError(SCRATCH_VARIABLE, f"expected a number of bytes, found {text!r}", "unset it")
        room = min(room, int(text))
    return room


@dataclass(frozen=True)
class RoomNeeded:
    """What work keeps in its scratch folder.

    Attributes:
        least_bytes: what is there at some moment in any case.
        fitting_bytes: what is enough in any case.
        what: that takes the room, for error lines.
    """

    least_bytes: int
    fitting_bytes: int
    what: str

    @property
    def volume(self) -> str:
        """A size of a pod's volume that is enough, as `SET="<step>.scratch=…"` takes it."""
        return f"{math.ceil(self.fitting_bytes / 2**30)}Gi"


def check_room(folder: Path, needed: RoomNeeded) -> None:
    """Refuse a scratch folder that cannot hold what the work keeps there, before it begins rather than midway.

    Args:
        folder: the folder; it need not exist yet.
        needed: what the work keeps there.

    Raises:
        ConfigError: there is less room than the least.
    """
    room = scratch_room(folder)
    if needed.least_bytes > room:
        raise ConfigError(
            "--scratch",
            f"expected room for {needed.least_bytes} bytes at least, of {needed.what}; found {room}",
            f"{needed.fitting_bytes} are enough: give a folder on a larger volume; on Kubeflow, "
            f'SET="<step>.scratch={needed.volume}"',
        )


def is_in_memory(folder: Path) -> bool:
    """Whether what is written to a folder takes memory rather than disk: a tmpfs; it need not exist yet."""
    device = _existing(folder).stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, kind = (part.split() for part in line.split(" - ", 1))
        if fields[2] == number:
            return kind[0] in ("tmpfs", "ramfs")
    return False


def _existing(folder: Path) -> Path:
    """A folder, or the nearest one around it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder
