"""What an interruption costs: seconds from process start to the first iteration, resuming and from nothing.

`landseg train` of the full-size models is started, killed by SIGKILL once its first checkpoint is complete, and started
again. Tiles are small, since only starting is measured: imports, dataset, model, checkpoint, loaders, first batch.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.turns import Trainee, write_config
from landseg.cli.main import main
from landseg.models.configs import load_config

FOLDER = Path("build") / "bench" / "resume"
MODELS = ("swin", "resnest")
SIZE_PX = 64
PATIENCE_S = 600


def run(repeats: int = 3) -> dict[str, Any]:
    """Measure."""
    counts = ["--train", "4", "--val", "1", "--test", "0", "--size", str(SIZE_PX)]
    assert main(["make-sample-data", *counts, str(FOLDER / "raw")]) == 0
    where = ["--storage-uri", str(FOLDER / "store"), "--output-dir", str(FOLDER)]
    assert main(["stage-data", "--source", str(FOLDER / "raw"), *where]) == 0
    models = {model: _measure(model, repeats) for model in MODELS}
    slower = max(models.values(), key=lambda figures: figures["ratio"])
    return {
        "what": "seconds from process start to the first new iteration, resuming; peer: a start from nothing; the "
        "model with the higher ratio",
        "unit": "s",
        **{key: slower[key] for key in ("ours", "peer", "ratio")},
        "repeats": repeats,
        "models": models,
        "machine": machine.describe(),
    }


def _measure(model: str, repeats: int) -> dict[str, Any]:
    cold: list[float] = []
    resumed: list[float] = []
    size_bytes = 0
    for _ in range(repeats):
        out = FOLDER / model
        shutil.rmtree(out, ignore_errors=True)
        seconds, iteration, size_bytes = _start(model, out, wait_for_checkpoint=True)
        assert iteration == 0
        cold.append(seconds)
        seconds, iteration, _ = _start(model, out, wait_for_checkpoint=False)
        assert iteration >= 1
        resumed.append(seconds)
        print(f"{model}: cold {cold[-1]:.1f} s, resumed {resumed[-1]:.1f} s", file=sys.stderr)
    shutil.rmtree(FOLDER / model)
    ours, peer = statistics.median(resumed), statistics.median(cold)
    return {
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "ratio": round(ours / peer, 3),
        "bytes_per_checkpoint": size_bytes,
    }


def _start(model: str, out: Path, *, wait_for_checkpoint: bool) -> tuple[float, int, int]:
    """Start training, and kill it; seconds until the first iteration, its number, and the size of a checkpoint."""
    start = time.time()
    size_bytes = 0
    with Trainee(["benchmarks.resume", model, str(out)], out / "process") as trainee:
        began, iteration = trainee.connection.recv()
        while wait_for_checkpoint and not size_bytes:
            assert trainee.process.poll() is None, trainee.log.read_text()[-2000:]
            assert time.time() - start < PATIENCE_S, trainee.log.read_text()[-2000:]
            time.sleep(0.2)
            for document in out.rglob("checkpoints/*.json"):  # written last
                size_bytes = document.with_suffix(".pth").stat().st_size
    return began - start, iteration, size_bytes


def _train(model: str, out: Path) -> int:
    # Tiles of their own size, not padded.
    overrides: dict[str, Any] = {"custom_hooks": [{"type": "TellStart"}]}
    pipeline = [dict(step) for step in load_config(model).own_size_train_pipeline]
    overrides["data"] = {"samples_per_gpu": 2, "train": {"pipeline": pipeline}}
    config = write_config(out / "config.py", model, overrides)
    return main(
        [
            *("train", "--name", model, "--config", str(config), "--dataset", str(FOLDER / "dataset.json")),
            *("--storage-uri", str(out / "run"), "--run-id", "bench", "--output-dir", str(out)),
            *("--pretrained", "none", "--num-workers", "1", "--checkpoint-interval", "1"),
        ]
    )


if __name__ == "__main__":
    raise SystemExit(_train(sys.argv[1], Path(sys.argv[2])))
