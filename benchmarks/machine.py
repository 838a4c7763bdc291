"""What a figure was measured on and with; it is recorded with the figure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "torch",
    "mmcv",
    "mmcv-full",
    "mmsegmentation",
    "numpy",
    "opencv-python-headless",
    "tifffile",
    "imagecodecs",
)


def describe() -> dict[str, Any]:
    """Processor, GPU, system, versions, and how busy the machine was in the last minute."""
    found: dict[str, Any] = {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.platform()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    found["load_average"] = os.getloadavg()[0]
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
