"""What one process trains with: the data, the model, its optimizer and the hooks' runner, built from a job."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mmcv
import torch
from mmcv.utils import get_logger
from mmseg.core import build_optimizer
from mmseg.models.segmentors import BaseSegmentor
from mmseg.utils import get_root_logger
from torch.nn.parallel import DistributedDataParallel

from landseg.contracts.errors import ConfigError
from landseg.contracts.model import ModelInput
from landseg.dataset.reader import Access, StagedDataset
from landseg.models import precision
from landseg.models.build import build_model
from landseg.models.config_text import parse_config
from landseg.models.configs import import_modules
from landseg.models.failures import first_line
from landseg.models.model_input import input_of
from landseg.models.weights.pretrained_loading import load_pretrained
from landseg.prediction.predictor import Predictor
from landseg.training.acceleration import Acceleration, can_compile
from landseg.training.checkpoint.random_state import seed_everything
from landseg.training.deterministic import make_repeatable
from landseg.training.distributed.team import Team
from landseg.training.hooks import HookRunner
from landseg.training.input.batches import BatchOrder, TileBatches
from landseg.training.input.config_pipeline import find_pipeline
from landseg.training.input.sampling import tile_probabilities
from landseg.training.input.shard_order import ShardOrder
from landseg.training.job import Length, TrainingJob, tiles_per_batch

_log = logging.getLogger(__name__)


@dataclass
class Session:
    """A training run in one of the team's processes.

    Attributes:
        job: what to do.
        team: the processes that train together.
        config: the resolved mmseg config.
        dataset: the staged dataset.
        tiles: reads and transforms the tiles of a batch.
        order: which tiles make which batch.
        length: how long to train, and when to evaluate and publish.
        model: the segmentor.
        forward: the same, wrapped so that the team's processes share gradients.
        acceleration: what is done for speed.
        scaler: gradient scaler, possibly disabled.
        fixed_scale: what the scale is set back to after each step; None where it is dynamic.
        runner: what mmcv's hooks see; no hook is registered yet.
    """

    job: TrainingJob
    team: Team
    config: mmcv.Config
    dataset: StagedDataset
    tiles: TileBatches
    order: BatchOrder
    length: Length
    model: torch.nn.Module
    forward: torch.nn.Module
    acceleration: Acceleration
    scaler: Any
    fixed_scale: float | None
    runner: HookRunner

    @classmethod
    def build(cls, job: TrainingJob, team: Team) -> Session:
        """Open the dataset, build the model and everything around it.

        Raises:
            LandsegError: the configuration, the data or the pretrained weights are at fault.
        """
        config = parse_config(job.config, "config")
        import_modules(config)
        access: Access = "neighbours" if job.mixed_shards else "random"
        dataset = StagedDataset.open(job.dataset, job.cache, access=access, cache_bytes=job.cache_bytes)
        tiles = TileBatches(dataset, job.splits, find_pipeline(config, dataset, job.splits), job.seed)
        batch_size = tiles_per_batch(config)
        tiles.check_sizes(batch_size)
        rare = job.sampling == "rare-classes"
        probabilities = tile_probabilities(tiles.rows(), dataset.schema) if rare else None
        shards = ShardOrder(tiles.shard_numbers, job.mixed_shards) if job.mixed_shards else None
        order = BatchOrder(len(tiles), batch_size, team.size, team.rank, job.seed, probabilities, shards)
        length = Length.of(config, order.iters_per_epoch)
        model = _initialised_model(config, dataset, job, team)
        if job.precision != "fp32":
            precision.losses_in_fp32(model)
        if job.eval_split is not None:
            # Refuses now, not after an epoch, a config that landseg cannot predict with.
            _predictor(model, config, tiles, job, team)
        compiled = job.compile and can_compile(team.device)
        acceleration = Acceleration.of(job.precision, team.device, config.get("optimizer"), compiled=compiled)
        model.to(memory_format=acceleration.memory_format)
        if compiled:
            model.backbone.compile()  # type: ignore[union-attr]
        forward = _wrapped(model, config, team)
        scaler, fixed_scale = precision.build_scaler(job.precision, config, team.device)
        runner = HookRunner(
            model,
            _optimizer(model, config, acceleration),
            by_epoch=length.by_epoch,
            max_iters=length.max_iters,
            iters_per_epoch=order.iters_per_epoch,
            work_dir=str(job.scratch / f"hooks-{team.rank}"),
            meta={"seed": job.seed, "exp_name": job.name},
        )
        return cls(
            job,
            team,
            config,
            dataset,
            tiles,
            order,
            length,
            model,
            forward,
            acceleration,
            scaler,
            fixed_scale,
            runner,
        )

    @property
    def model_input(self) -> ModelInput:
        """The images that the model is trained on."""
        return input_of(self.dataset.manifest, self.tiles.tile_size)

    def predictor(self) -> Predictor:
        """The model in evaluation mode, with the config's test pipeline.

        Raises:
            ConfigError: landseg cannot predict with the config.
        """
        return _predictor(self.model, self.config, self.tiles, self.job, self.team)


def _initialised_model(config: mmcv.Config, dataset: StagedDataset, job: TrainingJob, team: Team) -> torch.nn.Module:
    """The model with its initial weights, on the team's device; every generator is seeded for training afterwards."""
    cudnn_benchmark = bool(config.get("cudnn_benchmark", False))
    seed_everything(job.seed, job.deterministic, cudnn_benchmark)
    model = build_model(config, dataset.manifest.class_schema).to(team.device)
    try:
        with _quiet():
            model.init_weights()  # type: ignore[operator]
    except Exception as err:  # of initialisers of many kinds, which a config gives any arguments
        problem = f"mmseg cannot initialise the model: {type(err).__name__}: {first_line(err)}"
        raise ConfigError("init_cfg", problem, "leave init_cfg out of the model's parts, or correct it") from err
    if job.deterministic and team.device.type == "cuda":
        make_repeatable(model)
    if job.pretrained is not None and team.leads:  # the other processes take the leader's weights
        _log.info("%s: %s", job.pretrained.name, load_pretrained(model, job.pretrained))
    seed_everything(job.seed + team.rank, job.deterministic, cudnn_benchmark)
    if type(model).train_step is not BaseSegmentor.train_step:  # type: ignore[attr-defined]
        raise ConfigError("model.type", f"{type(model).__name__} has a training step of its own, not mmseg's")
    return model


def _predictor(
    model: torch.nn.Module, config: mmcv.Config, tiles: TileBatches, job: TrainingJob, team: Team
) -> Predictor:
    mean, std = tiles.pipeline.mean, tiles.pipeline.std
    return Predictor(model, config, mean, std, tta="none", precision=job.precision, device=team.device)


def _optimizer(model: torch.nn.Module, config: mmcv.Config, acceleration: Acceleration) -> torch.optim.Optimizer:
    if not isinstance((config.get("optimizer") or {}).get("type"), str):
        raise ConfigError(
            "optimizer",
            f"expected a dictionary with a `type`, found {config.get('optimizer')}",
            "--cfg-options optimizer.type=SGD optimizer.lr=0.01",
        )
    try:
        with _quiet():  # some constructors list every weight
            built = build_optimizer(model, acceleration.optimizer(config.get("optimizer")))
    except Exception as err:  # constructors of many kinds, which a config gives any arguments
        # Of another type than the config's, it inherits options that it may not have: SGD's momentum, for example.
        hint = "--cfg-options optimizer._delete_=True with all its options starts anew" if "keyword" in str(err) else ""
        raise ConfigError("optimizer", f"mmcv cannot build it: {type(err).__name__}: {err}", hint) from err
    optimizer: torch.optim.Optimizer = built
    optimizer.param_groups[:] = merged_groups(optimizer.param_groups)
    return optimizer


def merged_groups(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parameter groups of an optimizer, those with equal options made one.

    mmcv makes a group of each parameter where some have options of their own. A step goes through groups one by one:
    with the 376 of Swin-Base the fused step took 9.8 ms on an H100, with two 2.0 ms. The arithmetic is the same.
    """
    merged: list[dict[str, Any]] = []
    for group in groups:
        options = {name: value for name, value in group.items() if name != "params"}
        same = (one for one in merged if {name: value for name, value in one.items() if name != "params"} == options)
        into = next(same, None)
        if into is None:
            merged.append({**group, "params": list(group["params"])})
        else:
            into["params"] += group["params"]
    return merged


def _wrapped(model: torch.nn.Module, config: mmcv.Config, team: Team) -> torch.nn.Module:
    if team.size == 1:
        return model
    # Some versions of torch leave buffers alone where the option below is off; only the leader reads pretrained ones.
    team.share_buffers(model)
    on_gpu = team.device.type == "cuda"
    options: dict[str, Any] = {
        "device_ids": [team.device.index] if on_gpu else None,
        "find_unused_parameters": bool(config.get("find_unused_parameters", False)),
    }
    # As in mmseg, BatchNorm's statistics are shared before evaluation only. The option that turns off sharing them in
    # each forward pass is called `broadcast_buffers`, in newer versions of torch `forward_sync_buffers`.
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(model, **options | {sync: False})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what mmcv and mmseg print during initialisation; the source of the weights is logged elsewhere."""
    loggers = [get_logger("mmcv"), get_root_logger()]  # made by their own functions, which set the level on first use
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
