"""The training loop: mmcv's hooks and semantics, with a state that can be saved and restored at any iteration."""

from __future__ import annotations

import contextlib
import logging

import torch

from landseg.contracts.errors import LandsegError
from landseg.models.failures import is_out_of_memory, out_of_memory
from landseg.training.checkpoint.publishing import Publisher
from landseg.training.distributed.stop_requests import StopRequests, stop_requests
from landseg.training.distributed.team import Team
from landseg.training.evaluation import evaluate
from landseg.training.input.batches import Batch
from landseg.training.input.loader import training_batches
from landseg.training.job import TrainingJob, tiles_per_batch
from landseg.training.log import TrainingLog
from landseg.training.losses import compute_losses
from landseg.training.rehearsal.predicting import rehearse_predicting
from landseg.training.rehearsal.steps import rehearse_steps
from landseg.training.session import Session
from landseg.training.update import update_from_config

_log = logging.getLogger(__name__)

_MOST_SKIPPED = 50
"""Steps skipped in a row that end a training: with a scale that fits, hardly two are."""


def train(job: TrainingJob, team: Team) -> None:
    """Train in one of the team's processes, from the newest checkpoint where there is one.

    The leader publishes checkpoints and the final weights, and leaves what the manifest and the report need in
    `scratch`, in the job's `result` file.

    Raises:
        LandsegError: the configuration, the data or the storage is at fault, or the loss is not finite.
        SystemExit: asked to stop by SIGTERM or SIGINT; a checkpoint of the last finished iteration is published.
    """
    with stop_requests() as stops:
        trainer = Trainer(job, team, stops)
        try:
            try:
                trainer.run()
            finally:
                trainer.close()
        except Exception as err:
            if is_out_of_memory(err):
                raise out_of_memory(err, "--batch-per-gpu") from err
            raise


class Trainer:
    """One process of a training run.

    Args:
        job: what to do.
        team: the processes that train together.
        stops: requests to stop this process, looked at after every iteration.
    """

    def __init__(self, job: TrainingJob, team: Team, stops: StopRequests) -> None:
        self.job, self.team, self.stops = job, team, stops
        self.session = session = Session.build(job, team)
        self.runner, self.length = session.runner, session.length
        self.update = update_from_config(session.config, session.scaler, session.fixed_scale, self._share, self._read)
        self.runner.register(session.config, self.update)
        log_interval = (session.config.get("log_config") or {}).get("interval") or 50
        self.log = TrainingLog(
            f"training {job.name}",
            max_iters=self.length.max_iters,
            iters_per_epoch=session.order.iters_per_epoch,
            batch_size=tiles_per_batch(session.config) * team.size,
            interval=max(1, min(log_interval, self.length.max_iters // 100)),  # short runs have curves too
            line_interval=log_interval,
            folder=job.scratch / "tensorboard",
            device=team.device,
            timeout_s=job.timeout_s,
        )
        self.publisher = Publisher(session, self.log)
        self._eval_tiles = None if job.eval_split is None else session.dataset.index(job.eval_split)
        self._batches = training_batches(session.tiles, session.order, 0, 0, num_workers=0, pin_memory=False)
        self._values: dict[str, torch.Tensor] = {}
        self._shared = torch.empty(0)
        self._stopping = self._due_by_time = False
        self._first = job.earlier.iterations if job.earlier else 0

    def run(self) -> None:
        """Train to the end, evaluate, and publish the model."""
        self.publisher.start_clock()
        self.runner.call_hook("before_run")
        self.runner.check_schedules()
        done = self.publisher.resume()
        if done <= self._first:
            if self.team.leads:
                rehearse_predicting(self.session)
            rehearse_steps(self.session)
        if self.team.leads:
            self.log.start(done)
        self._evaluate_if_due(done)
        per_epoch = self.session.order.iters_per_epoch
        if self.length.max_iters - done > per_epoch:  # else no tile is read again
            self.session.tiles.decoding.keep(self.job.scratch, self.job.decoded_bytes, self.team)
        self._batches = training_batches(
            self.session.tiles,
            self.session.order,
            done,
            self.length.max_iters,
            num_workers=self.job.num_workers,
            pin_memory=self.team.device.type == "cuda",
        )
        self.runner.go_to(done)
        if not self.length.by_epoch:
            self.runner.call_hook("before_epoch")
        elif done % per_epoch:
            self.runner.resume_epoch()
        self.session.model.train()
        for iteration in range(done, self.length.max_iters):
            if self._ends_early(done):
                break
            self.runner.go_to(iteration)
            if self.length.by_epoch and iteration % per_epoch == 0:
                self.runner.call_hook("before_train_epoch")
            self._iterate(next(self._batches))
            if self.length.by_epoch and (iteration + 1) % per_epoch == 0:
                self.runner.call_hook("after_train_epoch")
            done = iteration + 1
            self._after_iteration(done)
        if not self.length.by_epoch:
            self.runner.call_hook("after_epoch")
        self.runner.call_hook("after_run")
        self.publisher.finish(done)

    def close(self) -> None:
        """End the loader processes and the progress line, and wait for what is being published."""
        self._batches.close()
        self.session.tiles.decoding.close()
        self.log.close()
        with contextlib.suppress(Exception):  # an error that is already being raised matters more
            self.publisher.flush()

    def _iterate(self, batch: Batch) -> None:
        self.log.got_batch()
        runner = self.runner
        runner.data_batch = batch
        runner.call_hook("before_train_iter")
        self._values = compute_losses(self.session, self.session.forward, batch)
        runner.outputs = {"loss": self._values["loss"], "num_samples": len(batch["img_metas"])}
        runner.call_hook("after_train_iter")  # the update is one of the hooks
        self.log.iteration(runner.iter + 1, runner.outputs["log_vars"], runner.current_lr()[0])

    def _share(self) -> torch.Tensor:
        """After the backward pass: average the losses over the team, and share what ends the run; reads nothing.

        Returns:
            Above 0 where a process's loss is not finite, on the device.
        """
        loss = self._values["loss"].detach()
        flags = torch.stack(
            [
                (~torch.isfinite(loss)).float(),
                torch.full_like(loss, float(bool(self.stops))).float(),
                torch.full_like(loss, float(self.publisher.is_due(self.job.checkpoint_minutes))).float(),
            ]
        )
        losses = torch.stack([value.detach().float() for value in self._values.values()])
        self._shared = self.team.sum(torch.cat([losses, flags]))
        return self._shared[-len(flags)]

    def _read(self) -> None:
        """Wait for the device, and read what :meth:`_share` shared and whether the step was skipped.

        Raises:
            LandsegError: a process's loss is not finite, which is no error in fp16: the step is skipped; or too many
                steps in a row were skipped.
        """
        *values, not_finite, stopping, due = self._shared.tolist()
        if not_finite and self.job.precision != "fp16":
            self._refuse_update(not bool(torch.isfinite(self._values["loss"])))
        self._count_step(self.runner.iter + 1)
        self._stopping, self._due_by_time = stopping > 0, due > 0
        logged = dict(zip(self._values, (value / self.team.size for value in values), strict=True))
        self.runner.outputs["log_vars"] = logged
        self.runner.log_buffer.update(logged, self.runner.outputs["num_samples"])

    def _count_step(self, iteration: int) -> None:
        """Count the step after `iteration` iterations, unless gradients are being accumulated.

        Where gradients overflow, they do so in every process: they are the team's.

        Raises:
            LandsegError: too many steps in a row were skipped.
        """
        if self.update.skipped is None:
            return
        skipped, self.update.skipped = bool(self.update.skipped), None
        self.log.step(skipped)
        if self.log.skipped_in_a_row >= _MOST_SKIPPED:
            raise LandsegError(
                f"training {self.job.name}",
                f"the gradients overflowed in {_MOST_SKIPPED} steps in a row, up to iteration {iteration}",
                "lower --lr, set fp16.loss_scale to 'dynamic', or train with --precision bf16 or fp32",
            )
        if skipped and self.team.leads:
            _log.warning(
                "iteration %d: the loss or the gradients overflowed in fp16, the step was skipped (%d in a row)",
                iteration,
                self.log.skipped_in_a_row,
            )

    def _refuse_update(self, here: bool) -> None:
        tiles = [meta["filename"] for meta in self.runner.data_batch["img_metas"]] if here else []
        listed = [name for names in self.team.gather(tiles) for name in names]
        raise LandsegError(
            f"training {self.job.name}",
            f"the loss of iteration {self.runner.iter + 1} is not finite; the weights were not updated with it; "
            f"tiles: {', '.join(listed)}",
            "look at these tiles, lower --lr, or train with --precision fp32",
        )

    def _after_iteration(self, done: int) -> None:
        """Publish, stop and evaluate where it is due after `done` iterations."""
        last = done == self.length.max_iters
        every = self.job.checkpoint_interval
        due = done % self.length.checkpoint_interval == 0 or bool(every and done % every == 0)
        if due or last or self._stopping or self._due_by_time:
            self.publisher.checkpoint(done)
        if self._stopping:
            self._stop()
        self._evaluate_if_due(done)

    def _ends_early(self, done: int) -> bool:
        """Whether patience is at its end. Scores are the same in every process."""
        selection = self.job.selection
        if not selection.ends_early(self.log.evaluations, self._first):
            return False
        self.publisher.checkpoint(done)  # from which a longer training can continue
        if self.team.leads:
            text = "after %d iterations: %s on val has not risen in %d evaluations; training ends early"
            _log.info(text, done, selection.metric, selection.patience)
        return True

    def _evaluate_if_due(self, done: int) -> None:
        split = self.job.eval_split
        if split is None or self._eval_tiles is None or not self.length.evaluates_after(done):
            return
        if any(evaluation["iteration"] == done for evaluation in self.log.evaluations):
            return
        session = self.session
        self.team.share_buffers(session.model)
        scores = evaluate(
            session.predictor(), session.dataset, split, self._eval_tiles, self.team, lambda: bool(self.stops)
        )
        session.model.train()
        if scores is None:
            self.publisher.checkpoint(done)
            self._stop()
        else:
            self.log.evaluated(done, scores)
            self.publisher.keep_if_best(done)
            if self.team.leads:
                found = (
                    f"mIoU {scores['mIoU']:.4f} on {split}" if scores else f"no score: no pixel of {split} is labelled"
                )
                _log.info("after %d iterations: %s", done, found)

    def _stop(self) -> None:
        if self.team.leads:
            self.publisher.flush()
            _log.warning("asked to stop; a checkpoint is published, and the same command resumes from it")
        self.team.barrier()  # the end of one process ends all, and the leader may still be publishing
        raise SystemExit(self.stops.exit_status)
