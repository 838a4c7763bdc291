"""What makes training faster and changes results by rounding. What was used is recorded beside the result."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import torch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """What is used, beside 16-bit numbers.

    In fp32 nothing is, save `compiled` where it was asked for: fp32 computes what mmseg computes.

    Attributes:
        channels_last: convolutions see (N, H, W, C) in memory, which tensor cores want. CPUs are slower with it: oneDNN
            has layouts of its own.
        fused_optimizer: one kernel updates weights and moments, where there was a pass over memory per operation.
        compiled: the backbone runs as kernels of torch.compile.
    """

    channels_last: bool = False
    fused_optimizer: bool = False
    compiled: bool = False

    @classmethod
    def of(cls, precision: str, device: torch.device, optimizer: Any, *, compiled: bool) -> Speed:
        """What helps.

        Args:
            precision: fp32, fp16 or bf16.
            device: where training runs.
            optimizer: the config's `optimizer`.
            compiled: whether torch.compile was asked for and works.
        """
        kind = getattr(torch.optim, str((optimizer or {}).get("type")), None)
        has_fused = kind is not None and "fused" in inspect.signature(kind).parameters
        in_16_bits = precision != "fp32"
        return cls(in_16_bits and device.type == "cuda", in_16_bits and has_fused, compiled)

    @property
    def memory_format(self) -> torch.memory_format:
        """Of weights and images."""
        return torch.channels_last if self.channels_last else torch.preserve_format

    def optimizer(self, config: Any) -> Any:
        """The config's `optimizer`, fused where it does not say itself."""
        return {"fused": True, **config} if self.fused_optimizer else config


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here; says why not. It needs a compiler, which images for running rarely have."""
    try:
        compiled = torch.compile(lambda values: (values * 2).relu() + 1)
        compiled(torch.ones(64, device=device))
    except Exception as err:  # whatever the backend's many parts raise
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        _log.warning("--compile: torch.compile does not work here, training goes on without it: %s", reason)
        return False
    return True
