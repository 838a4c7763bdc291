"""A staged dataset of very small tiles that a model can learn, and jobs that train on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import tifffile
import yaml
from PIL import Image

from landseg.cli.main import main
from landseg.dataset.reader import StagedDataset
from landseg.models.build import fit_config
from landseg.models.configs import load_config
from landseg.training.job import TrainingJob, set_parameters

CLASSES = ["field", "road", "water"]
COLOURS = np.array([[60, 140, 50], [150, 150, 150], [30, 60, 160]])


def write_raw(
    root: Path,
    train: int = 12,
    val: int = 5,
    size: int = 32,
    bands: int = 3,
    step: int = 8,
    compression: str | None = None,
) -> Path:
    """Tiles of blocks, each class with its colour and some noise; the val tiles have two sizes, `step` apart."""
    rng = np.random.default_rng(0)
    for split, count in {"train": train, "val": val}.items():
        for i in range(count):
            height = size + step * (split == "val" and i % 2)
            label = rng.integers(0, len(CLASSES), (height // 8, size // 8), np.uint8).repeat(8, 0).repeat(8, 1)
            image = COLOURS[label][:, :, [band % 3 for band in range(bands)]] + rng.normal(0, 12, (height, size, bands))
            for kind in ("images", "labels"):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
            path = root / split / "images" / f"{split}{i:02d}.tif"
            layout: dict[str, Any] = {"photometric": "rgb" if bands == 3 else "minisblack", "planarconfig": "contig"}
            tifffile.imwrite(
                path, image.clip(0, 255).astype(np.uint8), metadata=None, compression=compression, **layout
            )
            Image.fromarray(label).save(root / split / "labels" / f"{split}{i:02d}.png")
    description: dict[str, Any] = {"version": 1, "name": "blocks", "classes": CLASSES}
    if bands != 3:
        description["bands"] = list(range(1, bands + 1))
    (root / "dataset.yaml").write_text(yaml.safe_dump(description))
    return root


def stage(root: Path, **options: Any) -> str:
    """Write and stage a dataset under `root`; the reference's path."""
    raw, out = write_raw(root / "raw", **options), root / "staged"
    store = str(root / "store")
    arguments = ["stage-data", "--source", str(raw), "--storage-uri", store, "--output-dir", str(out)]
    assert main([*arguments, "--num-workers", "1"]) == 0
    return str(out / "dataset.json")


def make_job(
    root: Path,
    family: str,
    dataset: str,
    *,
    iterations: int = 4,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> TrainingJob:
    """A job on the tiny model of a family: `iterations` of 2 tiles, or `epochs`, in `root`."""
    opened = StagedDataset.open(dataset, root / "cache")
    overrides = {"evaluation.interval": 1000, **(options or {})}
    config = fit_config(load_config(f"{family}_tiny", overrides), opened.schema)
    parameters = {name: changes.pop(name) for name in ("epochs", "batch_per_gpu", "lr") if name in changes}
    set_parameters(config, **{"batch_per_gpu": 2, **parameters})
    if "epochs" not in parameters:
        config.runner = mmcv.ConfigDict(type="IterBasedRunner", max_iters=iterations)
        config.checkpoint_config = mmcv.ConfigDict(interval=1000)
    scratch = root / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    job = TrainingJob(
        name=family,
        dataset=opened.uri,
        cache_bytes=1 << 40,
        cache=root / "cache",
        config=config.pretty_text,
        folder=str(root / "run"),
        scratch=scratch,
        result="result.json",
        splits=("train",),
        eval_split="val",
        pretrained=None,
        seed=0,
        precision="fp32",
        compile=False,
        num_workers=0,
        keep=2,
        checkpoint_interval=0,
        checkpoint_minutes=0.0,
        deterministic=False,
    )
    return dataclasses.replace(job, **changes)
