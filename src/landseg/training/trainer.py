"""The training loop: mmcv's hooks and semantics, and a state that can be saved and taken up at any iteration."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import logging
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from mmcv.utils import get_logger
from mmseg.core import build_optimizer
from mmseg.models.segmentors import BaseSegmentor
from mmseg.utils import get_root_logger
from torch.nn.parallel import DistributedDataParallel

from landseg import storage
from landseg.contracts.documents import Blob
from landseg.contracts.errors import ConfigError, LandsegError
from landseg.dataset.reader import StagedDataset
from landseg.models import precision
from landseg.models.build import build_model
from landseg.models.configs import import_modules, parse_config
from landseg.models.pretrained import load_pretrained
from landseg.prediction.predictor import Predictor
from landseg.training import resume as state
from landseg.training.acceleration import Speed, can_compile
from landseg.training.batches import Batch, Schedule, TileBatches, training_batches
from landseg.training.checkpoints import CheckpointStore, write_local
from landseg.training.distributed import TERMINATED_STATUS, Team
from landseg.training.evaluation import evaluate
from landseg.training.hooks import HookRunner, update_from_config
from landseg.training.job import Length, TrainJob, find_pipeline, tiles_per_batch
from landseg.training.log import Monitor, memory_bytes

_log = logging.getLogger(__name__)

MODEL = "model.pth"


def train(job: TrainJob, team: Team) -> None:
    """Train in one of the team's processes, from the newest checkpoint where there is one.

    The leader publishes checkpoints and the final weights, and leaves what the manifest and the report need in
    `scratch`, in the job's `result` file.

    Raises:
        LandsegError: the configuration, the data or the storage is at fault, or the loss is not finite.
        SystemExit: asked to stop by SIGTERM or SIGINT; a checkpoint of the last finished iteration is published.
    """
    with _stop_requests() as stops:
        trainer = Trainer(job, team, stops)
        try:
            try:
                trainer.run()
            finally:
                trainer.close()
        except torch.OutOfMemoryError as err:
            text = str(err).splitlines()[0]
            raise ConfigError("--batch-per-gpu", f"out of GPU memory: {text}", "use a smaller batch") from err


class Trainer:
    """One process of a training run.

    Args:
        job: what to do.
        team: with whom.
        stops: signals that asked this process to stop; looked at after every iteration.
    """

    def __init__(self, job: TrainJob, team: Team, stops: list[int]) -> None:
        self.job, self.team, self.stops = job, team, stops
        self.config = config = parse_config(job.config, "config")
        import_modules(config)
        self.staged = StagedDataset.open(job.dataset, job.cache)
        manifest = self.staged.manifest
        self.dataset = TileBatches(self.staged, job.splits, find_pipeline(config, manifest, job.splits), job.seed)
        self.eval_tiles = [] if job.eval_split is None else self.staged.tiles(job.eval_split)
        batch_size = tiles_per_batch(config)
        self.dataset.check_sizes(batch_size)
        self.schedule = Schedule(len(self.dataset), batch_size, team.size, team.rank, job.seed)
        self.length = Length.of(config, self.schedule.iters_per_epoch)
        state.seed_everything(job.seed, job.deterministic, bool(config.get("cudnn_benchmark", False)))
        self.model = build_model(config, manifest.class_schema).to(team.device)
        with _quiet():
            self.model.init_weights()  # type: ignore[operator]
        if job.pretrained is not None and team.leads:  # the other processes take the leader's weights
            _log.info("%s: %s", job.pretrained.name, load_pretrained(self.model, job.pretrained))
        state.seed_everything(job.seed + team.rank, job.deterministic, bool(config.get("cudnn_benchmark", False)))
        if type(self.model).train_step is not BaseSegmentor.train_step:  # type: ignore[attr-defined]
            raise ConfigError("model.type", f"{type(self.model).__name__} has a training step of its own, not mmseg's")
        if job.precision != "fp32":
            precision.losses_in_fp32(self.model)
        if job.eval_split is not None:
            self._predictor()  # refuses what it cannot do now, not after an epoch
        compiled = job.compile and can_compile(team.device)
        self.speed = Speed.of(job.precision, team.device, config.get("optimizer"), compiled=compiled)
        self.model.to(memory_format=self.speed.memory_format)
        if compiled:
            self.model.backbone.compile()  # type: ignore[union-attr]
        self.forward = self._wrapped()
        self.scaler, fixed_scale = precision.build_scaler(job.precision, config, team.device)
        self.runner = HookRunner(
            self.model,
            self._optimizer(),
            by_epoch=self.length.by_epoch,
            max_iters=self.length.max_iters,
            iters_per_epoch=self.schedule.iters_per_epoch,
            work_dir=str(job.scratch / f"hooks-{team.rank}"),
            meta={"seed": job.seed, "exp_name": job.name},
        )
        self.runner.register(config, update_from_config(config, self.scaler, fixed_scale, self._reduce))
        self.store = CheckpointStore(storage.join(job.folder, "checkpoints"), job.scratch, job.keep, _log.warning)
        log_interval = max(1, int((config.get("log_config") or {}).get("interval", 50)))
        self.monitor = Monitor(
            f"training {job.name}",
            max_iters=self.length.max_iters,
            iters_per_epoch=self.schedule.iters_per_epoch,
            batch_size=batch_size * team.size,
            interval=max(1, min(log_interval, self.length.max_iters // 100)),  # short runs have curves too
            line_interval=log_interval,
            folder=job.scratch / "tensorboard",
            device=team.device,
        )
        self._batches = training_batches(self.dataset, self.schedule, 0, 0, num_workers=0, pin_memory=False)
        self._values: dict[str, torch.Tensor] = {}
        self._stopping = False
        self._seconds_before = 0.0
        self._published = -1

    def run(self) -> None:
        """Train to the end, evaluate, and publish the model."""
        self._start = time.monotonic()
        self.runner.call_hook("before_run")
        done = self._resume()
        if self.team.leads:
            self.monitor.start(done)
        self._evaluate_if_due(done)
        self._batches = training_batches(
            self.dataset,
            self.schedule,
            done,
            self.length.max_iters,
            num_workers=self.job.num_workers,
            pin_memory=self.team.device.type == "cuda",
        )
        per_epoch = self.schedule.iters_per_epoch
        self.runner.go_to(done)
        if not self.length.by_epoch:
            self.runner.call_hook("before_epoch")
        elif done % per_epoch:
            self.runner.resume_epoch()
        self.model.train()
        for iteration in range(done, self.length.max_iters):
            self.runner.go_to(iteration)
            if self.length.by_epoch and iteration % per_epoch == 0:
                self.runner.call_hook("before_train_epoch")
            self._iterate(next(self._batches))
            if self.length.by_epoch and (iteration + 1) % per_epoch == 0:
                self.runner.call_hook("after_train_epoch")
            self._between(iteration + 1)
        if not self.length.by_epoch:
            self.runner.call_hook("after_epoch")
        self.runner.call_hook("after_run")
        self._finish()

    def close(self) -> None:
        """End the workers, stop showing progress, and let what is being published arrive."""
        self._batches.close()
        self.monitor.close()
        with contextlib.suppress(Exception):  # an error under way matters more
            self.store.flush()

    def _optimizer(self) -> torch.optim.Optimizer:
        try:
            optimizer: torch.optim.Optimizer = build_optimizer(
                self.model, self.speed.optimizer(self.config.get("optimizer"))
            )
        except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as err:
            raise ConfigError("optimizer", f"mmcv cannot build it: {type(err).__name__}: {err}") from err
        return optimizer

    def _wrapped(self) -> torch.nn.Module:
        if self.team.size == 1:
            return self.model
        on_gpu = self.team.device.type == "cuda"
        options: dict[str, Any] = {
            "device_ids": [self.team.device.index] if on_gpu else None,
            "find_unused_parameters": bool(self.config.get("find_unused_parameters", False)),
        }
        # As mmseg, BatchNorm's statistics are shared before evaluation only. Newer torch has another name for it.
        known = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return DistributedDataParallel(self.model, **options | {sync: False})

    def _iterate(self, batch: Batch) -> None:
        self.monitor.got_batch()
        device, runner = self.team.device, self.runner
        images = batch["img"].to(device, non_blocking=True)
        batch["img"] = images.to(memory_format=self.speed.memory_format)
        batch["gt_semantic_seg"] = batch["gt_semantic_seg"].to(device, non_blocking=True).long()
        runner.data_batch = batch
        runner.call_hook("before_train_iter")
        with precision.autocast(self.job.precision, device):
            losses = self.forward(**batch)
        self._values = {
            name: value.mean() if isinstance(value, torch.Tensor) else sum(item.mean() for item in value)
            for name, value in losses.items()
        }
        loss = sum(value for name, value in self._values.items() if "loss" in name)
        self._values["loss"] = loss  # type: ignore[assignment]
        runner.outputs = {"loss": loss, "num_samples": len(batch["img_metas"])}
        runner.call_hook("after_train_iter")  # the update is one of the hooks
        logged = runner.outputs["log_vars"]
        self.monitor.iteration(runner.iter + 1, logged, runner.current_lr()[0])

    def _reduce(self) -> None:
        """Between backward pass and step: mean losses of all processes, and whether one is not finite or must stop."""
        names = list(self._values)
        loss = self._values["loss"].detach()
        flags = torch.stack([(~torch.isfinite(loss)).float(), torch.full_like(loss, float(bool(self.stops))).float()])
        packed = torch.cat([torch.stack([self._values[name].detach().float() for name in names]), flags])
        *values, broken, stopping = self.team.sum(packed).tolist()
        if broken:
            self._refuse_update(not bool(torch.isfinite(loss)))
        self._stopping = stopping > 0
        logged = dict(zip(names, (value / self.team.size for value in values), strict=True))
        self.runner.outputs["log_vars"] = logged
        self.runner.log_buffer.update(logged, self.runner.outputs["num_samples"])

    def _refuse_update(self, here: bool) -> None:
        tiles = [meta["filename"] for meta in self.runner.data_batch["img_metas"]] if here else []
        named = [name for names in self.team.gather(tiles) for name in names]
        raise LandsegError(
            f"training {self.job.name}",
            f"the loss of iteration {self.runner.iter + 1} is not finite, before any update by it; "
            f"tiles: {', '.join(named)}",
            "look at these tiles, lower --lr, or train with --precision fp32",
        )

    def _between(self, done: int) -> None:
        """After an iteration: publish, evaluate and stop where it is time to."""
        last = done == self.length.max_iters
        every = self.job.checkpoint_interval
        due = done % self.length.checkpoint_interval == 0 or bool(every and done % every == 0)
        if due or last or self._stopping:
            self._publish(done)
        if self._stopping:
            self._stop()
        self._evaluate_if_due(done)

    def _evaluate_if_due(self, done: int) -> None:
        split = self.job.eval_split
        if split is None or not self.length.evaluates_after(done):
            return
        if any(evaluation["iteration"] == done for evaluation in self.monitor.evaluations):
            return
        self.team.share_buffers(self.model)
        found = evaluate(self._predictor(), self.staged, split, self.eval_tiles, self.team, lambda: bool(self.stops))
        self.model.train()
        if found is None:
            self._publish(done)
            self._stop()
        else:
            self.monitor.evaluated(done, found)
            if self.team.leads:
                miou = found.get("mIoU", float("nan"))
                _log.info("after %d iterations: mIoU %.4f on %s", done, miou, self.job.eval_split)

    def _predictor(self) -> Predictor:
        """The model in evaluation mode, with the config's test pipeline.

        Raises:
            ConfigError: landseg cannot predict with the config.
        """
        mean, std, device = self.dataset.pipeline.mean, self.dataset.pipeline.std, self.team.device
        return Predictor(self.model, self.config, mean, std, tta="none", precision=self.job.precision, device=device)

    def _publish(self, done: int) -> None:
        """Publish a checkpoint of `done` finished iterations, once.

        Raises:
            LandsegError: the weights are not finite (gradients may be broken where the loss is not): who goes on from
                such a checkpoint fails for ever.
        """
        if done == self._published:
            return
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            raise LandsegError(
                f"training {self.job.name}",
                f"the weights are not finite after iteration {done}; they are not published",
                "clip gradients (optimizer_config.grad_clip), lower --lr, or train with --precision fp32",
            )
        self._published = done
        random_states = self.team.gather(state.random_state(self.team.device))
        if not self.team.leads:
            return
        content = state.checkpoint(self.model, self.config.pretty_text, self.job, done, self.schedule.iters_per_epoch)
        content["optimizer"] = state.to_cpu(self.runner.optimizer.state_dict())
        content["resume"] = {
            "iteration": done,
            "random_states": random_states,
            "scaler": self.scaler.state_dict(),
            "monitor": state.to_cpu(self.monitor.state_dict()),
            "gradients": state.pending_gradients(self.model, self._accumulating(done)),
            "seconds": self._seconds(),
        }
        self.store.publish(content, done, done // self.schedule.iters_per_epoch)
        self.store.submit(self._upload_curves)

    def _accumulating(self, done: int) -> bool:
        every = int((self.config.get("optimizer_config") or {}).get("cumulative_iters", 1))
        return bool(done % every) and done < self.length.max_iters

    def _resume(self) -> int:
        """Take up the newest checkpoint.

        Returns:
            The number of finished iterations.
        """
        content = self.team.from_leader(self.store.newest() if self.team.leads else None)
        if content is None:
            return 0
        resume = content["resume"]
        self.model.load_state_dict(content["state_dict"])
        self.runner.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(resume["scaler"])
        self.monitor.load_state_dict(resume["monitor"])
        state.restore_gradients(self.model, resume["gradients"])
        state.restore_random_state(resume["random_states"][self.team.rank], self.team.device)
        self._seconds_before = resume["seconds"]
        self._published = int(resume["iteration"])
        if self.team.leads:
            _log.info("resuming after %d of %d iterations", self._published, self.length.max_iters)
        return self._published

    def _stop(self) -> None:
        if self.team.leads:
            self.store.flush()
            _log.warning("asked to stop; a checkpoint is published, the same command goes on from it")
        self.team.gather(None)  # the end of one process ends all, and the leader may still be publishing
        raise SystemExit(128 + self.stops[0] if self.stops else TERMINATED_STATUS)

    def _finish(self) -> None:
        if not self.team.leads:
            self.team.gather(None)
            return
        local = self.job.scratch / MODEL
        write_local(
            state.checkpoint(
                self.model, self.config.pretty_text, self.job, self.length.max_iters, self.schedule.iters_per_epoch
            ),
            local,
        )
        file = Blob(path=MODEL, size_bytes=local.stat().st_size, sha256=storage.file_sha256(local))
        storage.put_file(storage.join(self.job.folder, MODEL), local)
        local.unlink()
        self.monitor.close()
        self.store.submit(self._upload_curves)
        self.store.flush()
        result = {
            "checkpoint": file.model_dump(),
            "curve": self.monitor.curve,
            "evaluations": self.monitor.evaluations,
            "images_per_s": self.monitor.images_per_s,
            "seconds": self._seconds(),
            "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "peak_memory_bytes": memory_bytes(self.team.device),
            "environment": state.environment(self.team.device, self.team.size),
            "speed": dataclasses.asdict(self.speed),
            "mean": self.dataset.pipeline.mean,
            "std": self.dataset.pipeline.std,
        }
        (self.job.scratch / self.job.result).write_text(json.dumps(result))
        self.team.gather(None)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._start

    def _upload_curves(self) -> None:
        folder = self.job.scratch / "tensorboard"
        for path in sorted(folder.iterdir()):
            storage.put_file(storage.join(self.job.folder, "tensorboard", path.name), path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that mmcv and mmseg print of the initialisation; where weights come from is said elsewhere."""
    loggers = [get_logger("mmcv"), get_root_logger()]  # as they make them: they would set the level when first asked
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them; the second SIGINT does what it always does."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
