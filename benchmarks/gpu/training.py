"""Training speed: the steps alone, on a batch that does not change, and `landseg train` with everything around them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Plan, peak_gib, synchronize
from benchmarks.processes import session_of
from benchmarks.turns import write_config
from landseg.contracts.choices import Precision
from landseg.dataset.reader import StagedDataset
from landseg.models import precision
from landseg.models.build import fit_config, load_config
from landseg.models.failures import free_memory
from landseg.training.distributed.team import Team
from landseg.training.input.batches import Batch
from landseg.training.input.loader import training_batches
from landseg.training.job import TrainingJob
from landseg.training.session import Session

_WARM_UP = 4
_MEASURED_S = 2.5
_END_LIMIT_S = 20.0
"""A process that has published its model and is still there after this hangs."""
_VARIANTS: tuple[tuple[Precision, bool], ...] = (("fp16", True), ("fp16", False), ("bf16", True))


def config_file(plan: Plan, model: str, name: str, iterations: int, **overrides: Any) -> Path:
    """A config file of a bundled model for so many iterations, without a long warm-up."""
    config = plan.config(model)
    warm_up = {"lr_config": {"warmup_iters": 5}} if model == "swin" else {}
    common = {
        "runner": {"type": "IterBasedRunner", "max_iters": iterations, "_delete_": True},
        "checkpoint_config": {"by_epoch": False, "interval": iterations},
        "evaluation": {"interval": iterations},
        "data": {"samples_per_gpu": plan.batch},
        "pretrained": None,
    }
    return write_config(plan.folder / "configs" / f"{name}.py", config, {**common, **warm_up, **overrides})


def make_job(plan: Plan, dataset: str, config: Path, name: str, choice: Precision, **changes: Any) -> TrainingJob:
    """A job that trains on a staged dataset, for steps that build a session themselves."""
    opened = StagedDataset.open(dataset, plan.folder / "cache")
    fitted = fit_config(load_config(str(config)), opened.schema)
    fitted.model.pretrained = None
    scratch = plan.folder / "jobs" / name
    scratch.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {
        "name": "model",
        "dataset": opened.uri,
        "cache": plan.folder / "cache",
        "cache_bytes": 1 << 40,
        "config": fitted.pretty_text,
        "folder": str(scratch / "run"),
        "scratch": scratch,
        "result": "result.json",
        "splits": ("train",),
        "eval_split": None,
        "pretrained": None,
        "seed": 0,
        "precision": choice,
        "compile": False,
        "num_workers": 0,
        "keep": 1,
        "checkpoint_interval": 0,
        "checkpoint_minutes": 0.0,
        "deterministic": False,
    }
    return TrainingJob(**{**fields, **changes})


def step_alone(plan: Plan, model: str) -> dict[str, Any]:
    """Forward, backward and optimizer on one batch that is on the device, by precision and cuDNN's search."""
    found: dict[str, Any] = {}
    for choice, search in _VARIANTS if plan.on_gpu else (("bf16", False), ("fp32", False)):
        config = config_file(plan, model, f"step-{model}-{search}", 1000, cudnn_benchmark=search)
        job = make_job(plan, plan.dataset("large"), config, f"step-{model}", choice)
        name = choice + (" + cudnn.benchmark" if search else "")
        found[name] = round(_images_per_s(plan, job), 2)
        print(f"{model}: {name}: {found[name]} images/s", flush=True)
        free_memory()
    return {"images_per_s": found, "batch": plan.batch, "peak_gib": peak_gib(plan.device)}


def _images_per_s(plan: Plan, job: TrainingJob) -> float:
    session = Session.build(job, Team(device=plan.device))
    batches = training_batches(session.tiles, session.order, 0, 1, num_workers=0, pin_memory=False)
    batch = next(batches)
    batches.close()
    batch["img"] = batch["img"].to(plan.device, memory_format=session.acceleration.memory_format)
    batch["gt_semantic_seg"] = batch["gt_semantic_seg"].to(plan.device).long()
    session.model.train()
    count = 0
    for _ in range(_WARM_UP if plan.on_gpu else 1):
        _step(session, batch)
    synchronize(plan.device)
    start = time.perf_counter()
    while time.perf_counter() - start < (_MEASURED_S if plan.on_gpu else 0.3):
        _step(session, batch)
        count += 1
        if count % 4 == 0:
            synchronize(plan.device)  # the clock is not to run ahead of the device
    synchronize(plan.device)
    return count * plan.batch / (time.perf_counter() - start)


def _step(session: Session, batch: Batch) -> None:
    session.runner.optimizer.zero_grad()
    with precision.autocast(session.job.precision, session.team.device):
        losses = session.forward(**batch)
    total: Any = sum(value.mean() for name, value in losses.items() if "loss" in name)
    session.scaler.scale(total).backward()
    session.scaler.step(session.runner.optimizer)
    session.scaler.update(session.fixed_scale)


def train(plan: Plan, model: str) -> dict[str, Any]:
    """`landseg train` with loader processes: its speed beside the step alone's, and whether its processes end."""
    alone = plan.read(f"step-{model}")["images_per_s"]
    speed = next(iter(alone.values()))  # what training uses by default comes first
    iterations = max(6, int(plan.train_s * speed / plan.batch))
    config = config_file(plan, model, f"train-{model}", iterations)
    out = plan.folder / "trained" / model
    command = [
        *(sys.executable, "-m", "landseg", "train", "--name", model, "--config", str(config)),
        *("--dataset", plan.dataset("large"), "--pretrained", "none", "--gpus", plan.gpus, "--run-id", "check"),
        *("--storage-uri", str(out / "store"), "--output-dir", str(out)),
    ]
    command += ["--num-workers", "4" if plan.on_gpu else "1"]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    uri = process.stdout.readline().strip()
    printed = time.monotonic()
    status = _ended(process)
    ended = time.monotonic()
    left = _left(process.pid)
    if status != 0:
        raise RuntimeError(f"landseg train ended with status {status}")
    if left:
        raise RuntimeError(f"landseg train has left processes behind: {left}")
    manifest = json.loads(Path(uri).read_text())
    result = json.loads((Path(uri).parent / "result.json").read_text())
    return {
        "images_per_s": round(result["images_per_s"], 2),
        "share_of_step_alone": round(result["images_per_s"] / speed, 3),
        "iterations": result["iterations"],
        "precision": manifest["parameters"]["precision"],
        "skipped_steps": result["skipped_steps"],
        "mIoU": round(manifest["metrics"].get("mIoU", float("nan")), 4),
        "peak_gib": round(result["peak_memory_bytes"] / 2**30, 2) if plan.on_gpu else None,
        "until_result_s": round(printed - start, 1),
        "end_after_result_s": round(ended - printed, 2),
    }


def _ended(process: subprocess.Popen[str]) -> int:
    """The status of a process that has printed its result; kills one that hangs.

    Raises:
        RuntimeError: it hangs.
    """
    try:
        return process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        raise RuntimeError(f"landseg train was still there {_END_LIMIT_S:.0f} s after its result") from None


def _left(leader: int) -> list[int]:
    """What is left of a session a little after its leader has ended: multiprocessing's tracker ends just after it."""
    deadline = time.monotonic() + 2
    while (left := list(session_of(leader))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
