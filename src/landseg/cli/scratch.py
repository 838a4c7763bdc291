"""Scratch folders: removed when their work ends and, where it was killed, by the next that begins in the same place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "landseg-"
LOCK = ".landseg-lock"
"""In a scratch folder: a file that its process, and those that it forks, keep locked for as long as any of them lives.

It holds the name of the system that runs: locks of another one may not be seen here, where a disk is shared.
"""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextlib.contextmanager
def scratch_folder(parent: Path | None, name: str = "") -> Iterator[Path]:
    """A new folder for temporary files, removed on the way out.

    Args:
        parent: where it is made; None for the system's place.
        name: a part of its name.
    """
    prefix = f"{PREFIX}{name}-" if name else PREFIX
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as path:
        lock = _hold(Path(path))
        try:
            yield Path(path)
        finally:
            if lock is not None:
                os.close(lock)


def remove_abandoned(parent: Path | None) -> list[Path]:
    """Remove the scratch folders of processes that were killed.

    Only those of this user whose lock nobody holds, on this system and since it was started: what cannot be proved to
    be abandoned stays.

    Args:
        parent: where they are; None for the system's place.

    Returns:
        The folders.
    """
    removed = []
    with contextlib.suppress(OSError):
        for path in sorted((parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*")):
            if _remove_if_abandoned(path):
                removed.append(path)
    return removed


def _hold(folder: Path) -> int | None:
    """Lock a folder's file, which gets its name once it is locked; None where the file system has no locks."""
    new = folder / f"{LOCK}.new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, _system())
        new.rename(folder / LOCK)
    except OSError:
        os.close(descriptor)
        new.unlink(missing_ok=True)
        return None
    return descriptor


def _remove_if_abandoned(folder: Path) -> bool:
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return False
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no scratch folder of landseg's, or one that is just being made or removed
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.read(descriptor, 1000) != _system():
            return False
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # locked, or not to be read
        return False
    finally:
        os.close(descriptor)
    return not folder.exists()


def _system() -> bytes:
    """What tells this system, since it was started, from others."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_bytes()
    return platform.node().encode()
