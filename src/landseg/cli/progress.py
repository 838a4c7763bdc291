"""Progress of long work: a bar on a terminal, plain lines with rate and ETA in a pod's log; on stderr.

Nothing is shown with `--quiet`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Self, TextIO

from landseg.cli.console import is_quiet

_BAR_WIDTH = 24


class Steps:
    """One bar over several pieces of work, one after the other: `with Steps("predicting", [1, 9]) as steps: ...`.

    Each :class:`Progress` that begins meanwhile is the current piece's, and is shown as part of the whole: with the
    share and the ETA of all the work. :meth:`next` ends a piece.

    Args:
        label: what is being done.
        weights: how long each piece takes, roughly and in proportion to the others.
    """

    current: ClassVar[Steps | None] = None

    def __init__(self, label: str, weights: Sequence[float]) -> None:
        self.label, self._weights = label, [weight / sum(weights) for weight in weights]
        self._piece = 0
        self._found = 0.0
        self._begun = False
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        Steps.current = self
        return self

    def __exit__(self, *_: object) -> None:
        Steps.current = None
        if not is_quiet() and sys.stderr.isatty():
            with contextlib.suppress(OSError):
                sys.stderr.write("\n")

    def next(self) -> None:
        """End a piece."""
        if not self._begun:  # it had been done before, which says nothing about how long the others take
            self._found += self._weights[self._piece]
        self._piece += 1
        self._begun = False

    def begin(self, share: float) -> None:
        """Begin to work on the current piece, of which this share had been done before."""
        self._found += 0.0 if self._begun else share * self._weights[self._piece]
        self._begun = True

    def shown(self, share: float) -> tuple[float, str]:
        """The share of all the work that is done, and the time that is left, with this share of the current piece."""
        done = sum(self._weights[: self._piece]) + share * self._weights[self._piece]
        worked = done - self._found
        if worked <= 0 or done >= 1:
            return done, ""
        return done, f", ETA {duration((time.monotonic() - self._start) / worked * (1 - done))}"


class Progress:
    """Counts finished units of work and shows them: `with Progress("staging train", 1000, "tiles") as progress: ...`.

    Args:
        label: what is being done.
        total: number of units of work.
        unit: name of a unit, plural.
        done: units that had been finished before, e.g. by a run that was killed.
        every: for work that is watched closely, units between plain lines; the last unit gives a line too.
        interval_s: seconds after which a plain line is due in any case.
        stream: where to write; a terminal gets a bar. Elsewhere, work that ends within `interval_s` gets no line.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        every: int = 0,
        interval_s: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._resumed_at = self._shown = done
        self._every = every
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._quiet = is_quiet()
        self._interval_s = 0.1 if self._terminal else interval_s
        self._start = self._last = time.monotonic()
        self._note = ""
        self._steps = Steps.current
        if self._steps is not None and total:
            self._steps.begin(done / total)

    def __enter__(self) -> Self:
        return self

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count finished units; `note` is shown after the rate, e.g. `loss 0.41`."""
        self.done += units
        self._note = note or self._note
        due = bool(self._every) and not self._terminal and self._is_round()
        if not self._quiet and (due or time.monotonic() - self._last >= self._interval_s):
            self._show()

    def _is_round(self) -> bool:
        return self.done == self.total or self.done // self._every > self._shown // self._every

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._quiet:
            return
        unseen = bool(self._every) and self._shown < self.done
        if self._terminal or unseen or (not self._every and time.monotonic() - self._start >= self._interval_s):
            self._show()
        if self._terminal and self._steps is None:
            self._write("\n")

    def _show(self) -> None:
        self._last, self._shown = time.monotonic(), self.done
        elapsed = self._last - self._start
        rate = (self.done - self._resumed_at) / elapsed if elapsed > 0 else 0.0
        share = min(1.0, self.done / self.total) if self.total else 1.0
        left = "" if rate <= 0 or share == 1 else f", ETA {duration((self.total - self.done) / rate)}"
        note = f", {self._note}" if self._note else ""
        text = f"{self.done}/{self.total} {self.unit}, {rate:.1f} {self.unit}/s, {duration(elapsed)}"
        label = self.label
        if self._steps is not None:
            share, left = self._steps.shown(share)
            label, text = self._steps.label, f"{self.label} {text}"
        text += f"{left}{note}"
        if self._terminal:
            bar = "█" * round(share * _BAR_WIDTH)
            self._write(f"\r\x1b[K{label} {bar:·<{_BAR_WIDTH}} {share:4.0%} {text}")
        else:
            self._write(f"{label}: {share:.0%} {text}\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more: the work goes on
            self._stream.write(text)
            self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds as people read them: `42s`, `3m07s`, `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
