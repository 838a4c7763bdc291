"""Trains a pickled job in a process that may be killed: JOB PROCESSES ITERATION RANK (-1: not at all)."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import torch

from landseg.training.distributed.processes import run_processes
from landseg.training.distributed.team import Team
from landseg.training.hooks import HookRunner
from landseg.training.job import TrainingJob
from landseg.training.trainer import train


def train_and_die(kill_at: int, victim: int, job: TrainingJob, team: Team) -> None:
    """Train; process `victim` kills itself at a random moment of iteration `kill_at` or of what follows it.

    Where an earlier run was past that iteration before it was killed, it is the first iteration of this one.
    """
    torch.set_num_threads(1)
    go_to = HookRunner.go_to

    def watched(self: Any, iteration: int) -> None:
        if 0 <= kill_at <= iteration and team.rank == victim:
            HookRunner.go_to = go_to  # type: ignore[method-assign]
            delay = random.Random(kill_at).uniform(0, 0.3)
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        go_to(self, iteration)

    HookRunner.go_to = watched  # type: ignore[method-assign]
    train(job, team)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    job = torch.load(sys.argv[1], weights_only=False)
    processes, kill_at, victim = (int(value) for value in sys.argv[2:])
    run_processes(partial(train_and_die, kill_at, victim), job, processes, False, Path(job.scratch))
