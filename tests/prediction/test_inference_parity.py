"""The predictor against a plain mmsegmentation program: stock pipeline, stock model.inference, one view at a time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError
from landseg.contracts.probabilities import VIEWS
from landseg.models.build import build_model
from landseg.models.channels_last import SplitAttention
from landseg.models.configs import load_config
from landseg.models.preprocessing import tile_scales
from landseg.prediction import loading
from landseg.prediction.device import resolve_precision
from landseg.prediction.predictor import Predictor

from mmseg.datasets.pipelines import Compose  # isort: skip

NORM = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
CPU = torch.device("cpu")
SCHEMA = ClassSchema(classes=tuple("abcdefghi"), palette=tuple((i, i, i) for i in range(9)), bands=(1, 2, 3))


def trained(name: str, **options: Any) -> tuple[Any, torch.nn.Module]:
    """A model with weights far from their start, so that probabilities are neither flat nor tied."""
    torch.manual_seed(0)
    config = load_config(name, options)
    model = build_model(config, SCHEMA).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer), alpha=0.5)
    return config, model


def plain_mmseg(config: Any, model: Any, path: Path) -> np.ndarray:
    """What `tools/test.py --aug-test` computes: one image, one view at a time, the mean of what the pipeline makes."""
    steps = [dict(step) for step in config.data.test.pipeline]
    data = Compose(steps)({"img_info": {"filename": str(path)}, "img_prefix": None})
    total: Any = 0
    with torch.no_grad():
        for image, meta in zip(data["img"], data["img_metas"], strict=True):
            total = total + model.inference(image[None], [meta.data], True)
    return (total / len(data["img"])).numpy()  # type: ignore[no-any-return]


def tile(tmp_path: Path, height: int, width: int) -> tuple[Path, np.ndarray]:
    """A tile as mmseg reads it (a file) and as landseg does (RGB)."""
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    rgb = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    path = tmp_path / f"{height}x{width}.png"
    cv2.imwrite(str(path), rgb[..., ::-1])
    return path, np.asarray(rgb)


def predictor(config: Any, model: torch.nn.Module, tta: str = "hv", precision: str = "fp32") -> Predictor:
    return Predictor(model, config, NORM["mean"], NORM["std"], tta=tta, precision=precision, device=CPU)


@pytest.mark.parametrize("name", ["swin_tiny", "resnest_tiny"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 75)])
def test_equals_plain_mmseg(name: str, height: int, width: int, tmp_path: Path) -> None:
    config, model = trained(name)
    path, rgb = tile(tmp_path, height, width)
    expected = plain_mmseg(config, model, path)
    predict = predictor(config, model)
    found = predict([predict.prepare(rgb)], (height, width))
    assert found.shape == (1, 9, height, width)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_where_a_config_has_no_test_cfg_tiles_are_predicted_whole(tmp_path: Path) -> None:
    config, model = trained("resnest_tiny")
    predict = predictor(config, model)
    prepared = predict.prepare(tile(tmp_path, 64, 64)[1])
    expected = predict([prepared], (64, 64))
    model.test_cfg = None
    assert np.array_equal(predictor(config, model)([prepared], (64, 64)), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"img_scale": (96, 96)},
        {"img_scale": (64, 64), "img_ratios": [0.5, 1.0]},
        {"img_scale": None, "img_ratios": [1.0, 1.5]},
        {"img_scale": [(64, 64), (48, 48)]},
        {"img_scale": (96, 96), "to_float32": True},
        {"img_scale": None, "to_float32": True},
        {"keep_ratio": False, "img_scale": (96, 64)},
        {"to_rgb": False},
        {"img_scale": (96, 64), "min_size": 72},
        {"img_scale": (80, 80), "img_ratios": [1.0, 0.5], "divisor": 32},
        {"img_scale": (72, 72), "pad": {"size_divisor": 32}},
        {"img_scale": (64, 64), "pad": {"size": (80, 96), "pad_val": 1.5}},
    ],
    ids=str,
)
def test_equals_plain_mmseg_for_other_test_pipelines(changes: dict[str, Any], tmp_path: Path) -> None:
    config, model = trained("swin_tiny")
    flips = config.data.test.pipeline[1]
    for key in ("img_scale", "img_ratios"):
        if key in changes:
            flips[key] = changes[key]
    config.data.test.pipeline[0]["to_float32"] = changes.get("to_float32", False)
    flips.transforms[0]["keep_ratio"] = changes.get("keep_ratio", True)
    flips.transforms[2]["to_rgb"] = changes.get("to_rgb", True)
    if "min_size" in changes:
        flips.transforms[0]["min_size"] = changes["min_size"]
    if "divisor" in changes:
        flips.transforms.insert(1, {"type": "ResizeToMultiple", "size_divisor": changes["divisor"]})
    if "pad" in changes:
        flips.transforms.insert(3, {"type": "Pad", **changes["pad"]})
    path, rgb = tile(tmp_path, 48, 64)
    predict = predictor(config, model)
    found = predict([predict.prepare(rgb)], (48, 64))
    np.testing.assert_allclose(found, plain_mmseg(config, model, path), atol=1e-6, rtol=0)


def test_padding_before_normalisation_pads_with_a_normalised_value(tmp_path: Path) -> None:
    config, model = trained("swin_tiny")
    config.data.test.pipeline[1].transforms.insert(2, {"type": "Pad", "size_divisor": 96, "pad_val": 7})
    path, rgb = tile(tmp_path, 48, 64)
    predict = predictor(config, model)
    found = predict([predict.prepare(rgb)], (48, 64))
    np.testing.assert_allclose(found, plain_mmseg(config, model, path), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pad", [{}, {"size": (8, 8), "size_divisor": 4}, {"size": 8}, {"size_divisor": 0}])
def test_padding_that_mmseg_does_not_know_is_refused(pad: dict[str, Any]) -> None:
    config, model = trained("resnest_tiny")
    config.data.test.pipeline[1].transforms.append({"type": "Pad", **pad})
    with pytest.raises(ConfigError, match=r"test_pipeline: expected Pad\(size"):
        predictor(config, model)


def test_a_tile_larger_than_the_padding_is_refused() -> None:
    config, model = trained("resnest_tiny")
    config.data.test.pipeline[1].transforms.append({"type": "Pad", "size": (32, 32)})
    predict = predictor(config, model)
    with pytest.raises(ConfigError, match=r"expects tiles of at most that size, found 64x64"):
        predict([predict.prepare(np.zeros((64, 64, 3), np.uint8))], (64, 64))


@pytest.mark.parametrize(
    ("step", "entry"),
    [
        ({"type": "Pad", "size": (9000, 9000)}, {}),
        ({"type": "Pad", "size_divisor": 9000}, {}),
        ({"type": "ResizeToMultiple", "size_divisor": 9000}, {}),
        ({"type": "Resize"}, {"img_scale": (9000, 9000)}),
    ],
)
def test_what_makes_very_much_of_a_tile_is_refused(step: dict[str, Any], entry: dict[str, Any]) -> None:
    config, model = trained("resnest_tiny")
    flips = config.data.test.pipeline[1]
    flips.update(entry)
    flips.transforms[0] = {"type": "Resize"}
    if step["type"] != "Resize":
        flips.transforms.insert(1, step)
    predict = predictor(config, model)
    with pytest.raises(ConfigError, match=r"at most 64 times as large, found one of 64x64 px that becomes 9000x9000"):
        predict([predict.prepare(np.zeros((64, 64, 3), np.uint8))], (64, 64))
    flips.img_scale = [(64, 64)] * 17
    with pytest.raises(ConfigError, match="expected at most 16 scales, found 17"):
        predictor(config, model)


def test_a_single_channel_is_the_second_class() -> None:
    """mmseg: `out_channels=1` with a sigmoid; the probabilities are those of both classes."""
    schema = SCHEMA.model_copy(update={"classes": ("a", "b"), "palette": ((0, 0, 0), (1, 1, 1))})
    sigmoid = {"out_channels": 1, "threshold": 0.5, "loss_decode.use_sigmoid": True}
    options = {
        f"model.{head}.{key}": value for head in ("decode_head", "auxiliary_head") for key, value in sigmoid.items()
    }
    config = load_config("resnest_tiny", options)
    model: Any = build_model(config, schema).eval()
    predict = predictor(config, model, "none")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = predict([predict.prepare(image)], (64, 64))
    meta = {"ori_shape": (64, 64), "img_shape": (64, 64), "pad_shape": (64, 64), "flip": False}
    with torch.no_grad():
        second = model.inference(torch.from_numpy(np.stack(predict.prepare(image))), [meta], True).numpy()
    np.testing.assert_allclose(found, np.concatenate([1 - second, second], 1), atol=1e-6)
    with pytest.raises(
        ConfigError, match=r"decode_head\.out_channels: expected one channel per class: the dataset has 9"
    ):
        build_model(config, SCHEMA)


@pytest.mark.parametrize(("tta", "flip", "directions"), [("none", False, "horizontal"), ("h", True, "horizontal")])
def test_fewer_views_equal_mmsegs_too(tta: str, flip: bool, directions: str, tmp_path: Path) -> None:
    config, model = trained("resnest_tiny")
    config.data.test.pipeline[1].update(flip=flip, flip_direction=directions)
    path, rgb = tile(tmp_path, 64, 64)
    predict = predictor(config, model, tta)
    found = predict([predict.prepare(rgb)], (64, 64))
    np.testing.assert_allclose(found, plain_mmseg(config, model, path), atol=1e-6, rtol=0)


def test_all_flips_and_turns(tmp_path: Path) -> None:
    """The mean of one view of each, made by hand; a tile that is not square is turned as well."""
    config, model = trained("resnest_tiny")
    one, all_views = predictor(config, model, "none"), predictor(config, model, "d4")
    for height, width in ((64, 64), (48, 64)):
        # Of this size already: resizing would differ by rounding between a tile and its turns.
        config.data.test.pipeline[1].img_scale = (width, height)
        _, rgb = tile(tmp_path, height, width)
        (planes,) = all_views.prepare(rgb)
        expected = np.zeros((9, height, width), np.float32)
        for turns in range(4):
            for flip in (False, True):
                moved = np.rot90(planes[..., ::-1] if flip else planes, turns, (1, 2))
                (found,) = one([[np.ascontiguousarray(moved)]], moved.shape[1:])
                back = np.rot90(found, -turns, (1, 2))
                expected += back[..., ::-1] if flip else back
        mean, views = all_views.with_views([[planes]], (height, width))
        np.testing.assert_allclose(mean[0], expected / 8, atol=1e-6)
        np.testing.assert_allclose(views[0].mean(0), mean[0], atol=1e-6)
        turned = np.rot90(planes, -1, (1, 2))  # clockwise
        (clockwise,) = one([[np.ascontiguousarray(turned)]], turned.shape[1:])
        np.testing.assert_allclose(views[0][VIEWS["d4"].index("rotated_90")], np.rot90(clockwise, 1, (1, 2)), atol=1e-6)


def test_sliding_windows_equal_mmsegs(tmp_path: Path) -> None:
    options = {"model.test_cfg": {"mode": "slide", "crop_size": (64, 64), "stride": (48, 48)}}
    config, model = trained("swin_tiny", **options)
    path, rgb = tile(tmp_path, 96, 64)
    predict = predictor(config, model)
    found = predict([predict.prepare(rgb)], (96, 64))
    np.testing.assert_allclose(found, plain_mmseg(config, model, path), atol=1e-6, rtol=0)


def test_a_batch_is_its_tiles(tmp_path: Path) -> None:
    config, model = trained("swin_tiny")
    predict = predictor(config, model)
    tiles = [predict.prepare(np.roll(tile(tmp_path, 64, 64)[1], shift, 0)) for shift in (0, 9, 20)]
    single = np.concatenate([predict([one], (64, 64)) for one in tiles])
    np.testing.assert_allclose(predict(tiles, (64, 64)), single, atol=1e-5, rtol=0)


def test_bf16_is_close_and_sums_to_one(tmp_path: Path) -> None:
    config, model = trained("resnest_tiny")
    _, rgb = tile(tmp_path, 64, 64)
    full, half = (predictor(config, model, precision=precision) for precision in ("fp32", "bf16"))
    expected, found = (predict([predict.prepare(rgb)], (64, 64)) for predict in (full, half))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert 0 < np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_model_laid_out_for_bf16_on_a_cpu_predicts_the_same(
    precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "default_device", lambda: CPU)
    config, model = trained("resnest_tiny")
    rebuilt = copy.deepcopy(model)
    final = loading.final_predictor(rebuilt, config, NORM["mean"], NORM["std"], tta="hv", precision=precision)
    kinds = {type(module) for module in rebuilt.backbone.modules()}  # type: ignore[union-attr]
    assert (SplitAttention in kinds) == (precision == "bf16")
    plain = predictor(config, model, precision=precision)
    exact = predictor(config, model)
    planes = [exact.prepare(np.roll(tile(tmp_path, 100, 75)[1], shift, 0)) for shift in (0, 9)]
    found, before, expected = (predict(planes, (100, 75)) for predict in (final, plain, exact))
    assert found.shape == expected.shape
    assert found.flags.c_contiguous  # as what is stored
    error, allowed = (float(np.abs(one - expected).mean()) for one in (found, before))
    assert error <= 1.2 * allowed


def test_more_bands_than_three() -> None:
    schema = ClassSchema(classes=("a", "b"), palette=((0, 0, 0),) * 2, bands=(1, 2, 3, 4, 5))
    config = load_config("swin_tiny")
    model = build_model(config, schema)
    predict = Predictor(model, config, (100.0,) * 5, (50.0,) * 5, tta="hv", precision="fp32", device=CPU)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 5), np.uint8)
    planes = predict.prepare(image)
    np.testing.assert_allclose(planes[0], (image.transpose(2, 0, 1).astype(np.float32) - 100) / 50, atol=1e-6)
    assert predict([planes], (64, 96)).shape == (1, 2, 64, 96)


LOAD, NORMALIZE = {"type": "LoadImageFromFile"}, {"type": "Normalize", **NORM, "to_rgb": True}
RESIZE, PAD = {"type": "Resize", "keep_ratio": True}, {"type": "Pad", "size_divisor": 32}


def views(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "MultiScaleFlipAug", "img_scale": (64, 64), "transforms": list(steps)}


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ([LOAD, views(RESIZE, {"type": "CLAHE"}, NORMALIZE)], r"expected only .*, found CLAHE \(train without it\)"),
        (
            [LOAD, {"type": "CLAHE"}, views(RESIZE, NORMALIZE)],
            "only MultiScaleFlipAug after LoadImageFromFile, found CLAHE",
        ),
        ([LOAD, {"type": "RGB2Gray"}, NORMALIZE], r"expected only .*, found RGB2Gray \(train without it\)"),
        ([{"type": "LoadFiveBands"}, views(RESIZE, NORMALIZE)], "found LoadFiveBands, which landseg does not have"),
        (
            [LOAD, NORMALIZE, views(RESIZE, NORMALIZE)],
            "only MultiScaleFlipAug after LoadImageFromFile, found Normalize",
        ),
        ([LOAD, views(RESIZE, NORMALIZE), views(NORMALIZE)], "found MultiScaleFlipAug"),
        ([LOAD, views(RESIZE, NORMALIZE, NORMALIZE)], "expected Normalize once, found it 2 times"),
        ([LOAD, views(RESIZE, RESIZE, NORMALIZE)], "expected Resize once"),
        ([LOAD, views(NORMALIZE, RESIZE)], "expected Resize before Normalize, found it after"),
        ([LOAD, views(RESIZE, PAD, {"type": "ResizeToMultiple"}, NORMALIZE)], "expected ResizeToMultiple before Pad"),
        (
            [LOAD, {**RESIZE, "img_scale": (64, 64)}, NORMALIZE],
            "found Resize .steps that resize belong in MultiScale",
        ),
    ],
)
def test_a_test_pipeline_that_landseg_has_not_is_refused(pipeline: list[Any], message: str) -> None:
    """Whatever were left out would give other labels, and nobody would know."""
    config = load_config("swin_tiny")
    config.data.test.pipeline = pipeline
    with pytest.raises(ConfigError, match=f"^test_pipeline of x.pth: .*{message}"):
        tile_scales(config, "test_pipeline of x.pth")


def test_precision() -> None:
    assert resolve_precision("auto") in {"fp32", "bf16"}
    assert resolve_precision("fp16") == "fp16"
