"""Two tiny models trained on sample data, for benchmarks where it matters what a model's outputs are like.

They learn from small tiles, three times as long as in the demo, which takes a quarter of an hour on a laptop, and
predict tiles of 512 px. They are trained once; later runs find them in build/bench/trained, for a stage that has
finished does no work.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from landseg.dataset.reader import StagedDataset
from landseg.probabilities.reader import ProbsReader

FOLDER = Path("build") / "bench" / "trained"
MODELS = ("resnest", "swin")
SIZE_PX = 512
NUM_TILES = 16
"""To predict, of `SIZE_PX`."""
_TRAINING_PX = 128
_TRAINING_TILES = 256
_EPOCHS = 36


def open_dataset() -> StagedDataset:
    """Draw and stage the tiles to predict (split val), or find them."""
    return _stage("large", SIZE_PX, train=1, val=NUM_TILES)


def train(model: str) -> str:
    """Train a model, or find it; returns its reference."""
    dataset = _stage("small", _TRAINING_PX, train=_TRAINING_TILES, val=16)
    out = FOLDER / model
    recipe = ["--name", model, "--config", f"{model}_tiny", "--epochs", str(_EPOCHS)]
    recipe += ["--pretrained", "none"]
    _landseg("train", *recipe, "--dataset", dataset.uri, "--run-id", "bench", *_where(out))
    return str(out / "model.json")


def images(dataset: StagedDataset) -> list[Path]:
    """The files of the tiles to predict."""
    return [FOLDER / "large" / "val" / "images" / f"{tile.id}.tif" for tile in dataset.tiles("val")]


def export(model: str, dataset: StagedDataset, *flags: str) -> ProbsReader:
    """Export a trained model's probabilities of the val tiles, all views, or find them."""
    out = FOLDER / model
    inputs = ["--dataset", dataset.uri, "--model", str(out / "model.json"), "--splits", "val", "--run-id", "bench"]
    _landseg("export-probs", *inputs, *flags, *_where(out))
    return ProbsReader.open(str(out / "probs.json"), out)


def _stage(name: str, size_px: int, **counts: int) -> StagedDataset:
    raw, out = FOLDER / name, FOLDER / f"{name}-staged"
    numbers = [text for split, count in counts.items() for text in (f"--{split}", str(count))]
    _landseg("make-sample-data", str(raw), *numbers, "--test", "0", "--size", str(size_px))
    _landseg("stage-data", "--source", str(raw), *_where(out))
    return StagedDataset.open(str(out / "dataset.json"), FOLDER / "cache")


def _where(out: Path) -> list[str]:
    return ["--storage-uri", str(FOLDER / "storage"), "--output-dir", str(out)]


def _landseg(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "landseg", *arguments], check=True, stdout=sys.stderr)
