"""The random number generators of a process: seeded, saved and restored."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, deterministic: bool, cudnn_benchmark: bool) -> None:
    """Seed as mmseg's `set_random_seed` does; `deterministic` asks GPUs for kernels that repeat their results.

    Matrix products of float32 stay float32: cuDNN would round their inputs to TF32.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = cudnn_benchmark and not deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator of this process, as tensors and plain values."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    version, python_keys, python_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(python_keys), python_gauss],
    }


def restore_random_state(saved: dict[str, Any], device: torch.device) -> None:
    """Put every generator back into the state that :func:`random_state` returned."""
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"], device)
    keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, python_keys, python_gauss = saved["python"]
    random.setstate((version, tuple(python_keys), python_gauss))
