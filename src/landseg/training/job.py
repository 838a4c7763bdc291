"""What a training run is: everything its processes need to know, as one picklable value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmcv

from landseg.contracts.choices import Precision
from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError
from landseg.training.continuing import Earlier
from landseg.training.selection import Selection


@dataclass(frozen=True)
class TrainingJob:
    """A training run.

    Attributes:
        name: the model's name in the run.
        dataset: URI of the dataset manifest.
        cache: local folder for shards, shared by the processes.
        cache_bytes: what the shards in it take at most.
        decoded_bytes: what decoded tiles that are kept in `scratch` take at most; None: as memory and disk allow.
        config: the resolved mmseg config as text.
        folder: URI of the stage's folder.
        scratch: local folder for temporary files.
        result: name of the file in `scratch` for what the manifest and the report need.
        splits: what is trained on.
        eval_split: what is scored, or None.
        pretrained: local file of weights to start from, or None.
        seed: of everything random.
        precision: of the network's forward pass.
        compile: whether to compile the backbone with torch.compile, where that works.
        num_workers: loader processes per training process.
        keep: number of checkpoints to keep.
        checkpoint_interval: iterations between checkpoints, in addition to those at the end of epochs; 0 for none.
        checkpoint_minutes: minutes between checkpoints, in addition to those at the end of epochs; 0 for none.
        deterministic: whether to ask GPUs for deterministic kernels.
        sampling: uniform or rare-classes: how training tiles are drawn.
        mixed_shards: how many shards training tiles are drawn from at a time; 0: from all.
        selection: which weights become the model, and when training ends early.
        earlier: a training that has ended, from whose last checkpoint this one continues; None: from the beginning.
        timeout_s: seconds after which the pipeline ends the step; None: never.
    """

    name: str
    dataset: str
    cache: Path
    cache_bytes: int
    config: str
    folder: str
    scratch: Path
    result: str
    splits: tuple[Split, ...]
    eval_split: Split | None
    pretrained: Path | None
    seed: int
    precision: Precision
    compile: bool
    num_workers: int
    keep: int
    checkpoint_interval: int
    checkpoint_minutes: float
    deterministic: bool
    decoded_bytes: int | None = None
    sampling: str = "uniform"
    mixed_shards: int = 0
    selection: Selection = field(default_factory=Selection)
    earlier: Earlier | None = None
    timeout_s: int | None = None


def set_parameters(config: mmcv.Config, *, epochs: int = 0, batch_per_gpu: int = 0, lr: float = 0.0) -> None:
    """Write the stage's parameters into the config; 0 keeps the config's own value."""
    if epochs:
        if config.get("lr_config") and not _runs_by_epoch(config):
            config.lr_config.setdefault("by_epoch", False)  # its meaning while the config counted iterations
        config.runner = {"type": "EpochBasedRunner", "max_epochs": epochs}
        for name in ("total_iters", "total_epochs"):
            config.pop(name, None)
        config.evaluation = {**(config.get("evaluation") or {}), "interval": 1}
        config.checkpoint_config = {**(config.get("checkpoint_config") or {}), "by_epoch": True, "interval": 1}
    if batch_per_gpu:
        data = config.setdefault("data", {})
        data["samples_per_gpu"] = batch_per_gpu
        (data.get("train_dataloader") or {}).pop("samples_per_gpu", None)
    if lr:
        config.setdefault("optimizer", {})["lr"] = lr


def tiles_per_batch(config: mmcv.Config) -> int:
    """Tiles per process and iteration: the config's `data.samples_per_gpu`, or `train_dataloader`'s own; else 8."""
    data = config.get("data") or {}
    found = {**data, **(data.get("train_dataloader") or {})}.get("samples_per_gpu", 8)
    if not isinstance(found, int) or found < 1:
        raise ConfigError("data.samples_per_gpu", f"expected at least 1, found {found!r}", "--batch-per-gpu N")
    return found


def _runs_by_epoch(config: mmcv.Config) -> bool:
    return "max_epochs" in (config.get("runner") or _runner_of_earlier_mmseg(config))


def _runner_of_earlier_mmseg(config: mmcv.Config) -> dict[str, Any]:
    """What configs without a `runner` say: `total_epochs` or `total_iters`."""
    if "total_epochs" in config:
        return {"max_epochs": config.total_epochs}
    return {"max_iters": config.get("total_iters")}


def checkpoints_to_keep(config: mmcv.Config) -> int:
    """The config's `checkpoint_config.max_keep_ckpts` where it is a limit, else 2: should the newest be damaged."""
    asked = (config.get("checkpoint_config") or {}).get("max_keep_ckpts")
    return int(asked) if asked is not None and asked > 0 else 2


@dataclass(frozen=True)
class Length:
    """How long to train, and when to evaluate and publish, in iterations.

    Attributes:
        by_epoch: whether the config's runner counts epochs.
        max_iters: iterations in all.
        eval_start: iterations before the first evaluation.
        eval_interval: iterations between evaluations.
        checkpoint_interval: iterations between checkpoints.
    """

    by_epoch: bool
    max_iters: int
    eval_start: int
    eval_interval: int
    checkpoint_interval: int

    @classmethod
    def of(cls, config: mmcv.Config, iters_per_epoch: int) -> Length:
        """The length that the config's `runner`, `evaluation` and `checkpoint_config` describe.

        Raises:
            ConfigError: the config does not say how long to train.
        """
        runner = config.get("runner") or _runner_of_earlier_mmseg(config)
        by_epoch = "max_epochs" in runner
        count = runner.get("max_epochs") if by_epoch else runner.get("max_iters")
        if not isinstance(count, int) or count < 1:
            raise ConfigError("runner", f"expected max_epochs or max_iters, at least 1, found {dict(runner)}")
        unit = iters_per_epoch if by_epoch else 1
        evaluation, checkpoint = config.get("evaluation") or {}, config.get("checkpoint_config") or {}
        total = count * unit
        # As in mmcv's CheckpointHook, which may count epochs where the runner counts iterations, and vice versa.
        checkpoint_unit = iters_per_epoch if checkpoint.get("by_epoch", by_epoch) else 1
        return cls(
            by_epoch,
            total,
            eval_start=(evaluation.get("start") or 0) * unit,
            eval_interval=cls._interval(evaluation, unit, unit if by_epoch else total, total),
            checkpoint_interval=cls._interval(
                checkpoint, checkpoint_unit, iters_per_epoch if by_epoch else total, total
            ),
        )

    @staticmethod
    def _interval(options: Any, unit: int, default: int, never: int) -> int:
        """An interval in iterations; -1 means never, as in mmcv."""
        interval = options.get("interval")
        if interval is None:
            return default
        return int(interval) * unit if interval > 0 else never

    def evaluates_after(self, done: int) -> bool:
        """Whether the model is scored after `done` iterations: every interval from `eval_start` on, and at the end."""
        if done == self.max_iters:
            return True
        return done >= self.eval_start and done > 0 and (done - self.eval_start) % self.eval_interval == 0
