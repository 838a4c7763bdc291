"""Killed and started again, a training ends with the weights of one that was not: to the bit, with --deterministic."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.plan import MODELS, Plan
from benchmarks.turns import write_config

_POLL_S = 0.02


def resume(plan: Plan) -> dict[str, Any]:
    """Train the tiny twins, all at once: each without interruption, and each killed after a checkpoint."""
    iterations, every = (60, 10) if plan.on_gpu else (8, 2)
    whole, killed, again = {}, {}, {}
    for model in MODELS:
        config = _config(plan, model, iterations)
        whole[model] = _train(plan, model, config, "whole", every)
        killed[model] = _train(plan, model, config, "killed", every)
    interrupted_at = {model: _kill(plan, model, process) for model, process in killed.items()}
    for model in MODELS:
        again[model] = _train(plan, model, plan.folder / "configs" / f"resume-{model}.py", "killed", every)
    for model, process in [*whole.items(), *again.items()]:
        if status := process.wait():
            raise RuntimeError(f"landseg train ended with status {status} for {model}")
    found: dict[str, Any] = {}
    for model in MODELS:
        first, second = (_weights(plan, model, name) for name in ("whole", "killed"))
        different = [name for name, value in first.items() if not torch.equal(value, second[name])]
        largest = max((float((first[name] - second[name]).abs().max()) for name in different), default=0.0)
        found[model] = {
            "killed_after": interrupted_at[model],
            "different_weights": len(different),
            "weights": len(first),
            "largest_difference": largest,
        }
    if any(one["different_weights"] for one in found.values()):
        raise RuntimeError(f"the resumed weights differ: {json.dumps(found)}")
    return {"iterations": iterations, **found}


def _config(plan: Plan, model: str, iterations: int) -> Path:
    overrides = {
        "runner": {"type": "IterBasedRunner", "max_iters": iterations, "_delete_": True},
        "checkpoint_config": {"by_epoch": False, "interval": iterations},
        "evaluation": {"interval": iterations},
        "data": {"samples_per_gpu": 4},
    }
    return write_config(plan.folder / "configs" / f"resume-{model}.py", f"{model}_tiny", overrides)


def _train(plan: Plan, model: str, config: Path, name: str, every: int) -> subprocess.Popen[bytes]:
    out = plan.folder / "resume" / model / name
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "landseg", "train", "--name", model, "--config", str(config)),
            *("--dataset", plan.dataset("small"), "--gpus", plan.gpus, "--run-id", "check", "--deterministic"),
            *("--storage-uri", str(out / "store"), "--output-dir", str(out), "--checkpoint-interval", str(every)),
            *("--pretrained", "none", "--num-workers", "1", "--keep", "99"),
        ],
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # several share a CPU
    )


def _kill(plan: Plan, model: str, process: subprocess.Popen[bytes]) -> int:
    """Kill a training once a checkpoint is there; returns the iterations of the newest then."""
    checkpoints = plan.folder / "resume" / model / "killed" / "store"
    while not list(checkpoints.glob("runs/**/checkpoints/*.json")):
        if (status := process.poll()) is not None:
            raise RuntimeError(f"landseg train ended with status {status} before it was killed")
        time.sleep(_POLL_S)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    newest = max(checkpoints.glob("runs/**/checkpoints/*.json"))
    return int(newest.stem.removeprefix("iter_"))


def _weights(plan: Plan, model: str, name: str) -> dict[str, torch.Tensor]:
    path = plan.folder / "resume" / model / name / "model.json"
    uri = Path(json.loads(path.read_text())["uri"])
    found: dict[str, torch.Tensor] = torch.load(uri.parent / "model.pth", map_location="cpu")["state_dict"]
    return found
