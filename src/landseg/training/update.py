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
        not_finite: called after the backward pass; returns, on the device, a number above 0 where the loss of any
            process is not finite. A step with such a loss is skipped, whatever its gradients are.
        read: reads what the iteration has found, and may raise. The process waits for the device only there: after
            the step has been launched, where the device itself can skip it.
    """

    def __init__(
        self,
        scaler: Any,
        fixed_scale: float | None,
        grad_clip: dict[str, Any] | None,
        accumulate: int,
        not_finite: Callable[[], torch.Tensor],
        read: Callable[[], None],
    ) -> None:
        self.scaler, self.fixed_scale, self.grad_clip = scaler, fixed_scale, grad_clip
        self.accumulate, self.not_finite, self.read = accumulate, not_finite, read
        self.skipped: torch.Tensor | None = None
        """Above 0 where the last step was skipped because of fp16; on the device, so read it late."""

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
        not_finite = self.not_finite()
        # Without a scaler, only fused optimizers take a flag that stays on the device.
        skips_itself = self.scaler.is_enabled() or _is_fused(runner.optimizer)
        if not skips_itself:
            self.read()
        if self.scaler.is_enabled():
            # The scaler looks at gradients alone, which may be finite where the loss is not.
            with_gradient[0].grad.add_(torch.where(not_finite > 0, torch.inf, 0.0))
        norm = skipped = None
        is_first = not runner.optimizer.state
        if (runner.iter + 1) % self.accumulate == 0 or self.is_last_iter(runner):
            norm = self._step(runner, with_gradient, not_finite)
            skipped = self.skipped
        if skips_itself:
            self.read()
        if is_first and skipped is not None and bool(skipped):
            # pytorch: torch/optim/sgd.py, _fused_sgd leaves a momentum without values, and adds to it in the next step.
            runner.optimizer.state.clear()
        if norm is not None:
            runner.log_buffer.update({"grad_norm": float(norm)}, runner.outputs["num_samples"])

    def _step(
        self, runner: HookRunner, with_gradient: list[torch.nn.Parameter], not_finite: torch.Tensor
    ) -> torch.Tensor | None:
        """Make a step.

        Returns:
            The norm of the gradients, on the device; None where they are not clipped.
        """
        norm: torch.Tensor | None = None
        if self.grad_clip is not None:
            self.scaler.unscale_(runner.optimizer)
            norm = clip_grad_norm_(with_gradient, **self.grad_clip)
        if self.scaler.is_enabled():
            self.scaler.step(runner.optimizer)
            found = self.scaler._per_optimizer_states[id(runner.optimizer)]["found_inf_per_device"].values()
            self.skipped = torch.stack([one.float().reshape(()) for one in found]).sum()
            self.scaler.update(self.fixed_scale)
        elif _is_fused(runner.optimizer):
            # pytorch: torch/amp/grad_scaler.py, GradScaler.step passes the flag in the same way.
            optimizer: Any = runner.optimizer
            optimizer.grad_scale, optimizer.found_inf = None, (not_finite > 0).float()
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf
        else:
            runner.optimizer.step()
        return norm


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return all(group.get("fused") for group in optimizer.param_groups)


def update_from_config(
    config: mmcv.Config,
    scaler: Any,
    fixed_scale: float | None,
    not_finite: Callable[[], torch.Tensor],
    read: Callable[[], None],
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
        scaler,
        fixed_scale,
        None if clip is None else dict(clip),
        options.get("cumulative_iters") or 1,
        not_finite,
        read,
    )
