"""What a training run leaves in object storage: checkpoints to resume from, curves, and at the end the model."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from typing import Any

from landseg import storage
from landseg.contracts.errors import LandsegError
from landseg.models.weights.checkpoint import without_averages
from landseg.training.checkpoint.content import mmseg_checkpoint, pending_gradients, restore_gradients, to_cpu
from landseg.training.checkpoint.random_state import random_state, restore_random_state
from landseg.training.checkpoint.store import CheckpointStore, write_local
from landseg.training.continuing import Earlier, lost_checkpoints
from landseg.training.log import TrainingLog, memory_bytes
from landseg.training.provenance import environment
from landseg.training.session import Session

_log = logging.getLogger(__name__)

MODEL = "model.pth"


class Publisher:
    """Publishes a session's state, and takes it up again after an interruption.

    Every process of the team calls each method; the leader writes.

    Args:
        session: what is trained.
        log: its curves and scores, which are part of a checkpoint.
    """

    def __init__(self, session: Session, log: TrainingLog) -> None:
        self.session, self.log = session, log
        job = session.job
        self.store = CheckpointStore(storage.join(job.folder, "checkpoints"), job.scratch, job.keep, _log.warning)
        self.best = CheckpointStore(storage.join(job.folder, "best"), job.scratch / "best", 2, _log.warning)
        self._published = -1
        self._start = self._last = time.monotonic()
        self._seconds_before = 0.0

    def start_clock(self) -> None:
        """Count the seconds of training from now on."""
        self._start = self._last = time.monotonic()

    def is_due(self, minutes: float) -> bool:
        """Whether the leader's last checkpoint is this old, and nothing submitted since is still on its way.

        The leader's clock decides for all: False in the other processes, and where `minutes` is 0. A checkpoint that
        waits for one that is being uploaded would hold up training.
        """
        old = bool(minutes) and time.monotonic() - self._last >= 60 * minutes
        return old and self.session.team.leads and not self.store.busy

    def resume(self) -> int:
        """Restore the newest checkpoint, if there is one, else that of the training that this one continues.

        Returns:
            The number of finished iterations.

        Raises:
            ConfigError: the training to continue has no checkpoint left, or is no shorter.
        """
        session, team, earlier = self.session, self.session.team, self.session.job.earlier
        if earlier is not None:
            earlier.check_length(session.length.max_iters)
        content = team.from_leader(self._newest() if team.leads else None)
        if content is None:
            if earlier is not None:
                raise lost_checkpoints(earlier)
            return 0
        saved = content["resume"]
        session.model.load_state_dict(content["state_dict"])
        rates = [group["lr"] for group in session.runner.optimizer.param_groups]
        session.runner.optimizer.load_state_dict(content["optimizer"])
        if earlier is not None and saved["iteration"] <= earlier.iterations:
            # Where no schedule sets it, the rate is the config's, not that of before.
            for group, rate in zip(session.runner.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        session.scaler.load_state_dict(saved["scaler"])
        self.log.load_state_dict(saved["monitor"])
        restore_gradients(session.model, saved["gradients"])
        restore_random_state(saved["random_states"][team.rank], team.device)
        self._seconds_before = saved["seconds"]
        self._published = int(saved["iteration"])
        if team.leads:
            _log.info("resuming after %d of %d iterations", self._published, session.length.max_iters)
        return self._published

    def _newest(self) -> dict[str, Any] | None:
        found, earlier = self.store.newest(), self.session.job.earlier
        if found is None and earlier is not None:
            _log.info("continuing %s: the learning rate follows the schedule over the new length", earlier.uri)
            folder = storage.join(earlier.folder, "checkpoints")
            found = CheckpointStore(folder, self.session.job.scratch, 1, _log.warning).newest()
            if found is not None:
                self._take_over_best(found, earlier)
        return found

    def _take_over_best(self, last: dict[str, Any], earlier: Earlier) -> None:
        """Keep the best weights of the training that this one continues, if they are in storage.

        Args:
            last: its last checkpoint, whose own weights this training evaluates first.
            earlier: that training.
        """
        selection = self.session.job.selection
        if not selection.ships_best:
            return
        self.best.scratch.mkdir(exist_ok=True)
        store = CheckpointStore(storage.join(earlier.folder, "best"), self.best.scratch, 2, _log.warning)
        kept = store.iterations()
        best = selection.best([one for one in last["resume"]["monitor"]["evaluations"] if one["iteration"] in kept])
        content = store.read(best["iteration"]) if best is not None else None
        if best is not None and content is not None:
            iteration = best["iteration"]
            self.best.publish(content, iteration, iteration // self.session.order.iters_per_epoch)
            self.best.flush()

    def _best_evaluation(self) -> dict[str, Any] | None:
        """The best evaluation, of an earlier training only one whose weights are here."""
        evaluations, earlier = self.log.evaluations, self.session.job.earlier
        if earlier is not None:
            kept = self.best.iterations()
            evaluations = [e for e in evaluations if e["iteration"] >= earlier.iterations or e["iteration"] in kept]
        return self.session.job.selection.best(evaluations)

    def checkpoint(self, done: int) -> None:
        """Publish a checkpoint of `done` finished iterations, once.

        Raises:
            LandsegError: the weights are not finite (gradients may overflow although the loss does not): resuming from
                such a checkpoint would never succeed.
        """
        if done == self._published:
            return
        session = self.session
        if not all(bool(parameter.isfinite().all()) for parameter in session.model.parameters()):
            raise LandsegError(
                f"training {session.job.name}",
                f"the weights are not finite after iteration {done}; they are not published",
                "clip gradients (optimizer_config.grad_clip), lower --lr, or train with --precision fp32",
            )
        self._published = done
        self._last = time.monotonic()
        random_states = session.team.gather(random_state(session.team.device))
        if session.team.leads:
            self._publish(done, random_states)
        session.team.barrier()  # the leader may wait for storage longer than others may wait for its gradients

    def keep_if_best(self, done: int) -> None:
        """Publish the weights of `done` finished iterations where they are to be the model if none better follow."""
        session = self.session
        if not session.job.selection.ships_best:
            return
        if session.team.leads:
            best = self._best_evaluation()
            if best is not None and best["iteration"] == done:
                self.best.scratch.mkdir(exist_ok=True)
                self.best.publish(self._model_content(done), done, done // session.order.iters_per_epoch)
        session.team.barrier()  # as after a checkpoint

    def _publish(self, done: int, random_states: list[dict[str, Any]]) -> None:
        session = self.session
        content = self._model_content(done)
        content["optimizer"] = to_cpu(session.runner.optimizer.state_dict())
        content["resume"] = {
            "iteration": done,
            "random_states": random_states,
            "scaler": session.scaler.state_dict(),
            "monitor": to_cpu(self.log.state_dict()),
            "gradients": pending_gradients(session.model, self._accumulating(done)),
            "seconds": self._seconds(),
        }
        self.store.publish(content, done, done // session.order.iters_per_epoch)
        self.store.submit(self._upload_curves)

    def finish(self, done: int) -> None:
        """Publish the model, and leave in `scratch` what the manifest and the report need.

        Args:
            done: finished iterations: all, unless training ends early.
        """
        session, job, team = self.session, self.session.job, self.session.team
        if not team.leads:
            team.barrier()
            return
        local = job.scratch / MODEL
        content = self._selected(done)
        # After an epoch the averages stand in the weights' own places.
        content["state_dict"] = without_averages(content["state_dict"])
        write_local(content, local)
        file = storage.put_once(job.folder, MODEL, local)
        local.unlink()
        self.log.close()
        self.store.submit(self._upload_curves)
        self.store.flush()
        result = {
            "checkpoint": file.model_dump(),
            "curve": self.log.curve,
            "evaluations": self.log.evaluations,
            "images_per_s": self.log.images_per_s,
            "skipped_steps": self.log.skipped_steps,
            "iterations": done,
            "selected_iteration": content["meta"]["iter"],
            "seconds": self._seconds(),
            "num_parameters": sum(parameter.numel() for parameter in session.model.parameters()),
            "peak_memory_bytes": memory_bytes(team.device),
            "environment": environment(team.device, team.size),
            "speed": dataclasses.asdict(session.acceleration),
            "input": session.model_input.model_dump(mode="json"),
            "mean": session.tiles.pipeline.mean,
            "std": session.tiles.pipeline.std,
        }
        (job.scratch / job.result).write_text(json.dumps(result))
        team.barrier()

    def flush(self) -> None:
        """Wait until everything submitted has arrived.

        Raises:
            LandsegError: something could not be published.
        """
        self.store.flush()
        self.best.flush()

    def _selected(self, done: int) -> dict[str, Any]:
        """The weights that become the model, as a checkpoint."""
        self.best.flush()
        best = self._best_evaluation() if self.session.job.selection.ships_best else None
        if best is None or best["iteration"] == done:
            return self._model_content(done)
        content = self.best.read(best["iteration"])
        if content is None:
            _log.warning(
                "the best weights, of iteration %d, are not in storage: the last ones become the model",
                best["iteration"],
            )
            return self._model_content(done)
        return content

    def _model_content(self, done: int) -> dict[str, Any]:
        session = self.session
        return mmseg_checkpoint(session.model, session.model_input, session.job, done, session.order.iters_per_epoch)

    def _accumulating(self, done: int) -> bool:
        every = (self.session.config.get("optimizer_config") or {}).get("cumulative_iters") or 1
        return bool(done % every) and done < self.session.length.max_iters

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._start

    def _upload_curves(self) -> None:
        for path in sorted(self.log.folder.iterdir()):
            storage.put_file(storage.join(self.session.job.folder, "tensorboard", path.name), path)
