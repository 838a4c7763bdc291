"""Signals that ask a training process to stop, collected so that the loop can stop between two iterations."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

from landseg.cli.termination import handled_by

_SAME_REQUEST_S = 2.0
"""A terminal sends Ctrl-C to every process in the foreground, and a parent among them may pass its own on."""


class StopRequests:
    """The signals received so far; true where there is one."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._first_interrupt: float | None = None
        self.insistent = False
        """Whether Ctrl-C was pressed again, some time after the first."""

    def __bool__(self) -> bool:
        return bool(self._received)

    @property
    def exit_status(self) -> int:
        """128 + the first signal's number; SIGTERM's where only another process of the team received one."""
        return 128 + (self._received[0] if self._received else signal.SIGTERM)

    def add(self, number: int) -> None:
        """Record a signal."""
        self._received.append(number)
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._first_interrupt is None:
                self._first_interrupt = now
            self.insistent |= now - self._first_interrupt > _SAME_REQUEST_S


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Collect SIGTERM and SIGINT instead of being killed by them; pressing Ctrl-C again interrupts as usual.

    Where it arrives twice at a time, that is one request.
    """
    requests = StopRequests()

    def note(number: int, frame: FrameType | None) -> None:
        requests.add(number)
        if requests.insistent:
            signal.default_int_handler(number, frame)

    with handled_by(note):
        yield requests
