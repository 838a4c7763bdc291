"""A scratch volume of a third of the dataset is enough: a real one, which can be full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from landseg.cli.main import main

NUM_TILES, SIZE_PX, VOLUME_MB = 96, 1024, 100


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={VOLUME_MB}m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a volume")
    yield folder
    subprocess.run(["umount", folder], check=True)


def draw(root: Path) -> None:
    """Noise, which nothing compresses."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / "val" / name).mkdir(parents=True)
    (root / "dataset.yaml").write_text(f"version: 1\nname: noise\nclasses: [a, b, c]\nscenes: {{max_px: {SIZE_PX}}}\n")
    label = np.kron(rng.integers(0, 3, (8, 8), np.uint8), np.ones((SIZE_PX // 8, SIZE_PX // 8), np.uint8))
    for number in range(NUM_TILES):
        image = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
        tifffile.imwrite(root / "val" / "images" / f"{number:03d}.tif", image, photometric="rgb")
        tifffile.imwrite(root / "val" / "labels" / f"{number:03d}.tif", label, compression="zlib")


@pytest.mark.slow
def test_no_stage_fills_a_volume_smaller_than_the_dataset(s3, tmp_path, scratch):
    draw(tmp_path / "raw")
    out = tmp_path / "out"
    where = ["--storage-uri", s3.uri, "--scratch", str(scratch), "--output-dir", str(out)]
    stage = ["stage-data", "--source", str(tmp_path / "raw"), "--shard-bytes", "20000000"]
    assert main([*stage, *where]) == 0
    dataset, uri = str(out / "dataset.json"), f"{s3.uri}/runs/r/export-probs/one/0"
    export = ["-m", "benchmarks.stand_in_export", dataset, uri, "one", "1/1", str(scratch)]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"}
    subprocess.run([sys.executable, *export], check=True, env=environment, cwd=root)
    for path in scratch.iterdir():
        path.unlink()
    average = ["average-probs", "--dataset", dataset, "--probs", f"{uri}/manifest.json", "--run-id", "r"]
    assert main([*average, "--num-workers", "8", "--layers", "entropy", *where]) == 0
    assert main(["verify", f"{s3.uri}/runs"]) == 0
    assert not any(scratch.iterdir())
