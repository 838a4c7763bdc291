"""`landseg train` from the command line: outputs, reruns, refusals, checkpoints that cross to stock mmseg and back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_data import CLASSES, stage

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.errors import StorageError
from landseg.contracts.model import ModelInput, ModelManifest
from landseg.contracts.references import Reference
from landseg.dataset.reader import StagedDataset
from landseg.models.build import build_model, load_model, parse_config
from landseg.models.configs import load_config
from landseg.models.trained_model import open_model
from landseg.training.checkpoint.content import mmseg_checkpoint
from landseg.training.input.config_pipeline import normalisation
from landseg.training.rehearsal import predicting

# isort: split
import mmcv
import mmseg
from mmcv import Config
from mmcv.runner import save_checkpoint
from mmseg.apis import inference_segmentor, init_segmentor, train_segmentor
from mmseg.datasets import build_dataset


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
    assert model.input == ModelInput(bands=(1, 2, 3), num_file_bands=3, dtype="uint8", tile_size=(32, 32))
    checkpoint = open_model(str(folder / model.checkpoint.path), place.root)
    assert (checkpoint.input, checkpoint.mean, checkpoint.std) == (model.input, model.mean, model.std)
    assert storage.file_sha256(folder / model.checkpoint.path) == model.checkpoint.sha256
    assert json.loads((place.root / "out" / "metrics.json").read_text()) == model.metrics
    report = (place.root / "out" / "report.html").read_text()
    assert "swin_tiny" in report
    assert Reference.parse((place.root / "out" / "model.json").read_bytes(), "model").facts["name"] == "swin"
    assert "Environment" in report
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert events.Scalars("val/mIoU")[-1].value == pytest.approx(model.metrics["mIoU"])
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


def test_an_earlier_model_is_a_start_by_its_reference(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--epochs", "1", "--pretrained", str(place.root / "out" / "model.json"), "--lr", "1e-9"]
    assert place.train(*more, out="further") == 0
    assert "weights loaded" in capsys.readouterr().err
    earlier, _ = place.model()
    assert place.model("further")[0].parameters["pretrained_sha256"] == earlier.checkpoint.sha256
    assert main(["status", "--storage-uri", str(place.root / "store"), "--run-id", "r"]) == 0
    assert ", epochs 1, lr 1e-09, pretrained " in capsys.readouterr().out


def test_a_training_continues_from_its_model_with_more_epochs(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    same = ["--batch-per-gpu", "4", "--class-weights", "inverse-frequency"]
    more = ["--resume-from", str(place.root / "out" / "model.json")]
    assert place.train("--epochs", "3", *same, *more, "--seed", "1", out="longer") == 2
    assert "found another seed (leave them as they were, or start from its weights: --pr" in capsys.readouterr().err
    assert place.train(*more, "--pretrained", "none", out="longer") == 2
    assert "--resume-from: expected no --pretrained with it" in capsys.readouterr().err
    write = storage.put_bytes
    with monkeypatch.context() as patch:  # a prefix that can be read only

        def refuse(uri: str, data: bytes) -> None:
            if "/checkpoints/" in uri:
                raise StorageError(uri, "AccessDenied")
            write(uri, data)

        patch.setattr("landseg.storage.writing.put_bytes", refuse)
        patch.setattr("landseg.training.trainer.train", lambda *_: pytest.fail("the network was asked for"))
        assert place.train("--epochs", "3", *same, *more, out="longer") == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith("/checkpoints/writable: AccessDenied")
    assert place.train("--epochs", "3", *same, *more, out="longer") == 0
    assert "the learning rate follows the schedule over the new length" in capsys.readouterr().err
    (earlier, before), (model, folder) = place.model(), place.model("longer")
    assert model.parameters["resume_from"] == str(before / "manifest.json")
    assert model.parameters["resume_from_sha256"] == storage.file_sha256(before / "manifest.json")
    assert (earlier.parameters["iterations"], model.parameters["iterations"]) == (6, 9)
    old, new = (json.loads((one / "result.json").read_text()) for one in (before, folder))
    assert [evaluation["epoch"] for evaluation in new["evaluations"]] == [1, 2, 3]
    assert {name: values[:6] for name, values in new["curve"].items()} == old["curve"]
    rate, warmup = 2e-3 * (1 - 6 / 9), 1 - (1 - 6 / 50) * (1 - 1e-6)
    assert new["curve"]["lr"][6] == pytest.approx(rate * warmup)


def test_documents_that_cannot_be_written_are_found_before_training(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landseg.training.trainer.train", lambda *_: pytest.fail("the network was asked for"))
    monkeypatch.setattr("landseg.training.model_publishing.versions", lambda: {"torch": None})
    assert place.train("--seed", "7", out="refused") == 2
    assert "the model's manifest: cannot be written after this training: 1 val" in capsys.readouterr().err


def test_the_averages_that_were_scored_are_exported(place: Place) -> None:
    """mmcv's EMAHook: what `train` scored, `export-probs` predicts with, and `average-probs` finds again."""
    hook = {"custom_hooks": [{"type": "EMAHook", "momentum": 0.2}]}
    options = ["--epochs", "1", "--batch-per-gpu", "2", "--cfg-options", json.dumps(hook)]
    assert place.train(*options, name="ema", out="ema") == 0
    model, folder = place.model("ema")
    weights = torch.load(folder / model.checkpoint.path, weights_only=True)["state_dict"]
    kept = torch.load(folder / "checkpoints" / "iter_00000006.pth", weights_only=True)["state_dict"]
    assert not [name for name in weights if name.startswith("ema_")]
    name = "decode_head.conv_seg.weight"
    assert torch.equal(weights[name], kept[name])
    assert not torch.equal(weights[name], kept["ema_decode_head_conv_seg_weight"])  # the last ones
    common = ["--dataset", place.dataset, "--storage-uri", str(place.root / "store"), "--run-id", "r"]
    out = place.root / "ema"
    export = ["export-probs", "--name", "ema", "--model", str(out / "model.json"), "--splits", "val", "--tta", "none"]
    assert main([*export, *common, "--output-dir", str(out)]) == 0
    average = ["average-probs", "--probs", str(out / "probs.json")]
    assert main([*average, *common, "--output-dir", str(out / "average")]) == 0
    found = json.loads((out / "average" / "summary.json").read_text())["models"]["ema"]
    assert found["mIoU"] == pytest.approx(model.metrics["mIoU"], abs=2e-3)  # stored probabilities are rounded


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
    staged = StagedDataset.open(place.dataset, tmp_path)
    info = staged.manifest.splits["train"]
    assert model.mean == info.band_mean
    assert model.std == info.band_std
    config = load_config("resnest_tiny")
    mean, std = normalisation(config, staged, ("train", "val"))
    pixels = [
        staged.read_image(split, tile).reshape(-1, 5) for split in ("train", "val") for tile in staged.index(split)
    ]
    np.testing.assert_allclose(mean, np.concatenate(pixels).mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, np.concatenate(pixels).std(0), rtol=1e-12)
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
        (
            ["--cfg-options", "optimizer.momentum=0.9"],
            "'momentum' (--cfg-options optimizer._delete_=True with",
        ),
        (["--cfg-options", "model.decode_head.num_classes=7"], "num_classes"),
        (["--cfg-options", "optimizer_config.grad_clip=dict(max_norm=1)"], "grad_clip: expected a dictionary, found"),
        (["--seed", str(10**20)], f"--seed: expected at most {2**63 - 1}, found {10**20}"),
        (["--lr", "nan"], "--lr: expected a finite number, found nan"),
        (["--cfg-options", "lr_config.power=x"], "hook PolyLrUpdaterHook: expected a schedule for"),
        (
            [
                *("--cfg-options", "lr_config._delete_=True", "lr_config.policy=CosineRestart"),
                *("lr_config.periods=[2]", "lr_config.min_lr=0"),
            ],
            "hook CosineRestartLrUpdaterHook: expected a schedule for",
        ),
        (
            [
                *("--cfg-options", "optimizer.constructor=LearningRateDecayOptimizerConstructor"),
                *("optimizer.paramwise_cfg.num_layers=2", "optimizer.paramwise_cfg.decay_rate=0.9"),
            ],
            "optimizer: mmcv cannot build it: ",
        ),
        (
            ["--cfg-options", "model.decode_head.loss_decode.class_weight=[0,0,0]"],
            "class_weight: expected numbers of at least 0, not all 0, found [0, 0, 0]",
        ),
        (
            ["--cfg-options", "model.decode_head.loss_decode.class_weight=[1,2,-1]"],
            "class_weight: expected numbers of at least 0, not all 0, found [1, 2, -1]",
        ),
        (["--cfg-options", "data.train.pipeline.5.mean=127.5"], "train_pipeline: Normalize: expected a list of a mean"),
        (["--cfg-options", "model.backbone.init_cfg=5"], "init_cfg: mmseg cannot initialise the model: TypeError"),
        (["--cfg-options", "model.backbone.init_cfg=[5]"], "init_cfg: mmseg cannot initialise the model: Asserti"),
    ],
)
def test_refusals_are_one_line(
    place: Place, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.train(*options, out="refused") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("landseg train: error: ")
    assert message in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-per-gpu", "1"], "BatchNorm2d fails in training on a batch of 1x3x32x32"),
        (
            [
                "--cfg-options",
                "data.test.pipeline.1.transforms.4.type=Pad",
                "data.test.pipeline.1.transforms.4.size=(9,9)",
            ],
            "val tiles of 40x32 px: test_pipeline: Pad(size=(9, 9)) expects tiles of at most that size",
        ),
    ],
)
def test_what_would_fail_later_fails_before_the_first_batch(
    place: Place, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.train(*options, config="resnest_tiny", out="refused") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("landseg train: error: ")
    assert message in error


def test_a_model_that_export_could_not_load_is_not_trained(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_a_weight(*arguments: Any) -> dict[str, Any]:
        content = mmseg_checkpoint(*arguments)
        content["state_dict"].pop("decode_head.conv_seg.bias")
        return content

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "mmseg_checkpoint", without_a_weight)
        assert place.train("--seed", "4", out="refused") == 2
        expected = "export could not load the model that this would train: expected the weights of the config's model, "
        assert f"{expected}found 1 missing: decode_head.conv_seg.bias" in capsys.readouterr().err.splitlines()[-1]
        patch.undo()
        patch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
        assert place.train("--seed", "5", out="refused") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "expected room for a checkpoint, found" in error
        assert "No space left on device (give the stage a larger --scratch)" in error
        patch.undo()
        patch.setattr(predicting, "find_normalize", lambda *_: ((-900.0,) * 3, (1.0,) * 3))
        assert place.train("--seed", "6", "--epochs", "1", "--batch-per-gpu", "4", out="other") == 0
        assert "read back from its checkpoint, the model predicts otherwise" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config",
    [
        "erfnet_fcn_4x4_512x1024_160k_cityscapes",
        *(
            pytest.param(config, marks=pytest.mark.slow)
            for config in (
                "fast_scnn_lr0.12_8x4_160k_cityscapes",
                "segformer_mit-b0_512x512_160k_ade20k",
                "bisenetv2_fcn_4x4_1024x1024_160k_cityscapes",
                "upernet_convnext_tiny_fp16_512x512_160k_ade20k",
                "fcn_unet_s5-d16_64x64_40k_drive",
                "ocrnet_hr18s_512x1024_40k_cityscapes",
                "stdc1_512x1024_80k_cityscapes",
                "knet_s3_fcn_r50-d8_8x2_512x512_adamw_80k_ade20k",
                "cgnet_512x1024_60k_cityscapes",
            )
        ),
    ],
)
def test_stock_configs_train(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, with their own heads, optimizer, schedule and transforms; only the sizes are made small."""
    options = ["runner.max_iters=2", "evaluation.interval=100", "data.samples_per_gpu=2"]
    steps = [step["type"] for step in load_config(config).train_pipeline]
    sizes = {"Resize": "img_scale", "RandomCrop": "crop_size", "Pad": "size"}
    options += [f"data.train.pipeline.{steps.index(name)}.{key}=(64,64)" for name, key in sizes.items()]
    small = Place(tmp_path, train=4, val=0)
    assert small.train("--pretrained", "none", "--cfg-options", *options, config=config) == 0
    assert re.search(r"trains on the staged dataset's 3 classes, not on \w+Dataset's \d+", capsys.readouterr().err)
    model, folder = small.model()
    assert model.checkpoint.size_bytes > 0
    result = json.loads((folder / "result.json").read_text())
    assert result["curve"]["iteration"] == [1, 2]


def test_what_a_config_says_in_vain_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["evaluation.save_best=mDice", "evaluation.metric=[mIoU,mDice]", "resume_from=x.pth"]
    place = Place(tmp_path, train=4, val=0)
    assert place.train("--epochs", "1", "--batch-per-gpu", "4", "--cfg-options", *options) == 0
    said = capsys.readouterr().err
    for text in (
        "evaluation.save_best is not used: no labelled val",
        "evaluation.metric mDice is not used",
        "resume_from is not used",
    ):
        assert text in said


def test_checkpoints_cross_with_stock_train_segmentor(place: Place, tmp_path: Path) -> None:
    """A checkpoint that stock training wrote, with its optimizer and scores, predicts and is gone on from here."""
    model, _ = place.model()
    config = parse_config(model.config, "config")
    dataset = StagedDataset.open(place.dataset, tmp_path / "cache")
    write_stock_dataset(dataset, tmp_path / "stock")
    data = {
        "type": "CustomDataset",
        "classes": CLASSES,
        "img_dir": str(tmp_path / "stock" / "images"),
        "ann_dir": str(tmp_path / "stock" / "labels"),
        "img_suffix": ".png",
    }
    config.merge_from_dict(
        {
            "data.train": data,
            "data.val": {**data, "test_mode": True},
            "data.samples_per_gpu": 2,
            "data.workers_per_gpu": 0,
            "data.train_dataloader": {"persistent_workers": False},
            "data.val_dataloader": {"persistent_workers": False},
            "runner": {"type": "EpochBasedRunner", "max_epochs": 1},
            "evaluation": {"interval": 1, "metric": "mIoU", "save_best": "mIoU"},
            "work_dir": str(tmp_path / "work"),
            "gpu_ids": [0],
            "device": "cpu",
            "seed": 0,
            "log_level": "ERROR",
        }
    )
    segmentor = build_model(config, model.class_schema)
    meta = {"mmseg_version": mmseg.__version__, "config": config.pretty_text, "CLASSES": CLASSES, "PALETTE": None}
    train_segmentor(segmentor, [build_dataset(config.data.train)], config, validate=True, meta=meta)
    for name in ("epoch_1.pth", next(path.name for path in (tmp_path / "work").glob("best_mIoU_*.pth"))):
        stock = tmp_path / "work" / name
        status = main(
            [
                *("export-probs", "--model", str(stock), "--dataset", place.dataset, "--splits", "val"),
                *("--storage-uri", str(tmp_path / "store"), "--run-id", name, "--output-dir", str(tmp_path / "out")),
            ]
        )
        assert status == 0
    arguments = ["--epochs", "1", "--lr", "1e-9", "--cfg-options", f"load_from={stock}"]
    assert place.train(*arguments, out="crossed") == 0
    ours = place.load("crossed")
    for (name, value), start in zip(ours.named_parameters(), segmentor.parameters(), strict=True):
        torch.testing.assert_close(value, start, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def write_stock_dataset(dataset: StagedDataset, root: Path) -> None:
    """Tiles and labels as files, as mmseg's CustomDataset reads them."""
    for tile in dataset.tiles("train")[:4]:
        mmcv.imwrite(dataset.read_image("train", tile)[:, :, ::-1], str(root / "images" / f"{tile.id}.png"))
        mmcv.imwrite(dataset.read_label("train", tile), str(root / "labels" / f"{tile.id}.png"))
