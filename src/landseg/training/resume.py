"""The state of a training process: random numbers, gradients under way, and the parts of a checkpoint."""

from __future__ import annotations

import contextlib
import platform
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import mmcv
import mmseg
import numpy as np
import torch

from landseg import __version__
from landseg.raw.processes import num_cpus
from landseg.training.job import TrainJob


def versions() -> dict[str, str]:
    """What decided the result beside the configuration: versions by package."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mmcv": mmcv.__version__,
        "mmseg": mmseg.__version__,
        "landseg": __version__,
    }


def environment(device: torch.device, processes: int) -> dict[str, str]:
    """The machine that trained, for the report: what speed, and on GPUs the last digits, depend on."""
    facts = {"System": platform.platform(), "CPU": f"{num_cpus()} x {_cpu_name()}", "Processes": str(processes)}
    if device.type == "cuda":
        facts["GPU"] = f"{processes} x {torch.cuda.get_device_name(device)}"
        facts["CUDA, cuDNN"] = f"{torch.version.cuda}, {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    return facts


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def seed_everything(seed: int, deterministic: bool, cudnn_benchmark: bool) -> None:
    """Seed as mmseg's `set_random_seed` does; `deterministic` asks GPUs for kernels that repeat their results."""
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
    """Go on where :func:`random_state` was called."""
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"], device)
    keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, python_keys, python_gauss = saved["python"]
    random.setstate((version, tuple(python_keys), python_gauss))


def pending_gradients(model: torch.nn.Module, accumulating: bool) -> dict[str, torch.Tensor] | None:
    """Gradients of the iterations since the last step, where steps take several."""
    if not accumulating:
        return None
    return {name: to_cpu(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def restore_gradients(model: torch.nn.Module, gradients: dict[str, torch.Tensor] | None) -> None:
    """Put back what :func:`pending_gradients` took."""
    for name, parameter in model.named_parameters():
        if gradients and name in gradients:
            parameter.grad = gradients[name].to(parameter.device, copy=True)


def checkpoint(
    model: torch.nn.Module, config: str, job: TrainJob, iteration: int, iters_per_epoch: int
) -> dict[str, Any]:
    """An ordinary mmseg checkpoint: what stock mmseg loads."""
    state = OrderedDict((name, to_cpu(value)) for name, value in model.state_dict().items())
    return {
        "meta": {
            "CLASSES": list(model.CLASSES),  # type: ignore[arg-type]
            "PALETTE": [list(colour) for colour in model.PALETTE],  # type: ignore[union-attr]
            "config": config,
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


def to_cpu(value: Any) -> Any:
    """A deep copy with every tensor on the CPU: what training does next does not change it."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_cpu(item) for item in value)
    return value
