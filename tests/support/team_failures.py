"""What goes wrong in one of two processes; a module that imports little, so that they start fast."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from landseg.contracts.errors import DataError
from landseg.training.distributed.stop_requests import stop_requests
from landseg.training.distributed.team import Team


def fail_in_second(job: None, team: Team) -> None:
    if team.rank == 1:
        raise DataError("tile x", "is broken")
    team.gather(None)  # would wait for ever


def kill_second(job: None, team: Team) -> None:
    if team.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    team.gather(None)


def publish_slowly_when_stopped(place: str, team: Team) -> None:
    """The leader publishes for a while after it was asked to stop; the other waits for it."""
    with stop_requests() as stops:
        Path(place, f"ready-{team.rank}").touch()
        while not stops:
            time.sleep(0.05)
        if team.leads:
            time.sleep(2)
            Path(place, "published").touch()
        team.gather(None)
        raise SystemExit(stops.exit_status)


def meet(place: str, team: Team) -> None:
    """Be there until the test has looked."""
    team.gather(team.rank)
    Path(place, f"ready-{team.rank}").touch()
    while not Path(place, "seen").exists():
        time.sleep(0.05)
