"""How long a config trains and how often it looks up, as mmcv's runners and hooks count it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmcv
import pytest

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError
from landseg.models.build import fit_config
from landseg.models.config_files import BUNDLED
from landseg.models.configs import STRAY, load_config
from landseg.training.input.mixing import training_steps
from landseg.training.job import Length, checkpoints_to_keep, set_parameters, tiles_per_batch
from landseg.training.settings.checked import check_settings
from landseg.training.settings.class_weights import set_class_weights
from landseg.training.settings.misspelt import misspelt_settings
from landseg.training.settings.unused import unused_settings

EPOCHS = {"type": "EpochBasedRunner", "max_epochs": 6}
ITERATIONS = {"type": "IterBasedRunner", "max_iters": 60}


def evaluated(**config: Any) -> list[int]:
    length = Length.of(mmcv.Config(config), iters_per_epoch=10)
    return [done for done in range(length.max_iters + 1) if length.evaluates_after(done)]


def test_evaluation_is_counted_as_the_runner_counts() -> None:
    assert evaluated(runner=EPOCHS) == [10, 20, 30, 40, 50, 60]
    assert evaluated(runner=EPOCHS, evaluation={"interval": 4}) == [40, 60]  # and after the last iteration
    assert evaluated(runner=EPOCHS, evaluation={"interval": 2, "start": 3}) == [30, 50, 60]
    assert evaluated(runner=ITERATIONS, evaluation={"interval": 25}) == [25, 50, 60]
    assert evaluated(runner=ITERATIONS) == [60]
    assert evaluated(total_iters=30, evaluation={"interval": -1}) == [30]
    assert evaluated(total_epochs=3) == [10, 20, 30]  # as configs were before they had a runner


@pytest.mark.parametrize(
    ("runner", "checkpoint", "interval"),
    [
        (EPOCHS, None, 10),
        (EPOCHS, {"interval": 2}, 20),
        (EPOCHS, {"interval": 7, "by_epoch": False}, 7),
        (ITERATIONS, {"interval": 7}, 7),
        (ITERATIONS, {"interval": 7, "by_epoch": True}, 70),
        (ITERATIONS, None, 60),
        (EPOCHS, {"interval": -1}, 60),
    ],
)
def test_checkpoints(runner: dict[str, Any], checkpoint: dict[str, Any] | None, interval: int) -> None:
    config = mmcv.Config({"runner": runner, "checkpoint_config": checkpoint})
    assert Length.of(config, iters_per_epoch=10).checkpoint_interval == interval


def test_limits_of_the_config_are_kept() -> None:
    assert checkpoints_to_keep(mmcv.Config({})) == 2
    assert checkpoints_to_keep(mmcv.Config({"checkpoint_config": {"max_keep_ckpts": 5}})) == 5
    assert checkpoints_to_keep(mmcv.Config({"checkpoint_config": {"max_keep_ckpts": None}})) == 2
    assert checkpoints_to_keep(mmcv.Config({"checkpoint_config": {"max_keep_ckpts": -1}})) == 2
    assert tiles_per_batch(mmcv.Config({})) == 8
    config = mmcv.Config({"data": {"samples_per_gpu": 4, "train_dataloader": {"samples_per_gpu": 2}}})
    assert tiles_per_batch(config) == 2
    set_parameters(config, batch_per_gpu=3)
    assert tiles_per_batch(config) == 3
    with pytest.raises(ConfigError, match=r"data\.samples_per_gpu: expected at least 1, found None"):
        tiles_per_batch(mmcv.Config({"data": {"samples_per_gpu": None}}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"checkpoint_config": {"max_keep_ckpts": "3"}},
            r"checkpoint_config\.max_keep_ckpts: expected a whole number, ",
        ),
        ({"checkpoint_config": {"interval": 0.5}}, r"checkpoint_config\.interval: expected a whole number, found '0"),
        ({"evaluation": {"interval": True}}, r"evaluation\.interval: expected a whole number, found 'True'"),
        ({"evaluation": {"start": -1}}, r"evaluation\.start: expected a whole number, at least 0, found '-1'"),
        ({"evaluation": "mIoU"}, "evaluation: expected a dictionary, found 'mIoU'"),
        ({"log_config": {"interval": 0}}, r"log_config\.interval: expected a whole number, at least 1, found '0'"),
        ({"log_config": {"hooks": ["TextLoggerHook"]}}, r"log_config\.hooks: expected a list of dictionaries with a"),
        ({"lr_config": "poly"}, "lr_config: expected a dictionary, found 'poly'"),
        ({"fp16": 512}, "fp16: expected a dictionary, found '512'"),
        ({"custom_hooks": {"type": "EMAHook"}}, "custom_hooks: expected a list of dictionaries"),
        (
            {"custom_hooks": [{"type": "EMAHook", "resume_from": "x.pth"}]},
            r"custom_hooks EMAHook\.resume_from: expected N",
        ),
        ({"workflow": ["train"]}, "workflow: expected a list of pairs"),
        ({"model": {"test_cfg": {"mode": "slide"}}}, r"test_cfg\.crop_size: expected two sides in pixels, found None"),
        ({"model": {"backbone": None}}, r"model\.backbone: expected a dictionary with a `type`, found 'None'"),
        ({"model": {"decode_head": []}}, r"model\.decode_head: expected a dictionary with a `type`, found '\[\]'"),
        ({"model": {"decode_head": {"type": "FCNHead", "loss_decode": None}}}, "loss_decode: expected a dictionary"),
        ({"model": {"decode_head": {"type": "FCNHead", "num_classes": "9"}}}, "num_classes: expected a whole number"),
        ({"evaluation": {"metric": 3}}, r"evaluation\.metric: expected a name or a list of names, found '3'"),
        ({"optimizer_config": {"cumulative_iters": 0}}, r"cumulative_iters: expected a whole number, at least 1"),
        ({"optimizer_config": {"grad_clip": "dict(max_norm=1)"}}, r"grad_clip: expected a dictionary, found 'dict"),
        ({"optimizer_config": {"grad_clip": {}}}, r"grad_clip: expected max_norm, a number above 0"),
        ({"optimizer_config": {"grad_clip": {"max_norm": "1"}}}, r"grad_clip: expected max_norm, a number above 0"),
        ({"optimizer_config": {"grad_clip": {"max_norm": 1, "norm": 2}}}, r"grad_clip: expected max_norm, a number"),
    ],
)
def test_settings_of_another_type_are_one_line_with_their_key(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(mmcv.Config(config))


def test_settings_that_mmcv_takes_pass() -> None:
    clip = {"max_norm": 0.1, "norm_type": "inf"}
    check_settings(mmcv.Config({"checkpoint_config": None, "custom_hooks": None, "evaluation": {"interval": None}}))
    check_settings(mmcv.Config({"optimizer_config": {"grad_clip": clip}, "workflow": [("train", 1)], "fp16": {}}))


def test_a_capped_weight_is_at_most_ten_times_the_most_frequent_classs() -> None:
    split = SimpleNamespace(class_pixels=(8000, 1990, 10, 0))
    manifest: Any = SimpleNamespace(class_schema=SimpleNamespace(num_classes=4), splits={"train": split})
    config = mmcv.Config({"model": {"decode_head": {"loss_decode": {"type": "CrossEntropyLoss"}}}})
    set_class_weights(config, "capped-inverse-frequency", manifest, ("train",), ())
    field, road, water, absent = config.model.decode_head.loss_decode.class_weight
    assert road / field == pytest.approx(8000 / 1990, rel=1e-4)
    assert water / field == pytest.approx(10, rel=1e-4)
    assert absent == 1
    assert (8000 * field + 1990 * road + 10 * water) / 10000 == pytest.approx(1, rel=1e-4)


def test_wrappers_of_datasets_that_have_no_effect_are_reported() -> None:
    dataset = {"type": "ClassBalancedDataset", "dataset": [{"type": "RepeatDataset", "times": 40, "dataset": {}}]}
    model = {"type": "EncoderDecoder", "decode_head": {"num_classes": 2, "loss_decode": {}}}
    config, schema = (
        mmcv.Config({"model": model, "data": {"train": dataset}}),
        SimpleNamespace(num_classes=2, classes=("a", "b")),
    )
    said = unused_settings(config, config, schema)  # type: ignore[arg-type]
    assert any("times=40 is not used" in sentence for sentence in said)
    assert any("ClassBalancedDataset is not used" in sentence for sentence in said)


def test_pipelines_without_effect_and_means_of_another_scale_are_reported(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        f"_base_ = '{BUNDLED}/swin_tiny.py'\ntest_pipeline = []\n"
        "data = dict(train=dict(pipeline=[dict(type='Normalize', mean=[0.485], std=[0.2])]))\n"
    )
    schema: Any = SimpleNamespace(num_classes=2, classes=("a", "b"))
    config = load_config(str(tmp_path / "child.py"))
    said = unused_settings(config, config, schema)
    for text in (
        "train_pipeline is not used: data.train.pipeline is another one",
        "test_pipeline is not used: data.test.pipeline is another one",
        "Normalize's mean [0.485] is for images of 0-1",
    ):
        assert any(text in sentence for sentence in said)
    (tmp_path / "mixed.py").write_text(
        "model = dict(type='EncoderDecoder')\n"
        "train_pipeline = [dict(type='RandomMosaic', prob=1)]\n"
        "tiles = dict(type='CustomDataset', pipeline=[dict(type='LoadImageFromFile')])\n"
        "data = dict(train=dict(type='MultiImageMixDataset', dataset=tiles, pipeline=train_pipeline))\n"
    )
    assert load_config(str(tmp_path / "mixed.py"))[STRAY] == []
    normalize = [{"type": "Normalize", "mean": [0.5], "std": [0.2]}]
    tiles: dict[str, Any] = {"type": "CustomDataset", "pipeline": []}
    mosaic = {"type": "MultiImageMixDataset", "dataset": tiles, "pipeline": normalize}
    for pipelines in ({"data": {"train": mosaic}}, {"train_pipeline": normalize}):
        other = mmcv.Config({"model": {"decode_head": {"num_classes": 2, "loss_decode": {}}}, **pipelines})
        assert any(
            "Normalize's mean [0.5] is for images of 0-1" in one for one in unused_settings(other, other, schema)
        )
    assert load_config("swin_tiny", {"train_pipeline.0.prob": 0.1})[STRAY] == ["train_pipeline"]
    assert load_config("swin_tiny", {"data.train.pipeline.0.prob": 0.1})[STRAY] == []
    assert STRAY not in fit_config(config, ClassSchema(classes=("a", "b"), palette=((0, 0, 0),) * 2, bands=(1, 2, 3)))


def test_a_loss_that_its_name_keeps_out_of_training_is_reported() -> None:
    schema: Any = SimpleNamespace(num_classes=2, classes=("a", "b"))
    named = [{"type": "CrossEntropyLoss", "loss_name": name} for name in ("ce", "loss_ce")]
    config = mmcv.Config({"model": {"decode_head": {"num_classes": 2, "loss_decode": named}}})
    said = [sentence for sentence in unused_settings(config, config, schema) if "loss_name" in sentence]
    assert said == ["loss_decode.loss_name ce keeps the loss out of training: only losses named loss_... are minimised"]


def test_names_that_nobody_reads_are_reported() -> None:
    options = {
        "optimiser.lr": 1,
        "norm_cfg.type": "BN",
        "evaluation.intervall": 2,
        "runner.max_iter": 7,
        "optimizer_config.paramwise_cfg.norm_decay_mult": 0,
        "work_dir": "w",
    }
    config = load_config("fcn_r50-d8_512x512_20k_voc12aug", options)
    assert list(misspelt_settings(config)) == [
        "runner.max_iter is not used: there is no such setting (did you mean runner.max_iters?)",
        "evaluation.intervall is not used: there is no such setting (did you mean evaluation.interval?)",
        "optimizer_config.paramwise_cfg is not used: there is no such setting (did you mean optimizer.paramwise_cfg?)",
        "--cfg-options optimiser.lr has no effect: there is no such setting (did you mean optimizer.lr?)",
        "--cfg-options norm_cfg.type has no effect: the config file has used this variable by then; give the entries "
        "that it was used for, e.g. model.backbone.norm_cfg.type for norm_cfg.type",
    ]
    for name in ("swin", "resnest", "swin_tiny", "resnest_tiny", "fcn_r50-d8_512x512_20k_voc12aug"):
        assert not list(misspelt_settings(load_config(name, {"optimizer.lr": 1, "fp16.loss_scale": 512.0})))


def test_median_frequency_weights_count_only_tiles_in_which_a_class_occurs() -> None:
    """Eigen & Fergus 2015: a class's frequency is its share of the pixels of the images in which it is present."""
    schema: Any = SimpleNamespace(num_classes=4, ignore_index=255, stored_ignore=None, label_offset=0)
    rows = [{0: 90, 1: 10}, {0: 60, 2: 30, 255: 10}, {0: 100}]
    tiles: Any = [SimpleNamespace(label_counts=list(counts.items())) for counts in rows]
    split = SimpleNamespace(class_pixels=(250, 10, 30, 0))
    manifest: Any = SimpleNamespace(class_schema=schema, splits={"train": split})
    config = mmcv.Config({"model": {"decode_head": {"loss_decode": {"type": "CrossEntropyLoss"}}}})
    set_class_weights(config, "median-frequency", manifest, ("train",), tiles)
    field, road, water, absent = config.model.decode_head.loss_decode.class_weight
    assert road / field == pytest.approx((250 / 290) / (10 / 100), rel=1e-4)
    assert water / field == pytest.approx((250 / 290) / (30 / 90), rel=1e-4)
    assert absent == 1
    assert (250 * field + 10 * road + 30 * water) / 290 == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("pipeline", [5, [5], [{"a": 1}], {"type": "Resize"}, [{"type": 5}]])
def test_a_pipeline_is_a_list_of_steps(pipeline: Any) -> None:
    with pytest.raises(ConfigError, match="train_pipeline: expected a list of dictionaries with a `type`, found"):
        training_steps(mmcv.Config({"data": {"train": {"pipeline": pipeline}}}), ())
