"""What Linux tells of processes in /proc: those of a session, those that one has started, and their memory."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path


def session_of(leader: int) -> dict[int, int]:
    """The processes of a session that have not ended, each with its parent."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found[int(stat.parent.name)] = int(fields[1])
    return found


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread or a process that has ended meanwhile
            for child in task.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had so far; 0 of one that has ended."""
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return 1024 * int(peak[1]) if peak else 0
