"""Models fit the dataset or are refused; checkpoints load whole or not at all."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
import torch

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError, ContractError
from landseg.models.build import build_model, fit_config, load_model
from landseg.models.configs import load_config
from landseg.models.weights.checkpoint import read_checkpoint

STOCK = Path(mmcv.__file__).parents[1] / "mmseg" / ".mim" / "configs"


def schema(num_classes: int = 9, num_bands: int = 3) -> ClassSchema:
    return ClassSchema(
        classes=tuple(f"class{i}" for i in range(num_classes)),
        palette=tuple((i, i, i) for i in range(num_classes)),
        bands=tuple(range(1, num_bands + 1)),
    )


@pytest.mark.parametrize(("name", "millions"), [("swin", 121.3), ("resnest", 66.3)])
def test_parameter_counts_of_the_recipe(name: str, millions: float) -> None:
    # Of everything that is trained: backbone, decode head and auxiliary head.
    model = build_model(load_config(name), schema())
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("name", ["swin_tiny", "resnest_tiny"])
@pytest.mark.parametrize(("num_classes", "num_bands"), [(9, 3), (2, 4), (30, 1)])
def test_bundled_configs_follow_the_dataset(name: str, num_classes: int, num_bands: int) -> None:
    model = build_model(load_config(name), schema(num_classes, num_bands)).eval()
    with torch.no_grad():
        logits = model.encode_decode(torch.zeros(1, num_bands, 64, 64), None)  # type: ignore[operator]
    assert logits.shape == (1, num_classes, 64, 64)
    assert len(model.CLASSES) == num_classes  # type: ignore[arg-type]


def test_the_resolved_config_says_the_datasets_numbers() -> None:
    config = load_config("swin_tiny")
    fitted = fit_config(config, schema(4, 5))
    assert fitted.num_classes == fitted.model.decode_head.num_classes == fitted.model.auxiliary_head.num_classes == 4
    assert fitted.model.backbone.in_channels == 5
    assert config.num_classes == 9  # a copy was fitted
    assert fit_config(fitted, schema(4, 5)).pretty_text == fitted.pretty_text
    with pytest.raises(ConfigError, match="the config has 4 classes, the dataset has 9"):
        fit_config(fitted, schema(9, 5))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("pspnet_r18-d8_512x1024_80k_cityscapes", ["decode_head", "auxiliary_head"]),
        ("ocrnet_hr18s_512x1024_40k_cityscapes", ["decode_head.0", "decode_head.1"]),
        (
            "knet_s3_pspnet_r50-d8_8x2_512x512_adamw_80k_ade20k",
            [*(f"decode_head.kernel_update_head.{i}" for i in range(3)), "decode_head.kernel_generate_head"],
        ),
    ],
)
def test_a_stock_config_takes_the_datasets_classes(name: str, parts: list[str]) -> None:
    fitted = fit_config(load_config(name), schema())
    for part in parts:
        node: Any = fitted.model
        for key in part.split("."):
            node = node[int(key)] if key.isdigit() else node[key]
        assert node.num_classes == 9
    with pytest.raises(ConfigError, match="the config has 9 classes, the dataset has 4") as info:
        fit_config(fitted, schema(4))  # a trained model's number is no example's
    assert all(f"model.{part}.num_classes=4" in info.value.hint.split() for part in parts)


def test_out_channels_of_features_stay() -> None:
    config = load_config("knet_s3_fcn_r50-d8_8x2_512x512_adamw_80k_ade20k", {"model.auxiliary_head.out_channels": 150})
    fitted = fit_config(config, schema())
    assert [head.out_channels for head in fitted.model.decode_head.kernel_update_head] == [512] * 3
    assert fitted.model.auxiliary_head.out_channels == 9


def test_a_head_of_other_classes_keeps_its_own() -> None:
    fitted = fit_config(load_config("stdc1_512x1024_80k_cityscapes"), schema())
    assert [head.num_classes for head in fitted.model.auxiliary_head] == [9, 9, 2]


def test_a_number_of_classes_that_was_asked_for_is_not_replaced() -> None:
    with pytest.raises(ConfigError, match="the config has 5 classes, the dataset has 9"):
        fit_config(load_config("swin_tiny", {"model.decode_head.num_classes": 5}), schema())


def test_input_bands_that_were_asked_for_are_not_replaced() -> None:
    with pytest.raises(ConfigError, match="the config has 3 input bands, the dataset has 4"):
        fit_config(load_config("swin_tiny", {"model.backbone.in_channels": 3}), schema(9, 4))


def test_a_model_that_mmseg_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"mmseg cannot build it: .*Swim.*custom_imports lists its module"):
        build_model(load_config("swin_tiny", {"model.backbone.type": "SwimTransformer"}), schema())
    with pytest.raises(ConfigError, match=r"of a package that is not imported \(as mmdet\.ResNet is\)"):
        build_model(load_config("swin_tiny", {"model.backbone.type": "mmdet.ResNet"}), schema())
    with pytest.raises(
        ConfigError, match=r"unexpected keyword argument 'num_class' \(it may be misspelt, or come from"
    ):
        build_model(load_config("swin_tiny", {"model.decode_head.num_class": 9}), schema())


def test_sync_bn_becomes_bn_without_a_gpu_group() -> None:
    kinds = collections.Counter(type(m) for m in build_model(load_config("resnest_tiny"), schema()).modules())
    assert kinds[torch.nn.SyncBatchNorm] == 0
    assert kinds[torch.nn.BatchNorm2d] > 30


def test_a_checkpoint_comes_back_as_the_same_model(tmp_path: Path) -> None:
    model = build_model(load_config("swin_tiny"), schema()).eval()
    # As mmcv's hooks write it: numpy scalars in meta, and weights of an unwrapped, compiled DistributedDataParallel.
    meta = {"epoch": 1, "best_score": np.float64(0.5), "CLASSES": schema().classes}
    # The auxiliary head, which predicting does not need, is left out of some.
    state = {f"module._orig_mod.{key}": value for key, value in model.state_dict().items() if "auxiliary" not in key}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {}}, tmp_path / "model.pth")
    loaded = load_model(load_config("swin_tiny"), schema(), tmp_path / "model.pth")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = (m.encode_decode(image, None) for m in (model, loaded))  # type: ignore[operator]
    assert not loaded.training
    assert torch.equal(expected, found)
    assert read_checkpoint(tmp_path / "model.pth")["meta"]["best_score"] == 0.5


@pytest.mark.parametrize("prefix", ["model.", "net.segmentor."])
def test_what_wrappers_and_converters_do_to_names_is_undone(prefix: str, tmp_path: Path) -> None:
    """A part that was compiled alone, a module around the whole, and no counts of the batches seen."""
    model = build_model(load_config("resnest_tiny"), schema()).eval()
    state = {
        f"{prefix}{key}".replace("backbone.", "backbone._orig_mod."): value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    loaded = load_model(load_config("resnest_tiny"), schema(), tmp_path / "model.pth")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = (m.encode_decode(image, None) for m in (model, loaded))  # type: ignore[operator]
    assert torch.equal(expected, found)


def test_weights_of_another_architecture_are_refused_whole(tmp_path: Path) -> None:
    other = build_model(load_config("resnest_tiny"), schema())
    torch.save({"state_dict": other.state_dict()}, tmp_path / "model.pth")
    with pytest.raises(ContractError, match=r"\d+ missing: .*backbone.* \d+ unexpected: "):
        load_model(load_config("swin_tiny"), schema(), tmp_path / "model.pth")


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "meta": Evil(tmp_path / "touched")}, tmp_path / "zip.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil(tmp_path / "touched")))
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "values.pth")
    for name in ("zip", "old", "text", "empty", "list", "values"):
        with pytest.raises(ContractError, match="expected a checkpoint"):
            read_checkpoint(tmp_path / f"{name}.pth")
    assert not (tmp_path / "touched").exists()
