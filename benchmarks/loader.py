"""The training loader against mmseg's: images per second of one process, on the same 512-px tiles and transforms.

Both run in a DataLoader with one process and batches of 8, in turns; the medians of the turns are compared.
mmseg reads files (`CustomDataset` with its own pipeline classes), landseg reads shards. Uncompressed TIFFs make the
figure, as decoding is libraries' work; what each compression costs, and the figure with it, is recorded as well.
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
from landseg.training.input.batches import BatchOrder, TileBatches
from landseg.training.input.compiling import build_pipeline
from landseg.training.input.config_pipeline import IMAGENET_MEAN, IMAGENET_STD, RECIPE_STEPS
from landseg.training.input.loader import training_batches

# isort: split
from mmcv.parallel import collate
from mmseg.datasets import CustomDataset

FOLDER = Path("build") / "bench" / "loader"
TILES, BATCH, EPOCHS = 48, 8, 4
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
    return {
        "what": f"training tiles of 512 px, uncompressed TIFF, one loader process, batches of {BATCH}; peer: mmseg",
        "unit": "images/s",
        **compared["none"],
        "target": 2.0,
        "repeats": repeats,
        "other_compressions": {name: figures for name, figures in compared.items() if name != "none"},
        "decode_ms_per_tile": {name: _decoding(paths) for name, paths in files.items()},
        "machine": machine.describe(),
    }


def _tiles(name: str, options: dict[str, Any]) -> list[Path]:
    """The same sample tiles, written with a compression; drawn once."""
    raw = FOLDER / "drawn"
    counts = ["--train", str(TILES), "--val", "1", "--test", "0", "--size", "512", "--compression", "none"]
    assert main(["make-sample-data", *counts, str(raw)]) == 0
    folder = FOLDER / name / "raw"
    for source in sorted(path for path in raw.rglob("*") if path.is_file()):
        target = folder / source.relative_to(raw)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".tif":
            tifffile.imwrite(target, tifffile.imread(source), photometric="rgb", metadata=None, **options)
        else:
            target.write_bytes(source.read_bytes())
    where = ["--source", str(folder), "--storage-uri", str(FOLDER / name / "store"), "--output-dir", str(FOLDER / name)]
    assert main(["stage-data", *where]) == 0
    return sorted((folder / "train" / "images").glob("*.tif"))


def _compare(name: str, repeats: int) -> dict[str, float]:
    dataset = StagedDataset.open(str(FOLDER / name / "dataset.json"), FOLDER / "cache")
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    cpu_ms: dict[str, list[float]] = {"ours": [], "peer": []}
    for turn in range(repeats):
        for who, batches in (("ours", _ours(dataset, turn)), ("peer", _peer(FOLDER / name / "raw" / "train"))):
            before = _children_cpu_s()
            speeds[who].append(_speed(batches))
            cpu_ms[who].append((_children_cpu_s() - before) / (EPOCHS * TILES) * 1e3)
        print(f"{name}: " + ", ".join(f"{key} {values[-1]:.0f}" for key, values in speeds.items()), file=sys.stderr)
    ours, peer = (statistics.median(values) for values in speeds.values())
    return {
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "ratio": round(ours / peer, 3),
        **{f"{who}_worker_cpu_ms_per_image": round(statistics.median(values), 2) for who, values in cpu_ms.items()},
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


def _ours(staged: StagedDataset, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    steps = RECIPE_STEPS
    pipeline = build_pipeline(steps, IMAGENET_MEAN, IMAGENET_STD)
    dataset = TileBatches(staged, ("train",), pipeline, seed)
    schedule = BatchOrder(len(dataset), BATCH, 1, 0, seed)
    stop = EPOCHS * schedule.iters_per_epoch
    for batch in training_batches(dataset, schedule, 0, stop, num_workers=1, pin_memory=False):
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
        torch.utils.data.ConcatDataset([dataset] * EPOCHS),
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
