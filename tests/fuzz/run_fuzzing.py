"""Reads damaged inputs of one kind for a while: `run_fuzzing.py TARGET SECONDS SEED FOLDER`.

Ends with 1 and keeps the input in FOLDER when a reader does anything but succeed or refuse in one line: another error,
more than 20 s or 600 MiB for one input, a file opened for writing outside FOLDER, a connection, a process.
"""

from __future__ import annotations

import collections
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS, inputs

from landseg.contracts.errors import LandsegError

MAX_BYTES = 600 << 20
MAX_SECONDS = 20
_FORBIDDEN = ("socket.connect", "socket.bind", "subprocess.Popen", "os.exec", "os.system", "os.posix_spawn", "os.fork")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_active = False


class Escape(BaseException):
    """What no reader of foreign input may do."""


def watch(folder: Path) -> None:
    inside = (str(folder), "/dev/null", "/dev/shm")

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if not _active:
            return
        if event in _FORBIDDEN:
            raise Escape(f"{event} {args}")
        is_write = event == "open" and isinstance(args[0], str) and (args[2] or 0) & _WRITES
        if is_write and not str(Path(args[0]).resolve()).startswith(inside):
            raise Escape(f"opens {args[0]} for writing")

    sys.addaudithook(audit)


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10


def forget_peak() -> int:
    """Starts counting anew; returns what is in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def too_long(*_: object) -> None:
    raise Escape(f"more than {MAX_SECONDS} s")


def main(name: str, seconds: str, seed: str, folder: str) -> int:
    global _active
    warnings.simplefilter("ignore")
    place = Path(folder).resolve()
    target = TARGETS[name](place)
    for kind, whole in target.seeds.items():
        target.reader(kind)(whole)  # every seed is valid, and what is imported late is imported
    watch(place)
    signal.signal(signal.SIGALRM, too_long)
    end, counts, most = time.monotonic() + float(seconds), collections.Counter[str](), 0
    for kind, data in inputs(target, int(seed)):
        if time.monotonic() > end:
            break
        before = forget_peak()
        signal.alarm(MAX_SECONDS)
        problem = ""
        _active = True
        try:
            target.reader(kind)(data)
            counts["read"] += 1
        except LandsegError as err:
            counts["refused"] += 1
            line = str(err)
            if len(line.splitlines()) != 1 or not line.isprintable() or len(line) > 5000:
                problem = f"not one line: {line[:300]!r}"
        except BaseException as err:
            problem = f"{type(err).__name__}: {err}"
        finally:
            _active = False
            signal.alarm(0)
        used = peak_bytes() - before
        most = max(most, used)
        if used > MAX_BYTES:
            problem = problem or f"{used >> 20} MiB"
        if problem:
            kept = place / f"fault-{name}-{kind}"
            kept.write_bytes(data)
            print(f"{name}, seed {seed}: {kind}: {problem[:400]}; kept as {kept}")
            return 1
    print(f"{name}, seed {seed}: {counts['read']} read, {counts['refused']} refused, at most {most >> 20} MiB for one")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
