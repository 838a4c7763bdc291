"""Number formats: which one to compute in, where it applies, and the loss scale that fp16 needs."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any, cast

import mmcv
import torch

from landseg.contracts.choices import Precision
from landseg.contracts.errors import ConfigError

TORCH_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What each precision computes in."""
_HALF = (torch.bfloat16, torch.float16)
_FP16_HOOKS = {"Fp16OptimizerHook", "GradientCumulativeFp16OptimizerHook"}


def asked_for(config: mmcv.Config) -> Any:
    """The config's loss scale where it asks for mixed precision (`fp16`, or an Fp16OptimizerHook), else None."""
    options = config.get("optimizer_config") or {}
    if options.get("type") in _FP16_HOOKS:  # this hook decides in stock mmseg; an additional `fp16` has no effect
        return options.get("loss_scale", 512.0)
    return None if config.get("fp16") is None else config.fp16.get("loss_scale", 512.0)


def resolve(choice: str, config: mmcv.Config, on_gpu: bool) -> Precision:
    """What `--precision` means here.

    `auto` is fp32 unless the config asks for mixed precision, and then the 16-bit type in which the device is faster:
    the recipe's fp16 on GPUs, bf16 on some CPUs.
    """
    if choice != "auto":
        return cast(Precision, choice)
    if asked_for(config) is None:
        return "fp32"
    if on_gpu:
        return "fp16"
    return "bf16" if cpu_is_faster_in_bf16() else "fp32"


def cpu_is_faster_in_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bf16 faster than float32.

    It does with matrix units (Intel's amx_bf16, Arm's bf16) and on AMD's cores with avx512_bf16. On Intel's,
    avx512_bf16 alone multiplies no more numbers at once than float32 does, and converting comes on top: convolutions
    took 1.5 to 2 times as long. Without any of them torch emulates it, slower still.
    """
    with contextlib.suppress(OSError):
        lines = [line.partition(":")[::2] for line in cpuinfo.read_text().splitlines()]
        first = {name.strip(): values.split() for name, values in reversed(lines)}
        units = {*first.get("flags", ()), *first.get("Features", ())}
        by_amd = first.get("vendor_id") == ["AuthenticAMD"]
        return not units.isdisjoint({"amx_bf16", "bf16"}) or (by_amd and "avx512_bf16" in units)
    return False


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context of the model's forward pass."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=TORCH_DTYPES[precision])


def build_scaler(precision: Precision, config: mmcv.Config, device: torch.device) -> tuple[Any, float | None]:
    """The gradient scaler, as mmcv's Fp16OptimizerHook builds it.

    Returns:
        The scaler, and the constant scale to set after each update, or None where the scale is dynamic.

    Raises:
        ConfigError: the config's loss scale is not a number, "dynamic" or a dictionary.
    """
    scale: Any = asked_for(config) if precision == "fp16" else None
    if precision != "fp16":
        return torch.amp.GradScaler(device.type, enabled=False), None
    if scale is None:
        scale = 512.0
    if scale == "dynamic":
        return torch.amp.GradScaler(device.type), None
    if isinstance(scale, int | float) and not isinstance(scale, bool) and scale > 0:
        return torch.amp.GradScaler(device.type, init_scale=float(scale)), float(scale)
    with contextlib.suppress(TypeError, AssertionError, AttributeError):  # of its arguments
        return torch.amp.GradScaler(device.type, **scale), None
    raise ConfigError("fp16.loss_scale", f"expected a number, 'dynamic' or a dictionary, found {scale!r}")


def losses_in_fp32(model: torch.nn.Module) -> None:
    """Make heads compute their losses in fp32 under autocast, as mmseg's `force_fp32` does for fp16 on CUDA alone."""
    for module in model.modules():
        losses = getattr(module, "losses", None)
        if callable(losses):
            module.losses = functools.partial(_in_fp32, losses)  # type: ignore[assignment]


def _in_fp32(function: Any, *args: Any, **kwargs: Any) -> Any:
    tensor = next(_tensors((args, kwargs)))
    with torch.autocast(tensor.device.type, enabled=False):
        return function(*(_float(item) for item in args), **{key: _float(item) for key, item in kwargs.items()})


def _tensors(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _float(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in _HALF else value
    if isinstance(value, list | tuple):
        return type(value)(_float(item) for item in value)
    return value
