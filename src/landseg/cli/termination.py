"""Requests to end a verb: SIGTERM becomes an exception as Ctrl-C does, so that scratch is removed on the way out."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_AGAIN_S = 0.05


class Terminated(BaseException):
    """SIGTERM has arrived; a BaseException, so that no error handler swallows it."""


@contextlib.contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Raise :class:`Terminated` in the main thread when SIGTERM arrives, as Python raises KeyboardInterrupt on SIGINT.

    A second SIGTERM kills. Without a handler the first process of a container would not notice SIGTERM at all: the
    kernel does not deliver it signals whose default action would end it. Training has its own handler, which publishes
    a checkpoint.

    Where either arrives during a callback whose exceptions Python drops (a destructor, what runs after a fork), it is
    raised again a moment later. Where one leads to another error on the way out (a pool of processes that was just
    starting cannot be closed), it is raised in place of that error, and child processes that are left are killed.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    process, drop = os.getpid(), sys.unraisablehook
    again: list[threading.Timer] = []
    lost: list[type[BaseException]] = []  # requests that were dropped

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    def dropped(unraisable: Any) -> None:
        if unraisable.exc_type not in (Terminated, KeyboardInterrupt):
            drop(unraisable)
        elif os.getpid() == process:  # a forked one is ended by its parent
            lost.append(unraisable.exc_type)
            number = signal.SIGINT
            if unraisable.exc_type is Terminated:
                number = signal.SIGTERM
                signal.signal(number, end)
            again.append(threading.Timer(_AGAIN_S, os.kill, (process, number)))
            again[-1].daemon = True
            again[-1].start()

    before = signal.signal(signal.SIGTERM, end)
    sys.unraisablehook = dropped
    try:
        yield
    except BaseException as err:
        request = _request_behind(err) or (lost[-1]() if lost else None)
        if request is None:
            raise
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        raise request from None
    finally:
        for timer in again:
            timer.cancel()
        sys.unraisablehook = drop
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Have SIGTERM and SIGINT handled by a function; in a thread other than the main one, which gets none, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Requests to end wait until this is left: for what must not be interrupted half-way, as starting a process is.

    A pool whose start is interrupted may have a process that it does not know of, and wait for it forever. A process
    that is forked meanwhile ignores both.
    """
    received: list[int] = []
    try:
        with handled_by(lambda number, _: received.append(number)):
            yield
    finally:
        if received:
            os.kill(os.getpid(), received[0])


def _request_behind(err: BaseException | None) -> BaseException | None:
    """The request to end during whose handling an error was raised, or that it is itself; else None."""
    while err is not None and not isinstance(err, Terminated | KeyboardInterrupt):
        err = err.__context__
    return err
