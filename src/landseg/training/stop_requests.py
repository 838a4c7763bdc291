"""Signals that ask a training process to stop, collected so that the loop can stop between two iterations."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequests:
    """The signals received so far; true where there is one."""

    def __init__(self) -> None:
        self._received: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._received)

    @property
    def exit_status(self) -> int:
        """128 + the first signal's number; SIGTERM's where only another process of the team received one."""
        return 128 + (self._received[0] if self._received else signal.SIGTERM)

    def add(self, number: int) -> None:
        """Record a signal."""
        self._received.append(number)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Collect SIGTERM and SIGINT instead of being killed by them; a second SIGINT interrupts as usual."""
    requests = StopRequests()

    def note(number: int, frame: FrameType | None) -> None:
        requests.add(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
