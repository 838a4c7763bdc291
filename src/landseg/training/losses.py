"""The losses of a batch, as mmseg's `train_step` sums them; what a network raises becomes one line."""

from __future__ import annotations

import torch

from landseg.contracts.errors import LandsegError
from landseg.models import precision
from landseg.models.failures import failure, is_of_team, is_out_of_memory, is_own
from landseg.training.input.batches import Batch
from landseg.training.session import Session


def compute_losses(session: Session, forward: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """Compute a batch's losses.

    Args:
        session: whose precision and memory format are used.
        forward: the model, or what shares its gradients with the team.
        batch: moved to the session's device, in place.

    Returns:
        Each loss by its name, and their sum as `loss`.

    Raises:
        ConfigError: the model cannot be trained on the batch.
    """
    device = session.team.device
    images = batch["img"].to(device, non_blocking=True)
    batch["img"] = images.to(memory_format=session.acceleration.memory_format)
    batch["gt_semantic_seg"] = batch["gt_semantic_seg"].to(device, non_blocking=True).long()
    try:
        with precision.autocast(session.job.precision, device):
            losses = forward(**batch)
    except LandsegError:
        raise
    except Exception as err:  # networks of many kinds, in configs for other data
        if is_out_of_memory(err) or is_of_team(err) or is_own(err):
            raise
        raise failure(err, session.model, images.shape, "training") from err
    values = {
        name: value.mean() if isinstance(value, torch.Tensor) else sum(item.mean() for item in value)
        for name, value in losses.items()
    }
    values["loss"] = sum(value for name, value in values.items() if "loss" in name)
    return values
