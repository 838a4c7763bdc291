"""How long a config trains and how often it looks up, as mmcv's runners and hooks count it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mmcv
import pytest

from landseg.contracts.errors import ConfigError
from landseg.training.job import Length, checkpoints_to_keep, set_parameters, tiles_per_batch
from landseg.training.settings.checked import check_settings
from landseg.training.settings.class_weights import set_class_weights

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
    set_class_weights(config, "capped-inverse-frequency", manifest, ("train",))
    field, road, water, absent = config.model.decode_head.loss_decode.class_weight
    assert road / field == pytest.approx(8000 / 1990, rel=1e-4)
    assert water / field == pytest.approx(10, rel=1e-4)
    assert absent == 1
    assert (8000 * field + 1990 * road + 10 * water) / 10000 == pytest.approx(1, rel=1e-4)
