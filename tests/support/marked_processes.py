"""Programs whose processes can all be found again: by a mark in the environment, which whatever they start inherits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
_MARK = "LANDSEG_TEST_MARK"
_START_LIMIT_S = 280.0


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored, where the tests run in the background


class MarkedProgram:
    """A Python module that runs as a program, the leader of a session of its own.

    Args:
        module: as for `python -m`.
        arguments: of the program.
    """

    def __init__(self, module: str, arguments: Sequence[object]) -> None:
        self._entry = f"{_MARK}={uuid.uuid4().hex}"
        # No pipe: whatever were left behind would hold it open.
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as this object
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=self._printed,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
            env={**os.environ, "OMP_NUM_THREADS": "1", **dict([self._entry.split("=")])},
        )

    @property
    def printed(self) -> str:
        """Its output and its errors so far."""
        self._printed.seek(0)
        return self._printed.read()

    def processes(self) -> dict[int, str]:
        """What runs of it: command lines by process id; also what has left the session or lost its parent."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._entry.encode() in path.read_bytes().split(b"\0"):  # empty once it has ended
                    line = (path.parent / "cmdline").read_bytes()
                    found[int(path.parent.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
        return found

    def wait_until(self, is_under_way: Callable[[], object]) -> None:
        """Wait for something that it does."""
        deadline = time.monotonic() + _START_LIMIT_S
        while not is_under_way():
            assert self._process.poll() is None, self.printed
            assert time.monotonic() < deadline, (self.processes(), self.printed)
            time.sleep(0.02)

    def send(self, number: signal.Signals, *, to_group: bool) -> None:
        """Send a signal to the first process, or to all in its process group."""
        (os.killpg if to_group else os.kill)(self._process.pid, number)

    def end(self, limit_s: float, left_limit_s: float) -> int:
        """Wait for the first process, then for all others; kill those that stay.

        Args:
            limit_s: how long the first may take.
            left_limit_s: how long any other may outlive it.

        Returns:
            The exit status of the first.
        """
        try:
            status = self._process.wait(limit_s)
            deadline = time.monotonic() + left_limit_s
            while left := self.processes():
                assert time.monotonic() < deadline, f"left behind: {left}; printed: {self.printed}"
                time.sleep(0.02)
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
            self._process.wait()
        return status
