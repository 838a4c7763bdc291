"""The stand-in for mmcv's runner that hooks see, and the update of the weights.

mmcv's hooks (learning rate, momentum, a config's own) read and steer a runner. This one has every attribute they use,
but leaves the loop to :mod:`landseg.training.trainer`, which can stop and go on at any iteration; mmcv's cannot.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any, NoReturn

import mmcv
import torch
from mmcv.runner import BaseRunner, Hook
from mmcv.runner.hooks import LrUpdaterHook
from mmcv.runner.hooks.momentum_updater import MomentumUpdaterHook
from torch.nn.utils import clip_grad_norm_

from landseg.contracts.errors import ConfigError

_STOCK_UPDATES = {
    "OptimizerHook",
    "DistOptimizerHook",
    "Fp16OptimizerHook",
    "GradientCumulativeOptimizerHook",
    "GradientCumulativeFp16OptimizerHook",
}
_OWN_LOGGERS = {"TextLoggerHook", "TensorboardLoggerHook"}


class HookRunner(BaseRunner):  # type: ignore[misc]
    """What hooks take for mmcv's runner.

    Args:
        model: the segmentor, not wrapped.
        optimizer: its optimizer.
        by_epoch: whether the config's runner counts epochs.
        max_iters: iterations in all.
        iters_per_epoch: batches in an epoch.
        work_dir: local folder for what hooks write.
        meta: facts that hooks may log.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        by_epoch: bool,
        max_iters: int,
        iters_per_epoch: int,
        work_dir: str,
        meta: dict[str, Any],
    ) -> None:
        super().__init__(
            model, optimizer=optimizer, work_dir=work_dir, logger=logging.getLogger("landseg.train"), meta=meta
        )
        self.by_epoch = by_epoch
        self._max_iters = max_iters
        self._max_epochs = -(-max_iters // iters_per_epoch) if by_epoch else None
        self.data_loader = range(iters_per_epoch)  # hooks ask for its length
        self.mode = "train"
        self.outputs: dict[str, Any] = {}
        self.data_batch: Any = None

    def go_to(self, iteration: int) -> None:
        """Set the counters as mmcv has them during iteration `iteration` (from 0)."""
        self._iter = iteration
        self._epoch, self._inner_iter = divmod(iteration, len(self.data_loader))

    def resume_epoch(self) -> None:
        """Tell the schedules that an epoch has begun; other hooks saw its beginning before the restart."""
        for hook in self.hooks:
            if isinstance(hook, LrUpdaterHook | MomentumUpdaterHook):
                hook.before_train_epoch(self)

    def register(self, config: mmcv.Config, update: Hook) -> None:
        """Register a config's hooks in mmcv's order of priorities; `update` is the step, where mmcv has its own."""
        lr_config = copy.deepcopy(config.get("lr_config"))
        if not self.by_epoch and lr_config is not None:
            lr_config.setdefault("by_epoch", False)
        try:
            self.register_lr_hook(lr_config)
            self.register_momentum_hook(copy.deepcopy(config.get("momentum_config")))
            self.register_hook(update, priority="ABOVE_NORMAL")
            for hook in config.get("custom_hooks") or []:
                self.register_hook_from_cfg(dict(hook))
            self._register_loggers(config.get("log_config"))
        except (KeyError, TypeError, ValueError, AssertionError, ImportError) as err:
            raise ConfigError("config", f"mmcv cannot build its hooks: {type(err).__name__}: {err}") from err

    def _register_loggers(self, log_config: Any) -> None:
        for hook in (log_config or {}).get("hooks", []):
            if hook["type"] not in _OWN_LOGGERS:
                options = {"interval": log_config.get("interval", 10), "by_epoch": self.by_epoch, **hook}
                self.register_hook(mmcv.build_from_cfg(options, mmcv.runner.HOOKS), priority="VERY_LOW")

    def run(self, *args: Any, **kwargs: Any) -> NoReturn:
        """The loop is not here."""
        raise ConfigError("custom_hooks", "a hook tried to drive the training loop, which landseg does itself")

    train = val = save_checkpoint = run


class Update(Hook):  # type: ignore[misc]
    """Backward pass, clipping and step: mmcv's optimizer hooks in one, in any precision.

    Args:
        scaler: gradient scaler, possibly disabled.
        fixed_scale: what the scale is set back to after each step; None where it is dynamic.
        grad_clip: arguments of `clip_grad_norm_`, or None.
        accumulate: iterations per step.
        check: called between the backward pass and the step; raises where the loss is not finite.
    """

    def __init__(
        self,
        scaler: Any,
        fixed_scale: float | None,
        grad_clip: dict[str, Any] | None,
        accumulate: int,
        check: Callable[[], None],
    ) -> None:
        self.scaler, self.fixed_scale, self.grad_clip = scaler, fixed_scale, grad_clip
        self.accumulate, self.check = accumulate, check

    def after_train_iter(self, runner: HookRunner) -> None:
        """Update the weights, or add to the gradients."""
        if runner.iter % self.accumulate == 0:
            runner.optimizer.zero_grad()
        # Iterations that are left over at the end make one smaller step, as in mmcv.
        remainder = runner.max_iters % self.accumulate
        share = self.accumulate if runner.iter < runner.max_iters - remainder else remainder
        loss = runner.outputs["loss"]
        self.scaler.scale(loss / share if share > 1 else loss).backward()
        self.check()
        if (runner.iter + 1) % self.accumulate and not self.is_last_iter(runner):
            return
        if self.grad_clip is not None:
            self.scaler.unscale_(runner.optimizer)
            with_gradient = [p for p in runner.model.parameters() if p.requires_grad and p.grad is not None]
            norm = clip_grad_norm_(with_gradient, **self.grad_clip)
            runner.log_buffer.update({"grad_norm": float(norm)}, runner.outputs["num_samples"])
        self.scaler.step(runner.optimizer)
        self.scaler.update(self.fixed_scale)


def update_from_config(
    config: mmcv.Config, scaler: Any, fixed_scale: float | None, check: Callable[[], None]
) -> Update:
    """The update that a config's `optimizer_config` describes.

    Raises:
        ConfigError: it names a hook that is not one of mmcv's.
    """
    options = dict(config.get("optimizer_config") or {})
    kind = options.get("type", "OptimizerHook")
    if kind not in _STOCK_UPDATES:
        raise ConfigError(
            "optimizer_config.type", f"expected one of {', '.join(sorted(_STOCK_UPDATES))}, found {kind!r}"
        )
    accumulate = int(options.get("cumulative_iters", 1))
    if accumulate < 1:
        raise ConfigError("optimizer_config.cumulative_iters", f"expected at least 1, found {accumulate}")
    clip = options.get("grad_clip")
    return Update(scaler, fixed_scale, None if clip is None else dict(clip), accumulate, check)
