"""landseg predict takes as much memory for a large scene as for a small one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_models
import rasterio
from random_models import write_model
from rasterio.transform import from_origin
from rasterio.windows import Window
from raw_tiles import CLASSES, write_raw

from benchmarks.processes import descendants
from landseg.cli.main import main
from landseg.dataset.reader import StagedDataset
from landseg.models.model_input import input_of

SMALL, LARGE = 1000, 5000


def write_scene(path: Path, side: int) -> None:
    """A scene that does not compress to nothing, written a row of blocks at a time."""
    block = np.random.default_rng(0).integers(0, 16, (3, 512, side)).astype(np.uint8) * 16
    profile: dict[str, Any] = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=from_origin(4e5, 5e6, 10, 10)) as file:
        for y in range(0, side, 512):
            height = min(512, side - y)
            file.write(np.roll(block, y // 7, axis=2)[:, :height], window=Window(0, y, side, height))


def memory_bytes(pid: int) -> int:
    """Memory of a process and of those it started, without what the system can read from files again."""
    total = 0
    for one in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError):  # it has ended
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) << 10
    return total


def peak_of_predicting(model: str, scene: Path, maps: Path) -> int:
    command = [sys.executable, "-m", "landseg", "predict", "--model", model, str(scene), "--output-dir", str(maps)]
    command += ["--tta", "none", "--precision", "fp32", "--num-workers", "1", "--scratch", str(scene.parent)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_bytes(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_the_area(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = random_models.load_config

    def tiny(name: str) -> Any:
        config = load(name)
        config.model.backbone.update(embed_dims=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
        config.model.decode_head.update(in_channels=[8, 16], channels=8)
        config.model.auxiliary_head.update(in_channels=16, channels=8)
        return config

    monkeypatch.setattr(random_models, "load_config", tiny)
    write_raw(tmp_path / "raw", train=1, val=0, test=0, size=512)
    store = tmp_path / "store"
    staging = ["--storage-uri", str(store), "--output-dir", str(tmp_path / "staged"), "--num-workers", "1"]
    assert main(["stage-data", "--source", str(tmp_path / "raw"), *staging]) == 0
    dataset = str(tmp_path / "staged/dataset.json")
    model = write_model(store, dataset, images=input_of(StagedDataset.open(dataset, tmp_path).manifest, (512, 512)))
    peaks = []
    for side in (SMALL, LARGE):
        scene = tmp_path / f"{side}.tif"
        write_scene(scene, side)
        peaks.append(peak_of_predicting(model, scene, tmp_path / f"maps-{side}"))
    probabilities = LARGE * LARGE * len(CLASSES) * 4
    assert peaks[1] - peaks[0] < probabilities / 2, [peak >> 20 for peak in peaks]
