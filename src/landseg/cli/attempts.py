"""Attempts at a stage (`--attempts N`): a failure that a new process may cure starts the verb again.

Kubeflow's Argo starts a container that fails only once (docs/kubeflow.md, "What is retried"), so the container does it
itself: this process does nothing but start the verb in a process of its own, wait for it, and start it again. The verb
resumes from what it has written. User errors (status 2) and signals that ask it to stop are final.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from landseg.cli.scratch import remove_abandoned, scratch_folder
from landseg.cli.termination import handled_by

TRANSIENT_STATUS = 75
"""How the verb's process ends after an error that another attempt may not meet (EX_TEMPFAIL). Whoever runs landseg
sees 2 in its place."""

OPTION = "--attempts"
MOST = 20
PAUSE_VARIABLE = "LANDSEG_ATTEMPT_PAUSE_S"
_PAUSE_S, _LONGEST_PAUSE_S = 15.0, 300.0

_FINAL = {0, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM}
_PR_SET_PDEATHSIG = 1


def requested(arguments: Sequence[str]) -> int:
    """The number in `--attempts`; 1 where there is none, or none that :func:`number` accepts.

    It is read before the verb's own parser, whose module takes longer to import and more memory than waiting needs.
    """
    found = 1
    for text in _values(arguments, OPTION):
        with contextlib.suppress(argparse.ArgumentTypeError):
            found = number(text)
    return found


def _values(arguments: Sequence[str], option: str) -> Iterator[str]:
    """What a command line gives an option, each time; "" where nothing follows it."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            yield value if equals else "".join(arguments[position + 1 : position + 2])


def number(text: str) -> int:
    """Parse `--attempts`.

    Raises:
        ArgumentTypeError: it is no number from 1 to `MOST`.
    """
    if not (text.isdecimal() and text.isascii() and 1 <= int(text[:9]) <= MOST):
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MOST}, found {text!r}")
    return int(text)


def run(arguments: Sequence[str], attempts: int) -> int:
    """Run a verb up to `attempts` times, each time in a new process, until it ends with a status that is final.

    SIGTERM and SIGINT are passed on, and nothing is started after them. Each attempt has a scratch folder of its own,
    which is removed even when the process is killed.

    Args:
        arguments: of `landseg`, the verb first.
        attempts: the most that are made.

    Returns:
        The exit status of the last attempt; 128 plus the signal's number where one killed it.
    """
    stop = _Stop()
    for left in remove_abandoned(_scratch(arguments)):
        _say(arguments[0], f"removed {left}, which a stage that was killed had left")
    with handled_by(stop.add):
        for attempt in range(1, attempts + 1):
            status = _attempt(arguments, stop)
            if stop.received or status in _FINAL:
                break
            pause = min(_LONGEST_PAUSE_S, _pause_s() * 2 ** (attempt - 1))
            last = attempt == attempts
            _say(arguments[0], f"attempt {attempt} of {attempts} {_how(status)}" + ("" if last else _next(pause)))
            if not last and not stop.sleep(pause):
                _say(arguments[0], "terminated while waiting for the next attempt")
                return 128 + stop.received[0]
        else:
            return 2 if status == TRANSIENT_STATUS else status
    if attempt > 1 and status == 0:
        _say(arguments[0], f"attempt {attempt} of {attempts} succeeded")
    return 128 + stop.received[0] if status == TRANSIENT_STATUS else status


def _attempt(arguments: Sequence[str], stop: _Stop) -> int:
    with scratch_folder(_scratch(arguments), "attempt") as scratch:
        # A group of its own: a terminal's Ctrl-C arrives once.
        child = subprocess.Popen(_command(arguments, str(scratch)), process_group=0)
        stop.pass_on_to(child)
        status = child.wait()
        with contextlib.suppress(ProcessLookupError):  # what a killed process has started
            os.killpg(child.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _command(arguments: Sequence[str], scratch: str) -> list[str]:
    # -P: what lies in the working folder is not imported.
    return [sys.executable, "-P", "-m", __name__, *arguments, "--scratch", scratch]


def _scratch(arguments: Sequence[str]) -> Path | None:
    """Where the attempts' scratch folders go; None for the system's place.

    A folder that cannot be written is for the verb to refuse, so it is passed over here.
    """
    *_, given = os.environ.get("TMPDIR", ""), *_values(arguments, "--scratch")  # the last one counts
    return Path(given) if given and Path(given).is_dir() and os.access(given, os.W_OK | os.X_OK) else None


class _Stop:
    """SIGTERM and SIGINT: passed on to the verb's process, and remembered."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._child: subprocess.Popen[bytes] | None = None

    def add(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.received.append(number)
        if self._child is not None:
            self._child.send_signal(number)

    def pass_on_to(self, child: subprocess.Popen[bytes]) -> None:
        """Pass signals on to this process from now on, and those that came while it was started."""
        early = list(self.received)
        self._child = child
        for number in early:
            child.send_signal(number)

    def sleep(self, seconds: float) -> bool:
        """Wait; false as soon as a signal has arrived."""
        until = time.monotonic() + seconds
        while not self.received and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))  # a signal's handler runs, and sleeping continues
        return not self.received


def _pause_s() -> float:
    """Seconds before the second attempt; each further pause is twice as long."""
    try:
        seconds = float(os.environ.get(PAUSE_VARIABLE, _PAUSE_S))
    except ValueError:
        return _PAUSE_S
    return seconds if 0 <= seconds <= _LONGEST_PAUSE_S else _PAUSE_S


def _how(status: int) -> str:
    if status == TRANSIENT_STATUS:
        return "failed for a reason that may pass (see above)"
    if status > 128:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(status - 128).name}"
    return f"failed with status {status} (see above)"


def _next(pause_s: float) -> str:
    return f"; the next begins in {pause_s:g} s and resumes from what is written"


def _say(verb: str, text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"landseg {verb}: {text}", file=sys.stderr, flush=True)


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the waiting process is gone, however that ended."""
    with contextlib.suppress(OSError, AttributeError):  # Linux alone knows it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


if __name__ == "__main__":
    from landseg.cli.main import main

    _end_with_parent()
    sys.exit(main(sys.argv[1:], is_attempt=True))
