"""What the processes of a team do in test_train_distributed.py; a module, so that they can import it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from landseg.training.distributed.team import Team
from landseg.training.job import TrainingJob
from landseg.training.trainer import train

# isort: split
from mmcv.runner import HOOKS, Hook


@HOOKS.register_module()
class FreezeNorms(Hook):  # type: ignore[misc]
    def before_train_iter(self, runner: Any) -> None:
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


@HOOKS.register_module()
class KeepGradients(Hook):  # type: ignore[misc]
    def __init__(self, path: str) -> None:
        self.path = path

    def after_train_iter(self, runner: Any) -> None:
        if runner.rank == 0:
            gradients = {n: p.grad.clone() for n, p in runner.model.named_parameters() if p.grad is not None}
            torch.save(gradients, self.path)


def train_on_one_thread(job: TrainingJob, team: Team) -> None:
    torch.set_num_threads(1)
    train(job, team)
