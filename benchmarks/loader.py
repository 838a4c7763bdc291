"""The training loader against mmseg's: images per second of one process, on the same 512-px tiles and transforms.

Both run in a DataLoader with one process and batches of 8, in turns; the medians of the turns are compared.
mmseg reads files (`CustomDataset` with its own pipeline classes) and decodes each in every epoch. landseg reads shards,
and decodes each tile in the first epoch: a first and a later epoch are measured apart, and a training of the recipe's
length is computed from them. The least ratio of the compressions makes the figure.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import torch

from benchmarks import machine
from landseg.cli.main import main
from landseg.dataset.reader import StagedDataset
from landseg.raw.tiff.decoding import decode_image
from landseg.training.distributed.team import Team
from landseg.training.input.batches import BatchOrder, TileBatches
from landseg.training.input.compiling import build_pipeline
from landseg.training.input.config_pipeline import IMAGENET_MEAN, IMAGENET_STD, RECIPE_STEPS
from landseg.training.input.loader import training_batches

# isort: split
from mmcv.parallel import collate
from mmseg.datasets import CustomDataset

FOLDER = Path("build") / "bench" / "loader"
DRAWN, COPIES, BATCH = 48, 4, 8
"""Each drawn tile is there under several names: a first epoch has to be long enough to be measured."""
TILES = DRAWN * COPIES
LATER_EPOCHS = 2
RECIPE_EPOCHS = 12
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "lzw": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "deflate", "predictor": True},
    "zstd": {"compression": "zstd", "predictor": True},
    "jpeg": {"compression": "jpeg"},
}
WHOLE = ("none", "lzw", "deflate")
"""Where the whole pipelines are compared; OpenCV, which mmseg reads with, has no ZSTD."""


def run(repeats: int = 7) -> dict[str, Any]:
    """Measure."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    files = {name: _tiles(name, options) for name, options in COMPRESSIONS.items()}
    compared = {name: _compare(name, repeats) for name in WHOLE}
    least = min(compared, key=lambda name: compared[name]["ratio"])
    figures = {key: compared[least][key] for key in ("ours", "peer", "ratio")}
    return {
        "what": f"training tiles of 512 px over {RECIPE_EPOCHS} epochs, TIFFs by {least}, where the ratio is least, "
        f"one loader process, batches of {BATCH}; peer: mmseg",
        "unit": "images/s",
        **figures,
        "target": 3.0,
        "repeats": repeats,
        "compressions": compared,
        "decode_ms_per_tile": {name: _decoding(paths) for name, paths in files.items()},
        "machine": machine.describe(),
    }


def _tiles(name: str, options: dict[str, Any]) -> list[Path]:
    """The same sample tiles, written with a compression; drawn and staged once."""
    raw, folder = FOLDER / "drawn", FOLDER / name / "raw"
    images = folder / "train" / "images"
    if not (FOLDER / name / "dataset.json").exists():
        counts = ["--train", str(DRAWN), "--val", "1", "--test", "0", "--size", "512", "--compression", "none"]
        assert main(["make-sample-data", *counts, str(raw)]) == 0
        for source in sorted(path for path in raw.rglob("*") if path.is_file()):
            for copy in range(COPIES if source.parent.parent.name == "train" else 1):
                target = folder / source.relative_to(raw)
                target = target.with_stem(f"{target.stem}{copy or ''}")
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.suffix == ".tif":
                    tifffile.imwrite(target, tifffile.imread(source), photometric="rgb", metadata=None, **options)
                else:
                    target.write_bytes(source.read_bytes())
        where = ["--storage-uri", str(FOLDER / name / "store"), "--output-dir", str(FOLDER / name)]
        assert main(["stage-data", "--source", str(folder), *where]) == 0
    return sorted(images.glob("*.tif"))[::COPIES]


def _compare(name: str, repeats: int) -> dict[str, float]:
    """Images per second of one loader process, and its CPU time, in a first and in a later epoch."""
    dataset = StagedDataset.open(str(FOLDER / name / "dataset.json"), FOLDER / "cache")
    passes = ("first_epoch", "later_epochs", "peer")
    speeds: dict[str, list[float]] = {key: [] for key in passes}
    cpu_ms: dict[str, list[float]] = {key: [] for key in passes}
    for turn in range(repeats):
        tiles = _landseg_tiles(dataset, turn)
        work = {
            "first_epoch": (1, _ours(tiles, turn, 0, 1)),
            "later_epochs": (LATER_EPOCHS, _ours(tiles, turn, 1, 1 + LATER_EPOCHS)),
            "peer": (LATER_EPOCHS, _peer(FOLDER / name / "raw" / "train")),
        }
        for key, (epochs, batches) in work.items():
            before = _children_cpu_s()
            speeds[key].append(_speed(batches))
            cpu_ms[key].append((_children_cpu_s() - before) / (epochs * TILES) * 1e3)
        tiles.decoding.close()
        print(f"{name}: " + ", ".join(f"{key} {values[-1]:.0f}" for key, values in speeds.items()), file=sys.stderr)
    first, later, peer = (statistics.median(values) for values in speeds.values())
    ours = RECIPE_EPOCHS / (1 / first + (RECIPE_EPOCHS - 1) / later)
    return {
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "ratio": round(ours / peer, 3),
        "first_epoch": round(first, 1),
        "first_epoch_ratio": round(first / peer, 3),
        "later_epochs": round(later, 1),
        "later_epochs_ratio": round(later / peer, 3),
        **{f"{key}_worker_cpu_ms_per_image": round(statistics.median(values), 2) for key, values in cpu_ms.items()},
    }


def _children_cpu_s() -> float:
    """CPU seconds of the loader processes that have ended: other load on the machine does not count."""
    times = os.times()
    return times.children_user + times.children_system


def _decoding(paths: list[Path]) -> dict[str, float | None]:
    """Median CPU milliseconds of one tile from bytes to an array."""
    contents = [path.read_bytes() for path in paths]
    readable = cv2.haveImageReader(str(paths[0])) and cv2.imread(str(paths[0])) is not None
    return {
        "ours": _median_ms(lambda data: decode_image(data, "a tile"), contents),
        "peer": _median_ms(lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), contents)
        if readable
        else None,
    }


def _median_ms(work: Callable[[bytes], object], contents: list[bytes]) -> float:
    times = []
    for data in contents:
        start = time.thread_time()
        work(data)
        times.append(time.thread_time() - start)
    return round(statistics.median(times) * 1e3, 2)


def _speed(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Images per second behind the first batches, which include the process's start and what it read ahead."""
    count, start = 0, 0.0
    for number, (images, labels) in enumerate(batches):
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        if number == 3:
            start = time.perf_counter()
        elif number > 3:
            count += len(images)
    return count / (time.perf_counter() - start)


def _landseg_tiles(staged: StagedDataset, seed: int) -> TileBatches:
    """Training tiles of which none is kept decoded yet."""
    tiles = TileBatches(staged, ("train",), build_pipeline(RECIPE_STEPS, IMAGENET_MEAN, IMAGENET_STD), seed)
    tiles.decoding.keep(FOLDER, None, Team())
    return tiles


def _ours(tiles: TileBatches, seed: int, start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of some epochs, by a loader process of their own."""
    order = BatchOrder(len(tiles), BATCH, 1, 0, seed)
    span = start * order.iters_per_epoch, stop * order.iters_per_epoch
    for batch in training_batches(tiles, order, *span, num_workers=1, pin_memory=False):
        yield batch["img"], batch["gt_semantic_seg"].long()


def _peer(root: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    *steps, normalize, pad = (dict(step) for step in RECIPE_STEPS)
    pipeline: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations"},
        *steps,
        {**normalize, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "to_rgb": True},
        pad,
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": ["img", "gt_semantic_seg"]},
    ]
    dataset = CustomDataset(
        pipeline=pipeline,
        img_dir=str(root / "images"),
        ann_dir=str(root / "labels"),
        img_suffix=".tif",
        classes=[str(number) for number in range(9)],
        palette=[[0, 0, 0]] * 9,
    )
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        torch.utils.data.ConcatDataset([dataset] * LATER_EPOCHS),
        batch_size=BATCH,
        shuffle=True,
        num_workers=1,
        drop_last=True,
        collate_fn=functools.partial(collate, samples_per_gpu=BATCH),
        worker_init_fn=_one_thread,
    )
    for batch in loader:
        yield batch["img"].data[0], batch["gt_semantic_seg"].data[0]


def _one_thread(number: int) -> None:
    cv2.setNumThreads(0)
