"""What the steps of the check share: where it runs, at which size, and what it leaves for later steps."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

MODELS = ("swin", "resnest")


@dataclass(frozen=True)
class Plan:
    """A check: the full models on a GPU, or the tiny twins on the CPU, which rehearses every step.

    Attributes:
        on_gpu: whether a GPU is checked.
        folder: everything that the check writes.
    """

    on_gpu: bool
    folder: Path

    @cached_property
    def device(self) -> torch.device:
        """Where the models compute."""
        return torch.device("cuda", 0) if self.on_gpu else torch.device("cpu")

    @property
    def gpus(self) -> str:
        """The value of `--gpus`."""
        return str(int(self.on_gpu))

    @property
    def size_px(self) -> int:
        """Height and width of the tiles that speed is measured on."""
        return 512 if self.on_gpu else 64

    @property
    def batch(self) -> int:
        """Tiles in a batch of training."""
        return 8 if self.on_gpu else 2

    @property
    def num_tiles(self) -> dict[str, int]:
        """Tiles by split; of val so many that a shard of probabilities holds a batch."""
        return {"train": 32, "val": 256} if self.on_gpu else {"train": 8, "val": 4}

    @property
    def train_s(self) -> float:
        """How long a model is to train, its start and end not counted."""
        return 18.0 if self.on_gpu else 1.0

    def config(self, model: str) -> str:
        """The bundled config that takes the place of a model."""
        return model if self.on_gpu else f"{model}_tiny"

    def dataset(self, name: str) -> str:
        """Reference of a staged dataset: `large`, of :attr:`size_px`, or `small`, for the tiny twins."""
        return str(self.folder / "data" / name / "dataset.json")

    def read(self, step: str) -> dict[str, Any]:
        """What an earlier step measured.

        Raises:
            RuntimeError: it did not succeed.
        """
        path = self.folder / f"{step}.json"
        if not path.exists():
            raise RuntimeError(f"needs the step {step}, which has failed")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def landseg(*arguments: str) -> None:
    """Run a verb; what it prints goes to the step's log.

    Raises:
        CalledProcessError: it failed.
    """
    subprocess.run([sys.executable, "-m", "landseg", *arguments], check=True)


def peak_gib(device: torch.device) -> float | None:
    """Peak memory of a GPU, in GiB, as torch has allocated it in this process; None for the CPU."""
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
