"""How long requests to object storage are repeated: one policy for all of them.

A failing request is repeated, with growing pauses and random jitter, until it has kept failing for
`LANDSEG_S3_RETRY_S` seconds (120). An endpoint that has never answered gets only a few seconds: a wrong
address, a wrong port or a forgotten port-forward is far more likely than an outage, and its author is waiting.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

from landseg.contracts.errors import OutageError, StorageError

R = TypeVar("R")

FIRST_CONTACT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_ANNOUNCED_ATTEMPT = 7  # about three seconds in: the first hiccups are not worth a line

_jitter = random.Random()
"""A generator of its own: retries must not advance the one whose state a training stores."""

_log = logging.getLogger("landseg.storage")


class TransientError(Exception):
    """A failure that another attempt may not meet; `final` is what the user reads when there is no other attempt."""

    def __init__(self, final: StorageError) -> None:
        super().__init__(str(final))
        self.final = final


def budget_s() -> float:
    """Seconds for which one request is repeated: `LANDSEG_S3_RETRY_S`."""
    text = os.environ.get("LANDSEG_S3_RETRY_S", "120")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise StorageError("LANDSEG_S3_RETRY_S", f"expected seconds between 0 and 86400, found {text!r}")
    return seconds


def retrying(attempt: Callable[[], R], reached: Callable[[], bool]) -> R:
    """Run `attempt` until it returns, raises something other than :class:`TransientError`, or time is up.

    Args:
        attempt: one try.
        reached: whether the endpoint has ever answered.
    """
    failing_since: float | None = None
    for number in range(1, 1_000_000):
        try:
            return attempt()
        except TransientError as err:
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            budget = budget_s() if reached() else min(FIRST_CONTACT_S, budget_s())
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(number, 10)) * _jitter.uniform(0.5, 1.0)
            if now + pause - failing_since > budget:
                raise OutageError(
                    err.final.where, f"{err.final.problem}; gave up after {number} attempts", err.final.hint
                ) from err
            _log.debug("attempt %d failed, the next in %.1f s: %s", number, pause, err.final)
            if number == _ANNOUNCED_ATTEMPT:
                _log.warning("%s; trying again for up to %.0f s", err.final, budget - (now - failing_since))
            time.sleep(pause)
    raise AssertionError("unreachable")
