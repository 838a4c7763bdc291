"""Training at full size against mmseg's own trainer: images per second, and whether the losses are the same.

Each model is trained by `landseg train` at its automatic precision and by stock `mmseg.apis.train_segmentor`, from the
same weights on the same batches of 512-px tiles, in turns iteration by iteration; the medians of their durations are
compared. On a CPU stock mmseg has fp32 only, with batches of 2; on a GPU both train in fp16 with batches of 8.

The losses of a few iterations at full size are recorded together. Whether curves overlap takes more iterations than
a CPU has time for: the small twins are trained longer, in each precision, and against another seed for scale.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.turns import Trainee, write_config
from landseg.cli.main import main
from landseg.dataset.reader import StagedDataset
from landseg.models import precision
from landseg.models.build import build_model, fit_config, load_config
from landseg.models.weights.pretrained import without_pretrained
from landseg.training.checkpoint.random_state import seed_everything
from landseg.training.input.batches import BatchOrder, TileBatches
from landseg.training.input.config_pipeline import find_pipeline

# isort: split
import mmcv
from mmcv.parallel import DataContainer
from mmseg.apis import train_segmentor

FOLDER = Path("build") / "bench" / "train"
MODELS = ("swin", "resnest")
ON_GPU = torch.cuda.is_available()
BATCH, WORKERS = (8, 4) if ON_GPU else (2, 0)
TILES = 2 * BATCH
ITERATIONS = 1000
"""What the schedule is made for; only the first few are run."""
WARM_UP = 1
SMALL_ITERATIONS = 120


def unknown_case(only: str) -> str:
    """What `--only` should be, in an error line; empty where it is that."""
    return "" if only in MODELS else f"expected one of {', '.join(MODELS)}"


def run(repeats: int = 5, only: str | None = None) -> dict[str, Any]:
    """Measure; with `only`, one model, and the others' figures are those of the last run."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    _stage("full", TILES, 512)
    _stage("small", 32, 64)
    for model in MODELS if only is None else (only,):
        figures = {
            **_compare(model, repeats),
            "small_twins_losses": _small_curves(model),
            "machine": machine.describe(),
        }
        (FOLDER / f"{model}.json").write_text(json.dumps(figures))
    measured = {model: FOLDER / f"{model}.json" for model in MODELS}
    models = {model: json.loads(path.read_text()) for model, path in measured.items() if path.exists()}
    slower = min(models.values(), key=lambda figures: figures["ratio"])
    return {
        "what": f"training the recipe's models at full size, batches of {BATCH} tiles of 512 px; peer: mmseg's "
        f"train_segmentor, {'fp16' if ON_GPU else 'fp32'}; the model with the lower ratio",
        "unit": "images/s",
        **{key: slower[key] for key in ("ours", "peer", "ratio")},
        "target": 1.3 if ON_GPU else 1.5,
        "models": models,
    }


def _stage(name: str, tiles: int, size_px: int) -> None:
    counts = ["--train", str(tiles), "--val", "1", "--test", "0", "--size", str(size_px), "--compression", "none"]
    assert main(["make-sample-data", *counts, str(FOLDER / name / "raw")]) == 0
    where = ["--storage-uri", str(FOLDER / name / "store"), "--output-dir", str(FOLDER / name)]
    assert main(["stage-data", "--source", str(FOLDER / name / "raw"), *where]) == 0


def _config(model: str, iterations: int, **overrides: Any) -> Path:
    """The file that stock mmseg and landseg train by."""
    common = {
        "runner": {"type": "IterBasedRunner", "max_iters": iterations, "_delete_": True},
        "checkpoint_config": {"by_epoch": False, "interval": iterations},
    }
    # From random weights: the warm-up of 1500 iterations would leave nothing to compare.
    warm_up = {"lr_config": {"warmup_iters": 5}} if model == "swin" else {}
    return write_config(FOLDER / model / "config.py", model, {**common, **warm_up, **overrides})


def _full_config(model: str) -> Path:
    return _config(
        model,
        ITERATIONS,
        custom_hooks=[{"type": "TakeTurns", "priority": "LOWEST"}],
        data={"samples_per_gpu": BATCH, "workers_per_gpu": WORKERS},
    )


def _compare(model: str, repeats: int) -> dict[str, Any]:
    shutil.rmtree(FOLDER / model / "ours", ignore_errors=True)  # or it would resume from its checkpoint
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    cpu_seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    losses: dict[str, list[float]] = {"ours": [], "peer": []}
    with contextlib.ExitStack() as stack:
        trainees = {
            who: stack.enter_context(Trainee(["benchmarks.train", who, model], FOLDER / model / who)) for who in seconds
        }
        for _ in range(WARM_UP + repeats):
            for who, trainee in trainees.items():
                values = trainee.iterate()
                seconds[who].append(values["seconds"])
                cpu_seconds[who].append(values["cpu_seconds"])
                losses[who].append(values["loss"])
            print(
                f"{model}: " + ", ".join(f"{who} {values[-1]:.2f} s" for who, values in seconds.items()),
                file=sys.stderr,
            )
    ours, peer = (BATCH / statistics.median(values[WARM_UP:]) for values in seconds.values())
    config = load_config(model)
    return {
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 3),
        "precision": precision.resolve("auto", config, ON_GPU),
        "seconds": {who: [round(value, 3) for value in values] for who, values in seconds.items()},
        "cpu_seconds": {who: round(statistics.median(values[WARM_UP:]), 3) for who, values in cpu_seconds.items()},
        "losses": losses,
        "largest_difference": max(abs(a - b) for a, b in zip(*losses.values(), strict=True)),
        "change_of_peer_between_iterations": statistics.mean(
            abs(a - b) for a, b in zip(losses["peer"], losses["peer"][1:], strict=False)
        ),
    }


def _small_curves(model: str) -> dict[str, Any]:
    """Losses of the small twin in fp32, in the 16 bits of the device, and in fp32 with another seed."""
    in_16_bits = "fp16" if ON_GPU else "bf16"
    curves = {}
    for name, choice, seed in (("fp32", "fp32", 0), (in_16_bits, in_16_bits, 0), ("fp32, another seed", "fp32", 1)):
        out = FOLDER / model / f"small-{choice}-{seed}"
        config = _config(f"{model}_tiny", SMALL_ITERATIONS, log_config={"interval": 1})
        assert main(_arguments(config, FOLDER / "small", out, choice, seed)) == 0
        folder = Path(json.loads((out / "model.json").read_text())["uri"]).parent
        curves[name] = json.loads((folder / "result.json").read_text())["curve"]["loss"]
    means = {name: _means(curve) for name, curve in curves.items()}
    base, ours, other = means.values()
    return {
        "mean_of": SMALL_ITERATIONS // len(base),
        "curves": means,
        "mean_difference": statistics.mean(abs(a - b) for a, b in zip(base, ours, strict=True)),
        "mean_difference_of_seeds": statistics.mean(abs(a - b) for a, b in zip(base, other, strict=True)),
    }


def _means(curve: list[float], parts: int = 12) -> list[float]:
    size = len(curve) // parts
    return [round(statistics.mean(curve[i * size : (i + 1) * size]), 4) for i in range(parts)]


def _arguments(config: Path, dataset: Path, out: Path, choice: str = "auto", seed: int = 0) -> list[str]:
    return [
        *("train", "--name", "model", "--config", str(config), "--dataset", str(dataset / "dataset.json")),
        *("--storage-uri", str(out / "run"), "--run-id", "bench", "--output-dir", str(out)),
        *("--pretrained", "none", "--train-splits", "train,val", "--gpus", str(int(ON_GPU)), "--precision", choice),
        *("--num-workers", str(WORKERS), "--seed", str(seed)),
    ]


def _train_ours(model: str) -> None:
    raise SystemExit(main(_arguments(_full_config(model), FOLDER / "full", FOLDER / model / "ours")))


class _SameTiles(torch.utils.data.Dataset[Any]):
    """The tiles of our batches, one by one and in their order, as mmseg's datasets give them."""

    CLASSES = PALETTE = None

    def __init__(self, config: Any, staged: StagedDataset) -> None:
        splits: Any = ("train", "val")
        self.tiles = TileBatches(staged, splits, find_pipeline(config, staged, splits), 0)
        batches = BatchOrder(len(self.tiles), BATCH, 1, 0, 0).batches(0, ITERATIONS)
        self.keys = [key for keys in batches for key in keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Any:
        batch = self.tiles.read([self.keys[index]])
        return {
            "img": DataContainer(batch["img"][0], stack=True),
            "gt_semantic_seg": DataContainer(batch["gt_semantic_seg"][0].long(), stack=True),
            "img_metas": DataContainer(batch["img_metas"][0], cpu_only=True),
        }


@functools.cache
def _copy_stream(device: int) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _train_stock(model: str) -> None:
    # mmcv: mmcv/parallel/_functions.py passes a number, where torch takes a device since 2.1.
    mmcv.parallel._functions._get_stream = _copy_stream
    staged = StagedDataset.open(str(FOLDER / "full" / "dataset.json"), FOLDER / "cache")
    config = without_pretrained(fit_config(load_config(str(_full_config(model))), staged.schema))
    config.merge_from_dict(
        {
            "gpu_ids": [0],
            "device": "cuda" if ON_GPU else "cpu",
            "seed": 0,
            "work_dir": str(FOLDER / model / "peer"),
            "data.train_dataloader": {"shuffle": False, "persistent_workers": False},
            "log_config.hooks": [],
            "optimizer_config": {"type": "Fp16OptimizerHook", "loss_scale": 512.0} if ON_GPU else {},
        }
    )
    seed_everything(0, False, bool(config.get("cudnn_benchmark")))
    built = build_model(config, staged.schema)
    built.init_weights()  # type: ignore[operator]
    train_segmentor(built, _SameTiles(config, staged), config, validate=False, meta={})


if __name__ == "__main__":
    {"ours": _train_ours, "peer": _train_stock}[sys.argv[1]](sys.argv[2])
