"""What goes wrong in one of two processes; a module that imports little, so that they start fast."""

from __future__ import annotations

import os
import signal

from landseg.contracts.errors import DataError
from landseg.training.distributed import Team


def fail_in_second(job: None, team: Team) -> None:
    if team.rank == 1:
        raise DataError("tile x", "is broken")
    team.gather(None)  # would wait for ever


def kill_second(job: None, team: Team) -> None:
    if team.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    team.gather(None)
