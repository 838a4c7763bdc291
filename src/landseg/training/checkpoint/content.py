"""What a checkpoint holds: mmseg's own entries, and gradients that are still being accumulated."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import mmcv
import mmseg
import torch

from landseg import __version__
from landseg.contracts.model import ModelInput
from landseg.models.trained_model import INPUT
from landseg.training.job import TrainingJob


def mmseg_checkpoint(
    model: torch.nn.Module, images: ModelInput, job: TrainingJob, iteration: int, iters_per_epoch: int
) -> dict[str, Any]:
    """An ordinary mmseg checkpoint (`meta` and `state_dict`), which stock mmseg loads.

    Args:
        model: what is trained, not wrapped.
        images: what the model is trained on.
        job: the training run.
        iteration: number of finished iterations.
        iters_per_epoch: batches in an epoch.
    """
    state = OrderedDict((name, to_cpu(value)) for name, value in model.state_dict().items())
    return {
        "meta": {
            "CLASSES": list(model.CLASSES),  # type: ignore[arg-type]
            "PALETTE": [list(colour) for colour in model.PALETTE],  # type: ignore[union-attr]
            "config": job.config,
            INPUT: images.model_dump(mode="json"),
            "seed": job.seed,
            "exp_name": job.name,
            "epoch": iteration // iters_per_epoch,
            "iter": iteration,
            "mmcv_version": mmcv.__version__,
            "mmseg_version": mmseg.__version__,
            "landseg_version": __version__,
        },
        "state_dict": state,
    }


def pending_gradients(model: torch.nn.Module, accumulating: bool) -> dict[str, torch.Tensor] | None:
    """Gradients accumulated since the last step, where a step takes several iterations."""
    if not accumulating:
        return None
    return {name: to_cpu(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def restore_gradients(model: torch.nn.Module, gradients: dict[str, torch.Tensor] | None) -> None:
    """Put back what :func:`pending_gradients` returned."""
    for name, parameter in model.named_parameters():
        if gradients and name in gradients:
            parameter.grad = gradients[name].to(parameter.device, copy=True)


def to_cpu(value: Any) -> Any:
    """A deep copy with every tensor on the CPU, which further training does not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_cpu(item) for item in value)
    return value
