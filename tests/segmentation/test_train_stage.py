"""`landseg train` from the command line: outputs, reruns, refusals, checkpoints that cross to stock mmseg and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_data import CLASSES, stage

from landseg import storage
from landseg.cli import main
from landseg.data.dataset import StagedDataset
from landseg.documents import Reference
from landseg.segmentation.manifest import ModelManifest
from landseg.segmentation.models import load_model, parse_config

# isort: split
import mmseg
from mmcv import Config
from mmcv.runner import save_checkpoint
from mmseg.apis import inference_segmentor, init_segmentor

AUXILIARY = [f"auxiliary_head.{i}" for i in range(4)]


class Place:
    """A storage folder with a staged dataset in it."""

    def __init__(self, root: Path, **options: int) -> None:
        self.root = root
        self.dataset = stage(root, **options)

    def train(self, *more: str, name: str = "swin", config: str = "swin_tiny", out: str = "out") -> int:
        return main(
            [
                *("train", "--name", name, "--config", config, "--dataset", self.dataset, "--run-id", "r"),
                *("--storage-uri", str(self.root / "store"), "--output-dir", str(self.root / out)),
                *("--num-workers", "0", "--gpus", "0", *more),
            ]
        )

    def load(self, out: str = "out") -> torch.nn.Module:
        model, folder = self.model(out)
        return load_model(parse_config(model.config, "config"), model.class_schema, folder / model.checkpoint.path)

    def model(self, out: str = "out") -> tuple[ModelManifest, Path]:
        reference = str(self.root / out / "model.json")
        loaded = storage.read_document(ModelManifest, reference)
        return loaded.document, Path(storage.parent(loaded.uri))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A dataset and a model trained on it for two epochs."""
    place = Place(tmp_path_factory.mktemp("train"))
    assert place.train("--epochs", "2", "--batch-per-gpu", "4", "--class-weights", "inverse-frequency") == 0
    return place


def test_outputs(place: Place) -> None:
    model, folder = place.model()
    assert set(model.metrics) == {"mIoU", "mAcc", "aAcc", *(f"IoU.{name}" for name in CLASSES)}
    assert model.parameters["seed"] == 0
    assert model.versions["torch"] == torch.__version__
    assert storage.file_sha256(folder / model.checkpoint.path) == model.checkpoint.sha256
    assert json.loads((place.root / "out" / "metrics.json").read_text()) == model.metrics
    report = (place.root / "out" / "report.html").read_text()
    assert "swin_tiny" in report
    assert Reference.parse((place.root / "out" / "model.json").read_bytes(), "model").facts["name"] == "swin"
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert sorted(path.name for path in (folder / "checkpoints").glob("*.pth")) == [
        "iter_00000003.pth",
        "iter_00000006.pth",
    ]
    weights = Config.fromstring(model.config, ".py").model.decode_head.loss_decode.class_weight
    assert len(weights) == len(CLASSES)
    assert max(weights) < 3


def test_a_rerun_does_no_work_but_writes_its_outputs(place: Place) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place.root / "store").rglob("*") if path.is_file()}
    options = ["--epochs", "2", "--batch-per-gpu", "4", "--class-weights", "inverse-frequency"]
    assert place.train(*options, out="again") == 0
    assert {path: path.stat().st_mtime_ns for path in (place.root / "store").rglob("*") if path.is_file()} == before
    for name in ("model.json", "metrics.json", "report.html"):
        assert (place.root / "again" / name).read_bytes() == (place.root / "out" / name).read_bytes()


def test_our_checkpoint_loads_in_stock_mmseg(place: Place) -> None:
    model, folder = place.model()
    (place.root / "config.py").write_text(model.config)
    stock = init_segmentor(str(place.root / "config.py"), str(folder / model.checkpoint.path), device="cpu")
    assert list(stock.CLASSES) == CLASSES
    ours = place.load()
    for (name, value), other in zip(ours.state_dict().items(), stock.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    labels = inference_segmentor(stock, np.zeros((32, 32, 3), np.uint8))[0]
    assert labels.shape == (32, 32)


def test_a_stock_checkpoint_is_a_start(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = place.model()
    (place.root / "config.py").write_text(model.config)
    stock = init_segmentor(str(place.root / "config.py"), str(folder / model.checkpoint.path), device="cpu")
    path = place.root / "stock.pth"
    save_checkpoint(stock, str(path), meta={"CLASSES": CLASSES})
    assert place.train("--epochs", "1", "--pretrained", str(path), "--lr", "1e-9", out="continued") == 0
    assert "weights loaded" in capsys.readouterr().err
    continued, _ = place.model("continued")
    assert continued.parameters["pretrained"] == str(path)
    ours = place.load("continued")
    for (name, value), start in zip(ours.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(value, start, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_training_on_val_leaves_it_unscored(tmp_path: Path) -> None:
    place = Place(tmp_path, train=2, val=2, step=0)
    assert place.train("--epochs", "1", "--train-splits", "train,val", "--batch-per-gpu", "4") == 0
    model, _ = place.model()
    assert model.metrics == {}
    assert model.parameters["train_splits"] == ["train", "val"]
    assert "trained on val" in (tmp_path / "out" / "report.html").read_text()


def test_more_than_three_bands(tmp_path: Path) -> None:
    place = Place(tmp_path, train=4, bands=5)
    assert place.train("--epochs", "1", "--batch-per-gpu", "4", config="resnest_tiny") == 0
    model, _ = place.model()
    info = StagedDataset.open(place.dataset, tmp_path).manifest.splits["train"]
    assert model.mean == info.band_mean
    assert model.std == info.band_std
    assert place.load().backbone.stem[0].in_channels == 5  # type: ignore[union-attr, index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "2"], "--gpus: expected 2 visible GPUs, found 0"),
        (["--epochs", "-1"], "--epochs: expected at least 0, found -1"),
        (["--train-splits", "train,test"], "--train-splits: expected labelled splits (train, val), found 'test'"),
        (["--config", "swim"], "unknown config name 'swim' (did you mean swin"),
        (["--batch-per-gpu", "99"], "expected at most 12 tiles in a batch"),
        (["--cfg-options", "runner.type=X", "runner.max_epochs=0"], "runner: expected max_epochs or max_iters"),
        (["--cfg-options", "optimizer_config.type=MyHook"], "optimizer_config.type: expected one of"),
        (["--cfg-options", "lr_config.policy=nonsense"], "mmcv cannot build its hooks"),
        (["--cfg-options", "model.decode_head.num_classes=7"], "num_classes"),
    ],
)
def test_refusals_are_one_line(
    place: Place, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.train(*options, out="refused") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("landseg train: error: ")
    assert message in error


CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs"


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ("erfnet/erfnet_fcn_4x4_512x1024_160k_cityscapes.py", ["decode_head"]),
        *(
            pytest.param(config, heads, marks=pytest.mark.slow)
            for config, heads in [
                ("fastscnn/fast_scnn_lr0.12_8x4_160k_cityscapes.py", ["decode_head", *AUXILIARY[:2]]),
                ("segformer/segformer_mit-b0_512x512_160k_ade20k.py", ["decode_head"]),
                ("bisenetv2/bisenetv2_fcn_4x4_1024x1024_160k_cityscapes.py", ["decode_head", *AUXILIARY]),
                ("convnext/upernet_convnext_tiny_fp16_512x512_160k_ade20k.py", ["decode_head", "auxiliary_head"]),
                ("unet/fcn_unet_s5-d16_64x64_40k_drive.py", ["decode_head", "auxiliary_head"]),
            ]
        ),
    ],
)
def test_stock_configs_train(place: Place, config: str, heads: list[str], tmp_path: Path) -> None:
    """Each with its own optimizer, schedule and transforms; only the sizes are made small."""
    options = ["runner.max_iters=2", "evaluation.interval=100", "data.samples_per_gpu=2"]
    options += [f"model.{head}.num_classes={len(CLASSES)}" for head in heads]
    steps = [step["type"] for step in Config.fromfile(str(CONFIGS / config)).train_pipeline]
    sizes = {"Resize": "img_scale", "RandomCrop": "crop_size", "Pad": "size"}
    options += [f"data.train.pipeline.{steps.index(name)}.{key}=(64,64)" for name, key in sizes.items()]
    arguments = ["--config", str(CONFIGS / config), "--pretrained", "none", "--cfg-options", *options]
    small = Place(tmp_path, train=4, val=0)
    assert small.train(*arguments) == 0
    model, folder = small.model()
    assert model.checkpoint.size_bytes > 0
    result = json.loads((folder / "result.json").read_text())
    assert result["curve"]["iteration"] == [1, 2]
