"""What trained: the versions and the machine, recorded with the result."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import mmcv
import mmseg
import torch

from landseg import __version__
from landseg.raw.processes import num_cpus


def versions() -> dict[str, str]:
    """Versions by package: what decides the result in addition to the configuration."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mmcv": mmcv.__version__,
        "mmseg": mmseg.__version__,
        "landseg": __version__,
    }


def environment(device: torch.device, processes: int) -> dict[str, str]:
    """The machine that trained, for the report: speed depends on it, and on GPUs so do the last digits."""
    facts = {"System": platform.platform(), "CPU": f"{num_cpus()} x {_cpu_name()}", "Processes": str(processes)}
    if workspace := os.environ.get("CUBLAS_WORKSPACE_CONFIG"):  # set by --deterministic
        facts["CUBLAS_WORKSPACE_CONFIG"] = workspace
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
