"""The demo: the whole pipeline on sample data, with its own object storage, on a laptop."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.dags.packages import package
from pipelines.errors import UserError
from pipelines.local import containers
from pipelines.local import runner as local
from pipelines.local.embedded_s3 import EmbeddedS3
from pipelines.local.processes import host_command

BUCKET = "landseg"


def run(root: Path, *, fresh: bool = False, docker: bool = False) -> int:
    """Draw sample data, run train-and-ensemble on it with the tiny configs, and print what came out.

    Args:
        root: everything the demo writes; a second run takes from there what it can.
        fresh: remove it first.
        docker: run each step in its image.

    Returns:
        The exit status.
    """
    root = root.resolve()
    with _alone(root):
        if fresh and root.exists():
            shutil.rmtree(root)
        root.mkdir(parents=True, exist_ok=True)
        return _run(root, docker=docker)


def _run(root: Path, *, docker: bool) -> int:
    start = time.monotonic()
    pipeline = package("train-and-ensemble")
    code = containers.code_in_images(pipeline) if docker else ""
    sample = host_command("", ["landseg", "make-sample-data", str(root / "data")])
    if status := subprocess.run(sample, stdout=sys.stderr).returncode:
        return status
    with EmbeddedS3(root / "s3", buckets=[BUCKET]) as storage:
        os.environ.update(storage.env)
        launcher = containers.container_command([root]) if docker else host_command
        try:
            runs = local.run(pipeline, _parameters(root), root / "kfp", launcher=launcher, code=code)
        except local.StageFailedError as err:
            print(f"demo: {err}", file=sys.stderr)
            return 2 if err.status == 2 else 1
    outputs = {run.name: run.outputs for run in runs}
    shutil.copyfile(outputs["average-probs"]["report"].path, root / "report.html")
    scores = json.loads(Path(outputs["average-probs"]["summary"].path).read_text())
    summary = {
        "models": {name: _overall(metrics) for name, metrics in scores["models"].items()},
        "ensemble": _overall(scores["ensemble"]),
        "seconds": _seconds(root / "summary.json", runs),
        "num_tiles": scores["num_tiles"],
    }
    (root / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(table(scores, summary["seconds"], {run.name for run in runs if run.cached}))
    print(f"{time.monotonic() - start:.0f} s in all; the report: {root / 'report.html'}")
    return 0


def _parameters(root: Path) -> dict[str, Any]:
    return {
        "source": str(root / "data"),
        "storage_uri": f"s3://{BUCKET}",
        "run_id": "demo",
        "swin_config": "swin_tiny",
        "resnest_config": "resnest_tiny",
        "swin_pretrained": "none",
        "resnest_pretrained": "none",
        "gpus": "0",
    }


def _overall(metrics: dict[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in ("mIoU", "mAcc", "aAcc")}


def _seconds(earlier: Path, runs: list[local.TaskRun]) -> dict[str, float]:
    """Seconds per step; a step that was reused keeps the time of the demo that ran it."""
    known = json.loads(earlier.read_text())["seconds"] if earlier.exists() else {}
    return {run.name: known.get(run.name, 0.0) if run.cached else round(run.seconds, 1) for run in runs}


def table(scores: dict[str, Any], seconds: dict[str, float], reused: set[str]) -> str:
    """The scores of each model and the ensemble, and the seconds of each step, as text."""
    columns = {**scores["models"], "ensemble": scores["ensemble"]}
    names = ["mIoU", "mAcc", "aAcc", *(name for name in scores["ensemble"] if name.startswith("IoU."))]
    width = max(len(name) for name in [*names, *seconds]) + 2
    lines = ["", " " * width + "".join(f"{name:>10}" for name in columns)]
    for name in names:
        cells = (f"{metrics[name]:10.4f}" if name in metrics else " " * 9 + "-" for metrics in columns.values())
        lines.append(f"{name:{width}}" + "".join(cells))
    lines += ["", f"{'step':{width}}{'seconds':>10}"]
    lines += [f"{name:{width}}{taken:10.1f}{'  (reused)' * (name in reused)}" for name, taken in seconds.items()]
    return "\n".join([*lines, ""])


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Two demos in one folder would overwrite each other, and one of them might be told to delete it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(f".{root.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another demo is running in {root}: wait for it, or give --root another folder") from None
        yield
