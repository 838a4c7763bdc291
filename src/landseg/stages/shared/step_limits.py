"""What the steps of a pipeline may use, as the step is told that plans their work (pipelines/dags/step_limits.py).

So a volume that is too small for a dataset is found when the dataset is staged, not by the step that runs days later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from landseg import storage
from landseg.contracts.errors import ConfigError

VARIABLE = "LANDSEG_STEP_LIMITS"
_LIMIT = re.compile(r"([a-z-]+\.(?:scratch_bytes|timeout_s))=([1-9][0-9]*)")


def limit(step: str, name: str) -> int | None:
    """A limit of a step; None where no pipeline runs it.

    Args:
        step: the step, as in `SET="STEP.scratch=…"`.
        name: `scratch_bytes` or `timeout_s`.

    Raises:
        ConfigError: the environment says something else than limits.
    """
    limits: dict[str, int] = {}
    for text in os.environ.get(VARIABLE, "").split():
        match = _LIMIT.fullmatch(text)
        if match is None:
            expected = "expected STEP.scratch_bytes=N and STEP.timeout_s=N"
            raise ConfigError(VARIABLE, f"{expected}, found {text!r}", "unset it")
        limits[match[1]] = int(match[2])
    return limits.get(f"{step}.{name}")


def check_step_room(steps: Iterable[str], needed: storage.RoomNeeded) -> None:
    """Refuse, before the work, scratch volumes of later steps that cannot hold what these keep there.

    Args:
        steps: the later steps.
        needed: what each of them keeps on its volume.

    Raises:
        ConfigError: a step's volume is smaller than the least.
    """
    for step in steps:
        room = limit(step, "scratch_bytes")
        if room is not None and room < needed.least_bytes:
            raise ConfigError(
                f"step {step}",
                f"expected a scratch volume of {needed.least_bytes} bytes at least, for {needed.what}; found {room}",
                f'submit again with SET="{step}.scratch={needed.volume}", which is enough',
            )
