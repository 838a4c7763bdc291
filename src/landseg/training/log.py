"""What training reports while it runs: the progress line, the curves of the report, and TensorBoard's files."""

from __future__ import annotations

import logging
import math
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from landseg.cli.progress import Progress

_LINE_S = 60.0
"""A log gets a line at least this often, however slow the iterations are."""

_PACE_S = 600.0
"""After so long the pace of a training is known: kernels are chosen, and the caches are filling."""

_log = logging.getLogger(__name__)

Curve = dict[str, list[float]]
"""Values by name, one per logged iteration; `iteration` and `lr` among them."""


class TrainingLog:
    """Averages what each iteration reports, and adds a point to the curves every `interval` iterations.

    Its state is part of a checkpoint, so the curves of a run that was killed are those of one that was not.

    Args:
        label: the beginning of the progress line.
        max_iters: iterations in all.
        iters_per_epoch: batches in an epoch.
        batch_size: images per iteration, over all processes.
        interval: iterations per point of the curves.
        line_interval: iterations per line in a log.
        folder: local folder for TensorBoard's files.
        device: the device whose memory is watched.
        timeout_s: seconds after which the pipeline ends the step; None: never.

    Attributes:
        skipped_steps: steps skipped because of fp16.
        skipped_in_a_row: those since the last step that updated the weights.
    """

    def __init__(
        self,
        label: str,
        *,
        max_iters: int,
        iters_per_epoch: int,
        batch_size: int,
        interval: int,
        line_interval: int,
        folder: Path,
        device: torch.device,
        timeout_s: int | None = None,
    ) -> None:
        self.curve: Curve = {"iteration": [], "lr": []}
        self.evaluations: list[dict[str, Any]] = []
        self._sums: dict[str, float] = {}
        self._count = 0
        self.skipped_steps = self.skipped_in_a_row = 0
        self._label, self._max_iters, self._iters_per_epoch = label, max_iters, iters_per_epoch
        self._batch_size, self.folder, self._device = batch_size, folder, device
        self._interval, self._line_interval = interval, line_interval
        self._writer: SummaryWriter | None = None
        self._progress: Progress | None = None
        self._data_s = self._busy_s = 0.0
        self._last = time.perf_counter()
        self._since_start = 0
        self._timeout_s, self._started = timeout_s, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "curve": self.curve,
            "evaluations": self.evaluations,
            "sums": self._sums,
            "count": self._count,
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.curve, self.evaluations = state["curve"], state["evaluations"]
        self._sums, self._count = state["sums"], state["count"]
        self.skipped_steps = state.get("skipped_steps", 0)  # older checkpoints have neither
        self.skipped_in_a_row = state.get("skipped_in_a_row", 0)

    def start(self, iteration: int) -> None:
        """Start to show progress, with `iteration` iterations finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(self.folder), purge_step=iteration)
        self._progress = Progress(
            self._label, self._max_iters, "iters", done=iteration, every=self._line_interval, interval_s=_LINE_S
        )
        self._progress.__enter__()
        self._last = time.perf_counter()

    def close(self) -> None:
        """End the progress line and close TensorBoard's file."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None
        if self._writer is not None:
            self._writer.close()

    def got_batch(self) -> None:
        """Note that the batch has arrived, which separates the wait for it from the work on it."""
        now = time.perf_counter()
        self._data_s += now - self._last
        self._last = now

    def iteration(self, iteration: int, values: dict[str, float], lr: float) -> None:
        """Count a finished iteration.

        Args:
            iteration: how many are finished.
            values: losses and accuracies by name.
            lr: learning rate of the first parameter group.
        """
        now = time.perf_counter()
        self._busy_s += now - self._last
        self._last = now
        self._since_start += 1
        if all(map(math.isfinite, values.values())):  # not where a step of fp16 is skipped
            self._count += 1
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        if self._progress is not None:
            epoch = (iteration - 1) // self._iters_per_epoch + 1
            data_ms, memory_gib = self._data_s / self._since_start * 1e3, memory_bytes(self._device) / 2**30
            where = "GPU" if self._device.type == "cuda" else "RAM"
            # The mean since the last point of the curves.
            loss = self._sums["loss"] / self._count if self._count else math.nan
            self._progress.advance(
                note=f"epoch {epoch}, loss {loss:.4f}, lr {lr:.3g}, {self.images_per_s:.1f} images/s, "
                f"data {data_ms:.0f} ms, {where} {memory_gib:.2f} GiB"
            )
            self._warn_if_too_long(iteration)
        if self._count and (iteration % self._interval == 0 or iteration == self._max_iters):
            self._point(iteration, lr)

    def _warn_if_too_long(self, iteration: int) -> None:
        """Once the pace is known, say so if the pipeline is likely to end the step before the training ends."""
        passed_s = time.monotonic() - self._started
        if self._timeout_s is None or passed_s < _PACE_S:
            return
        left_s = (self._max_iters - iteration) * self._batch_size / self.images_per_s
        whole_s = passed_s + left_s
        if whole_s > self._timeout_s:
            _log.warning(
                "at %.1f images/s the training takes %.1f h more: the pipeline ends the step after %.3g h, and a retry "
                'continues from the last checkpoint; expected more GPUs, fewer epochs or SET="train.timeout=%dh"',
                *(
                    self.images_per_s,
                    left_s / 3600,
                    self._timeout_s / 3600,
                    math.ceil(1.1 * whole_s / 3600),
                ),
            )
        self._timeout_s = None  # looked at once

    def step(self, skipped: bool) -> None:
        """Count a step of the optimizer, or one that was skipped."""
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def evaluated(self, iteration: int, scores: dict[str, float]) -> None:
        """Record the scores on val after `iteration` iterations."""
        self.evaluations.append(
            {"iteration": iteration, "epoch": -(-iteration // self._iters_per_epoch), "scores": scores}
        )
        if self._writer is not None:
            for name, value in scores.items():
                self._writer.add_scalar(f"val/{name}", value, iteration)
            self._writer.flush()
        self._last = time.perf_counter()  # evaluation counts neither as waiting for a batch nor as work on one

    @property
    def images_per_s(self) -> float:
        """Training speed since the start of this process, over all processes, evaluation left out."""
        busy = self._data_s + self._busy_s
        return self._since_start * self._batch_size / busy if busy > 0 else 0.0

    def _point(self, iteration: int, lr: float) -> None:
        means = {name: total / self._count for name, total in self._sums.items()}
        for name, value in {"iteration": float(iteration), "lr": lr, **means}.items():
            self.curve.setdefault(name, []).append(value)
        self._sums, self._count = {}, 0
        if self._writer is not None:
            speed = {"speed/images_per_s": self.images_per_s, "speed/data_s": self._data_s / self._since_start}
            for name, value in {"train/lr": lr, **{f"train/{k}": v for k, v in means.items()}, **speed}.items():
                self._writer.add_scalar(name, value, iteration)
            self._writer.flush()


def memory_bytes(device: torch.device) -> int:
    """Peak memory: of the GPU, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
