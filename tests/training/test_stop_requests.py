"""Requests to stop: collected, and obeyed at once where somebody insists."""

from __future__ import annotations

import os
import signal

import pytest

from landseg.training.distributed import stop_requests


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(stop_requests.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_decides_the_status(number: int, status: int) -> None:
    before = signal.getsignal(number)
    with stop_requests.stop_requests() as stops:
        assert not stops
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops
        assert stops.exit_status == status
    assert signal.getsignal(number) == before


def test_ctrl_c_that_arrives_twice_is_one_request(clock: list[float]) -> None:
    with stop_requests.stop_requests() as stops:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            clock[0] += 0.5
        assert stops.exit_status == 130


def test_ctrl_c_pressed_again_interrupts(clock: list[float]) -> None:
    with stop_requests.stop_requests(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        clock[0] += 3
        os.kill(os.getpid(), signal.SIGINT)
