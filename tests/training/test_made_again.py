"""What a finished training or export has lost is made again by the same command; equal trainings at once end alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from training_data import stage

from landseg.cli.main import main


def train_flags(root: Path, dataset: str, out: str) -> list[str]:
    recipe = ["--config=swin_tiny", "--pretrained=none", "--epochs=1", "--gpus=0", "--num-workers=0"]
    return ["train", "--name=swin", *recipe, f"--dataset={dataset}", *places(root, out)]


def places(root: Path, out: str) -> list[str]:
    return [f"--storage-uri={root}/runs-store", "--run-id=r", f"--output-dir={root}/{out}"]


def test_lost_weights_curves_and_probabilities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = stage(tmp_path)
    train = train_flags(tmp_path, dataset, "out")
    export = ["export-probs", f"--dataset={dataset}", f"--model={tmp_path}/out/model.json", "--splits=val"]
    export += places(tmp_path, "out")
    assert main(train) == 0 and main(export) == 0
    (model,) = (tmp_path / "runs-store/runs/r/train/swin").iterdir()
    (probs,) = (tmp_path / "runs-store/runs/r/export-probs/swin").iterdir()
    chunk = next(path for path in probs.rglob("c/*") if path.is_dir())
    chunk = next(path for path in chunk.rglob("*") if path.is_file())
    for lost, left, command, reference in (
        (model / "model.pth", None, train, "model.json"),
        (model / "result.json", None, train, "model.json"),
        (model / "result.json", b'{"curve": {"lr": [0.', train, "model.json"),
        (chunk, None, export, "probs.json"),
        (next(probs.rglob("zarr.json")), None, export, "probs.json"),
    ):
        before, pointer = lost.read_bytes(), (tmp_path / "out" / reference).read_bytes()
        lost.unlink()
        if left is not None:
            lost.write_bytes(left)
        capsys.readouterr()
        assert main(command) == 0
        assert f"{lost.name}: " in capsys.readouterr().err
        assert lost.exists()
        if lost.name != "result.json":
            assert lost.read_bytes() == before
            assert (tmp_path / "out" / reference).read_bytes() == pointer
        assert main(["verify", str(tmp_path / "out" / reference)]) == 0


def test_equal_trainings_at_once_publish_one_model(tmp_path: Path) -> None:
    dataset = stage(tmp_path)
    commands = [train_flags(tmp_path, dataset, f"out{number}") for number in range(2)]
    started = [
        subprocess.Popen([sys.executable, "-m", "landseg", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for flags in commands
    ]
    for process in started:
        error = process.communicate()[1]
        assert process.returncode == 0, error
    references = [(tmp_path / f"out{number}" / "model.json").read_bytes() for number in range(2)]
    assert references[0] == references[1]
    assert main(["verify", str(tmp_path / "out0" / "model.json")]) == 0
