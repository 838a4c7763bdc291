"""average-probs against numpy: tiles/s and peak memory, 2 models x 9 classes x 512 px, label maps written as PNGs.

The peer is the program people write: float32 `.npy` files, a mean, an argmax, Pillow. It runs in a separate process,
its files in the page cache. Ours is the whole command, in a process of its own; its rate is that of the tiles beyond
the first fifty, so that neither side's start counts.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from benchmarks import machine
from benchmarks.fields import made_up_probs, made_up_spec
from landseg.dataset.reader import StagedDataset
from landseg.probabilities.writer import ProbsWriter
from landseg.sample.covers import CLASSES
from landseg.sample.tiles import PALETTE

SIZE_PX = 512
FEW, MANY = 50, 500
NUM_FIELDS = 8
MODELS = ("resnest", "swin")

_OURS = """
import re, sys, time
from pathlib import Path
from landseg.cli.main import main
status = main(sys.argv[1:])
print(time.process_time())
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""
_PEER = """
import sys, time
from pathlib import Path
import numpy as np
from PIL import Image
folder, palette = Path(sys.argv[1]), eval(sys.argv[2])
start, cpu = time.perf_counter(), time.process_time()
tiles = sorted(path.name for path in (folder / "swin").iterdir())
for name in tiles:
    mean = (np.load(folder / "swin" / name) + np.load(folder / "resnest" / name)) / 2
    image = Image.fromarray(mean.argmax(axis=0).astype(np.uint8))
    image.putpalette(palette)
    image.save(folder / "png" / name.replace("npy", "png"))
print(len(tiles) / (time.perf_counter() - start))
print((time.process_time() - cpu) / len(tiles))
"""


def run(repeats: int = 3) -> dict[str, Any]:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="landseg-bench-") as folder:
        root = Path(folder)
        fields = {model: [made_up_probs(10 * i + n) for i in range(NUM_FIELDS)] for n, model in enumerate(MODELS)}
        flags = {count: _stores(root / str(count), count, fields) for count in (FEW, MANY)}
        _npy_files(root / "peer", fields)
        ours: list[tuple[float, float]] = []
        peers: list[tuple[float, float]] = []
        few: list[tuple[float, float, float]] = []
        many: list[tuple[float, float, float]] = []
        for repeat in range(repeats):
            few.append(_command(root, f"few{repeat}", flags[FEW]))
            many.append(_command(root, f"many{repeat}", flags[MANY]))
            more = MANY - FEW
            ours.append((more / (many[-1][0] - few[-1][0]), (many[-1][2] - few[-1][2]) / more))
            peers.append(_peer(root / "peer"))
        rate, peer_rate = _median(ours, 0), _median(peers, 0)
        return {
            "what": f"averaging {len(MODELS)} models x 9 classes x {SIZE_PX} px into PNGs; peer: numpy, float32 .npy",
            "ours": round(rate, 2),
            "peer": round(peer_rate, 2),
            "ratio": round(rate / peer_rate, 2),
            "unit": "tiles/s",
            "target": 3,
            "cpu_ms_per_tile": {"ours": round(1e3 * _median(ours, 1), 2), "peer": round(1e3 * _median(peers, 1), 2)},
            "whole_command_s": {FEW: round(_median(few, 0), 1), MANY: round(_median(many, 0), 1)},
            "peak_memory_mib": {FEW: round(_median(few, 1)), MANY: round(_median(many, 1))},
            "peak_memory_ratio": round(_median(many, 1) / _median(few, 1), 3),
            "peak_memory_ratio_target": 1.1,
            "repeats": repeats,
            "load_average": os.getloadavg()[0],
            "machine": machine.describe(),
        }


def _median(runs: Sequence[tuple[float, ...]], column: int) -> float:
    return statistics.median(run[column] for run in runs)


def _stores(root: Path, count: int, fields: dict[str, list[Any]]) -> list[str]:
    """Stage so many blank tiles and write both models' probabilities; returns the command's flags."""
    _blank_dataset(root / "raw", count)
    common = ["--storage-uri", str(root), "--output-dir", str(root)]
    stage = [sys.executable, "-m", "landseg", "stage-data", "--source", str(root / "raw"), *common]
    subprocess.run(stage, check=True, capture_output=True)
    dataset = StagedDataset.open(str(root / "dataset.json"), root / "cache")
    flags = ["--dataset", dataset.uri]
    for model in MODELS:
        spec = made_up_spec(dataset, model)
        writer = ProbsWriter(str(root / model), spec, {"test": dataset.tiles("test")})
        for plan in writer.pending():
            builder = writer.shard(plan)
            ids = [tile.id for tile in plan.tiles]
            with ThreadPoolExecutor() as pool:
                list(pool.map(builder.add, ids, [fields[model][int(id) % NUM_FIELDS] for id in ids]))
            builder.close()
        manifest = writer.publish()
        assert manifest is not None
        flags += ["--probs", manifest.uri]
    return flags


def _blank_dataset(root: Path, count: int) -> None:
    images = root / "test" / "images"
    images.mkdir(parents=True)
    for number in range(count):
        blank = np.full((SIZE_PX, SIZE_PX, 3), number % 251, np.uint8)
        tifffile.imwrite(images / f"{number:05d}.tif", blank, photometric="rgb", compression="deflate")
    colours = [list(colour) for colour in PALETTE]
    (root / "dataset.yaml").write_text(f"version: 1\nname: blank\nclasses: {list(CLASSES)}\npalette: {colours}\n")


def _npy_files(root: Path, fields: dict[str, list[Any]]) -> None:
    (root / "png").mkdir(parents=True)
    for model, probs in fields.items():
        (root / model).mkdir()
        for number in range(FEW):
            np.save(root / model / f"{number:05d}.npy", probs[number % NUM_FIELDS])


def _peer(root: Path) -> tuple[float, float]:
    """Returns tiles/s, and CPU seconds per tile."""
    palette = [channel for colour in PALETTE for channel in colour]
    command = [sys.executable, "-c", _PEER, str(root), repr(palette)]
    rate, cpu_s = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(rate), float(cpu_s)


def _command(root: Path, run_id: str, flags: list[str]) -> tuple[float, float, float]:
    """Run the whole command; returns seconds, peak memory in MiB and CPU seconds."""
    command = [sys.executable, "-c", _OURS, "average-probs", *flags, "--storage-uri", str(root / "out")]
    start = time.perf_counter()
    done = subprocess.run([*command, "--run-id", run_id], check=True, capture_output=True, text=True)
    *_, cpu_s, memory_kib = done.stdout.split()
    return time.perf_counter() - start, int(memory_kib) / 1024, float(cpu_s)
