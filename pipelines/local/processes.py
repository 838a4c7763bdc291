"""The process of a step that runs on this machine: which command it is, and that it ends with the runner."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

Launcher = Callable[[str, list[str]], list[str]]
"""Turns (image, command of the component) into the command to run on this machine."""

_PR_SET_PDEATHSIG = 1


def host_command(image: str, command: list[str]) -> list[str]:
    """Run the component's own command as a process of this machine, with the landseg of this environment."""
    beside_python = Path(sysconfig.get_path("scripts")) / command[0]
    found = str(beside_python) if beside_python.exists() else shutil.which(command[0])
    if found is None:
        raise RuntimeError(f"{command[0]!r} is not installed in this environment (image {image})")
    return [found, *command[1:]]


def run_process(command: list[str], env: dict[str, str]) -> int:
    """Run a command to its end, or end it with this program; its lines go to this process's stderr as they come.

    Args:
        command: with its arguments.
        env: variables beside this process's own.

    Returns:
        Its exit status.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=sys.__stderr__,
        preexec_fn=functools.partial(_end_with, os.getpid()),
    )
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _end_with(parent: int) -> None:
    """In a step's process, before its program begins: end as on SIGTERM once the runner is gone, even by SIGKILL."""
    with contextlib.suppress(OSError, AttributeError):  # Linux alone knows it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
