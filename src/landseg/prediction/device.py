"""What this machine predicts on, and in which precision."""

from __future__ import annotations

from typing import cast

import torch

from landseg.contracts.choices import Precision
from landseg.models.precision import cpu_is_faster_in_bf16


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def num_gpus() -> int:
    """GPUs that predicting uses: one, or none where there is none."""
    return int(default_device().type == "cuda")


def resolve_precision(choice: str, trained_in: str | None = None) -> Precision:
    """What `--precision auto` means here: a 16-bit type in which the device is faster, else fp32.

    On a GPU that is fp16 for a model that was trained in it: fp16 keeps more digits than bf16, and such a model stays
    within its range.

    Args:
        choice: of the user.
        trained_in: the precision that the model was trained in, where it is known.
    """
    if choice != "auto":
        return cast(Precision, choice)
    if default_device().type == "cuda":
        if trained_in == "fp16":
            return "fp16"
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    return "bf16" if cpu_is_faster_in_bf16() else "fp32"
