"""What makes training faster and changes results by rounding. What was used is recorded with the result."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import torch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Acceleration:
    """What is used in addition to 16-bit numbers.

    In fp32 that is nothing except `compiled`, where it was asked for: fp32 computes what mmseg computes.

    Attributes:
        channels_last: convolutions read (N, H, W, C) from memory, which tensor cores prefer. CPUs are slower with it:
            oneDNN has layouts of its own.
        fused_optimizer: one kernel updates weights and moments, instead of a pass over memory for each operation.
        compiled: torch.compile compiles the backbone.
    """

    channels_last: bool = False
    fused_optimizer: bool = False
    compiled: bool = False

    @classmethod
    def of(cls, precision: str, device: torch.device, optimizer: Any, *, compiled: bool) -> Acceleration:
        """What helps on this device.

        Args:
            precision: fp32, fp16 or bf16.
            device: where training runs.
            optimizer: the config's `optimizer`.
            compiled: whether torch.compile was asked for and works.
        """
        kind = getattr(torch.optim, str((optimizer or {}).get("type")), None)
        has_fused = kind is not None and "fused" in inspect.signature(kind).parameters
        if device.type == "cuda" and kind is torch.optim.Adagrad:  # of which torch has a fused form for CPUs alone
            has_fused = False
        in_16_bits = precision != "fp32"
        return cls(in_16_bits and device.type == "cuda", in_16_bits and has_fused, compiled)

    @property
    def memory_format(self) -> torch.memory_format:
        """Of weights and images."""
        return torch.channels_last if self.channels_last else torch.preserve_format

    def optimizer(self, config: Any) -> Any:
        """The config's `optimizer`, fused unless it says otherwise."""
        return {"fused": True, **config} if self.fused_optimizer else config


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here; logs why if not. It needs a compiler, which few runtime images have."""
    try:
        compiled = torch.compile(lambda values: (values * 2).relu() + 1)
        compiled(torch.ones(64, device=device))
    except Exception as err:  # whatever the backend's many parts raise
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        _log.warning("--compile: torch.compile does not work here, training continues without it: %s", reason)
        return False
    return True
