"""Two checkpoints to label maps: export-probs and average-probs against a plain mmsegmentation program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
import torch
import yaml
from PIL import Image

from landseg.cli.main import main
from landseg.contracts.dataset import ClassSchema
from landseg.models.build import build_model, fit_config
from landseg.models.configs import load_config

CLASSES = ("field", "road", "water", "desert")
SIZES = ((64, 64), (64, 64), (64, 64), (40, 72), (136, 48), (100, 75))
PROGRAM = Path(__file__).parents[1] / "support" / "plain_program.py"


def write_raw(root: Path) -> Path:
    rng = np.random.default_rng(0)
    images = root / "test" / "images"
    images.mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        tifffile.imwrite(images / f"{number}.tif", pixels, metadata=None)
    (root / "dataset.yaml").write_text(yaml.safe_dump({"version": 1, "name": "smooth", "classes": list(CLASSES)}))
    return root


def write_checkpoint(path: Path, name: str, seed: int) -> Path:
    """Weights far from their start, so that labels vary, in a checkpoint as mmsegmentation writes it."""
    torch.manual_seed(seed)
    schema = ClassSchema(classes=CLASSES, palette=((0, 0, 0),) * len(CLASSES), bands=(1, 2, 3))
    config = fit_config(load_config(name), schema)
    model = build_model(config, schema)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer), alpha=0.5)
    meta = {"config": config.pretty_text, "CLASSES": CLASSES, "PALETTE": [[0, 0, 0]] * len(CLASSES)}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)
    return path


def test_label_maps_equal_the_plain_programs(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw")
    checkpoints = [
        write_checkpoint(tmp_path / f"{name}.pth", f"{name}_tiny", i) for i, name in enumerate(("swin", "resnest"))
    ]
    where = ["--storage-uri", str(tmp_path / "store"), "--output-dir", str(tmp_path)]
    assert main(["stage-data", "--source", str(raw), *where]) == 0
    common = ["--dataset", str(tmp_path / "dataset.json"), "--run-id", "r", "--storage-uri", str(tmp_path / "store")]
    refs = []
    for checkpoint in checkpoints:
        out = tmp_path / checkpoint.stem
        flags = ["--model", str(checkpoint), "--splits", "test", "--dtype", "float32", "--precision", "fp32"]
        for share in ("2/2", "1/2"):
            assert main(["export-probs", *flags, "--worker", share, "--output-dir", str(out), *common]) == 0
        refs.append(str(out / "probs.json"))
    assert main(["average-probs", "--probs", ",".join(refs), "--png-dir", str(tmp_path / "ours"), *common]) == 0

    program = [sys.executable, str(PROGRAM), str(raw / "test" / "images"), str(tmp_path / "plain")]
    subprocess.run([*program, *map(str, checkpoints)], check=True, capture_output=True)

    plain = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "plain").iterdir()}
    assert sorted(plain) == sorted(path.name for path in (tmp_path / "ours" / "test").iterdir())
    for name, expected in plain.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "ours" / "test" / name)), expected)
    assert len(np.unique(np.concatenate([labels.ravel() for labels in plain.values()]))) > 1
