"""The stand-in for mmcv's runner that hooks see.

mmcv's hooks (learning rate, momentum, a config's own) read and steer a runner. This one has every attribute they use,
but leaves the loop to :mod:`landseg.training.trainer`, which can stop and resume at any iteration; mmcv's cannot.
"""

from __future__ import annotations

import copy
import logging
from typing import Any, NoReturn

import mmcv
import torch
from mmcv.runner import BaseRunner, Hook
from mmcv.runner.hooks import LrUpdaterHook
from mmcv.runner.hooks.momentum_updater import MomentumUpdaterHook

from landseg.contracts.errors import ConfigError, LandsegError

_OWN_LOGGERS = {"TextLoggerHook", "TensorboardLoggerHook"}


class HookRunner(BaseRunner):  # type: ignore[misc]
    """What hooks see in place of mmcv's runner.

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
        self._update: Hook | None = None

    def go_to(self, iteration: int) -> None:
        """Set the counters to what mmcv's are during iteration `iteration` (from 0)."""
        self._iter = iteration
        self._epoch, self._inner_iter = divmod(iteration, len(self.data_loader))

    def resume_epoch(self) -> None:
        """Tell the schedules that an epoch has begun; the other hooks were told before the restart."""
        for hook in self.hooks:
            if isinstance(hook, LrUpdaterHook | MomentumUpdaterHook):
                hook.before_train_epoch(self)

    def register(self, config: mmcv.Config, update: Hook) -> None:
        """Register a config's hooks in mmcv's order of priorities; `update` takes the place of mmcv's optimizer hook.

        Raises:
            ConfigError: mmcv cannot build a hook.
        """
        self._update = update
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
            hint = "leave the hook out, or install what it needs" if isinstance(err, ImportError) else ""
            if isinstance(err, KeyError):
                hint = "leave the hook out; for one of your own, custom_imports lists its module"
            raise ConfigError("config", f"mmcv cannot build its hooks: {type(err).__name__}: {err}", hint) from err

    def check_schedules(self) -> None:
        """Compute the learning rate and momentum of the last iteration: some schedules end before it.

        Raises:
            ConfigError: there is none.
        """
        self.go_to(self._max_iters - 1)
        for hook in self.hooks:
            try:
                if isinstance(hook, LrUpdaterHook):
                    hook.get_regular_lr(self)
                elif isinstance(hook, MomentumUpdaterHook):
                    hook.get_regular_momentum(self)
            except Exception as err:  # of a schedule's own kinds
                line = str(err).partition("\n")[0][:300]
                raise ConfigError(
                    f"hook {type(hook).__name__}",
                    f"expected a schedule for {self._max_iters} iterations, found one that fails in the last of them: "
                    f"{type(err).__name__}: {line}",
                    "make it as long as the training",
                ) from err
        self.go_to(0)

    def call_hook(self, fn_name: str) -> None:
        """Call every hook, as mmcv does; what one raises becomes an error of the config that lists it.

        Raises:
            ConfigError: a hook failed. The update's own errors are left as they are: they are the model's.
        """
        for hook in self.hooks:
            try:
                getattr(hook, fn_name)(self)
            except LandsegError:
                raise
            except Exception as err:  # hooks are code of many kinds
                if hook is self._update:
                    raise
                line = str(err).partition("\n")[0][:300]
                raise ConfigError(
                    f"hook {type(hook).__name__}", f"failed in {fn_name}: {type(err).__name__}: {line}"
                ) from err

    def _register_loggers(self, log_config: Any) -> None:
        for hook in (log_config or {}).get("hooks", []):
            if hook["type"] not in _OWN_LOGGERS:
                options = {"interval": log_config.get("interval") or 10, "by_epoch": self.by_epoch, **hook}
                self.register_hook(mmcv.build_from_cfg(options, mmcv.runner.HOOKS), priority="VERY_LOW")

    def run(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the loop is not the runner's."""
        raise ConfigError("custom_hooks", "a hook tried to drive the training loop, which landseg does itself")

    train = val = save_checkpoint = run
