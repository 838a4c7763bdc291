"""The update of the weights, as a config's `optimizer_config` describes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mmcv
import torch
from mmcv.runner import Hook
from torch.nn.utils import clip_grad_norm_

from landseg.contracts.errors import ConfigError
from landseg.training.hooks import HookRunner

_STOCK_UPDATES = {
    "OptimizerHook",
    "DistOptimizerHook",
    "Fp16OptimizerHook",
    "GradientCumulativeOptimizerHook",
    "GradientCumulativeFp16OptimizerHook",
}


class Update(Hook):  # type: ignore[misc]
    """Backward pass, clipping and step: all of mmcv's optimizer hooks in one, in any precision.

    Args:
        scaler: gradient scaler, possibly disabled.
        fixed_scale: what the scale is set back to after each step; None where it is dynamic.
        grad_clip: arguments of `clip_grad_norm_`, or None.
        accumulate: iterations per step.
        check: called between the backward pass and the step; returns whether the loss is finite in every process, or
            raises. A step with a loss that is not is skipped, whatever its gradients are.
    """

    def __init__(
        self,
        scaler: Any,
        fixed_scale: float | None,
        grad_clip: dict[str, Any] | None,
        accumulate: int,
        check: Callable[[], bool],
    ) -> None:
        self.scaler, self.fixed_scale, self.grad_clip = scaler, fixed_scale, grad_clip
        self.accumulate, self.check = accumulate, check
        self.skipped: torch.Tensor | None = None
        """Above 0 where the last step was skipped because of fp16; on the GPU, so read it late."""

    def after_train_iter(self, runner: HookRunner) -> None:
        """Update the weights, or accumulate gradients."""
        if runner.iter % self.accumulate == 0:
            runner.optimizer.zero_grad()
        # The iterations left over at the end make one smaller step, as in mmcv.
        remainder = runner.max_iters % self.accumulate
        accumulated = self.accumulate if runner.iter < runner.max_iters - remainder else remainder
        loss = runner.outputs["loss"]
        self.scaler.scale(loss / accumulated if accumulated > 1 else loss).backward()
        with_gradient = [p for p in runner.model.parameters() if p.requires_grad and p.grad is not None]
        if not self.check():
            # The scaler looks at gradients alone, which may be finite where the loss is not.
            with_gradient[0].grad.fill_(torch.inf)
        if (runner.iter + 1) % self.accumulate and not self.is_last_iter(runner):
            return
        if self.grad_clip is not None:
            self.scaler.unscale_(runner.optimizer)
            norm = clip_grad_norm_(with_gradient, **self.grad_clip)
            runner.log_buffer.update({"grad_norm": float(norm)}, runner.outputs["num_samples"])
        self.scaler.step(runner.optimizer)
        if self.scaler.is_enabled():
            found = self.scaler._per_optimizer_states[id(runner.optimizer)]["found_inf_per_device"].values()
            self.skipped = torch.stack([one.float().reshape(()) for one in found]).sum()
        self.scaler.update(self.fixed_scale)


def update_from_config(
    config: mmcv.Config, scaler: Any, fixed_scale: float | None, check: Callable[[], bool]
) -> Update:
    """The update that a config's `optimizer_config` describes.

    Raises:
        ConfigError: its hook is not one of mmcv's.
    """
    options = dict(config.get("optimizer_config") or {})
    kind = options.get("type", "OptimizerHook")
    if kind not in _STOCK_UPDATES:
        raise ConfigError(
            "optimizer_config.type", f"expected one of {', '.join(sorted(_STOCK_UPDATES))}, found {kind!r}"
        )
    clip = options.get("grad_clip")
    return Update(
        scaler, fixed_scale, None if clip is None else dict(clip), options.get("cumulative_iters") or 1, check
    )
