"""SIGTERM as an exception, wherever it arrives."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from landseg.cli.termination import Terminated, ends_on_sigterm, held_back


def at_once(number: int) -> None:
    os.kill(os.getpid(), number)


class SendsWhenDeleted:
    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("arrives", [at_once, SendsWhenDeleted])
@pytest.mark.parametrize(
    ("number", "request_to_end"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_it_is_raised(arrives: Callable[[int], object], number: int, request_to_end: type[BaseException]) -> None:
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where tests run in the background
    handler, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(request_to_end), ends_on_sigterm():
        arrives(number)
        time.sleep(5)
        pytest.fail("it was lost")
    signal.signal(signal.SIGINT, interrupts)
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == (handler, hook)


def test_it_waits_while_it_is_held_back() -> None:
    done = []
    with pytest.raises(Terminated), ends_on_sigterm():
        with held_back():
            at_once(signal.SIGTERM)
            time.sleep(0.01)
            done.append("held back")
        time.sleep(5)
        pytest.fail("it was lost")
    assert done == ["held back"]


@pytest.mark.parametrize("request_to_end", [Terminated, KeyboardInterrupt])
def test_an_error_on_the_way_out_does_not_hide_it(request_to_end: type[BaseException]) -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    with pytest.raises(request_to_end), ends_on_sigterm():
        child.start()
        try:
            raise request_to_end
        finally:
            raise RuntimeError("cannot join thread before it is started")
    assert child.exitcode == -signal.SIGKILL


def test_an_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError), ends_on_sigterm():
        try:
            raise OSError
        finally:
            raise RuntimeError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_dropped_exceptions_are_reported_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails:
        def __del__(self) -> None:
            raise ValueError

    seen: list[type] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))
    with ends_on_sigterm():
        Fails()
    assert seen == [ValueError]
