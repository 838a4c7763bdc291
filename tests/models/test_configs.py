"""The bundled configs hold the recipe, number for number; any other config is found, checked and read back safely."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmcv
import pytest
from http_server import serving_files
from s3_endpoint import S3

from landseg import storage
from landseg.contracts.errors import ConfigError, ContractError
from landseg.models.config_files import BUNDLED, STOCK, bundled_names
from landseg.models.config_text import parse_config
from landseg.models.configs import import_modules, load_config, parse_options

RECIPE: dict[str, dict[str, Any]] = {
    "swin": {
        "model.type": "EncoderDecoder",
        "model.backbone.type": "SwinTransformer",
        "model.backbone.embed_dims": 128,
        "model.backbone.depths": [2, 2, 18, 2],
        "model.backbone.num_heads": [4, 8, 16, 32],
        "model.backbone.window_size": 12,
        "model.backbone.patch_size": 4,
        "model.backbone.mlp_ratio": 4,
        "model.backbone.drop_path_rate": 0.3,
        "model.backbone.pretrain_img_size": 384,
        "model.backbone.qkv_bias": True,
        "model.backbone.patch_norm": True,
        "model.backbone.use_abs_pos_embed": False,
        "model.decode_head.type": "UPerHead",
        "model.decode_head.in_channels": [128, 256, 512, 1024],
        "model.decode_head.pool_scales": (1, 2, 3, 6),
        "model.decode_head.channels": 512,
        "model.decode_head.dropout_ratio": 0.1,
        "model.auxiliary_head.in_channels": 512,
        "optimizer.type": "AdamW",
        "optimizer.lr": 6e-5,
        "optimizer.betas": (0.9, 0.999),
        "optimizer.weight_decay": 0.01,
        "optimizer.paramwise_cfg.custom_keys": {
            "norm": {"decay_mult": 0.0},
            "absolute_pos_embed": {"decay_mult": 0.0},
            "relative_position_bias_table": {"decay_mult": 0.0},
        },
        "lr_config": {
            "policy": "poly",
            "power": 1.0,
            "min_lr": 0.0,
            "by_epoch": False,
            "warmup": "linear",
            "warmup_iters": 1500,
            "warmup_ratio": 1e-6,
        },
    },
    "resnest": {
        "model.type": "EncoderDecoder",
        "model.backbone.type": "ResNeSt",
        "model.backbone.depth": 101,
        "model.backbone.stem_channels": 128,
        "model.backbone.radix": 2,
        "model.backbone.reduction_factor": 4,
        "model.backbone.avg_down_stride": True,
        "model.backbone.dilations": (1, 1, 2, 4),
        "model.backbone.strides": (1, 2, 1, 1),
        "model.backbone.contract_dilation": True,
        "model.backbone.style": "pytorch",
        "model.backbone.norm_eval": False,
        "model.decode_head.type": "DepthwiseSeparableASPPHead",
        "model.decode_head.in_channels": 2048,
        "model.decode_head.channels": 512,
        "model.decode_head.dilations": (1, 12, 24, 36),
        "model.decode_head.c1_in_channels": 256,
        "model.decode_head.c1_channels": 48,
        "model.decode_head.dropout_ratio": 0.1,
        "model.auxiliary_head.in_channels": 1024,
        "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
        "lr_config": {"policy": "poly", "power": 0.9, "min_lr": 1e-4, "by_epoch": False},
    },
}
COMMON: dict[str, Any] = {
    "num_classes": 9,
    "model.decode_head.num_classes": 9,
    "model.decode_head.norm_cfg.type": "SyncBN",
    "model.decode_head.align_corners": False,
    "model.decode_head.loss_decode.type": "CrossEntropyLoss",
    "model.decode_head.loss_decode.use_sigmoid": False,
    "model.decode_head.loss_decode.loss_weight": 1.0,
    "model.auxiliary_head.type": "FCNHead",
    "model.auxiliary_head.in_index": 2,
    "model.auxiliary_head.channels": 256,
    "model.auxiliary_head.num_convs": 1,
    "model.auxiliary_head.concat_input": False,
    "model.auxiliary_head.num_classes": 9,
    "model.auxiliary_head.norm_cfg.type": "SyncBN",
    "model.auxiliary_head.align_corners": False,
    "model.auxiliary_head.loss_decode.loss_weight": 0.4,
    "model.test_cfg.mode": "whole",
    "runner": {"type": "EpochBasedRunner", "max_epochs": 12},
    "data.samples_per_gpu": 8,
    "fp16.loss_scale": 512.0,
    "evaluation.metric": "mIoU",
}
NORMALISE = {
    "type": "Normalize",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "to_rgb": True,
}
PRETRAINED = {
    "swin": "swin_base_patch4_window12_384_22k.pth",
    "resnest": "resnest101_imagenet_converted-032caa52.pth",
}


@pytest.mark.parametrize("name", RECIPE)
def test_every_number_of_the_recipe(name: str) -> None:
    config = load_config(name)
    for key, expected in {**COMMON, **RECIPE[name]}.items():
        value: Any = config
        for part in key.split("."):
            value = value[part]
        assert value == expected, key
    assert config.pretrained.rpartition("/")[2] == PRETRAINED[name]


@pytest.mark.parametrize("name", RECIPE)
def test_the_recipes_training_input(name: str) -> None:
    pipeline = load_config(name).data.train.pipeline
    assert [step.type for step in pipeline] == [
        "LoadImageFromFile",
        "LoadAnnotations",
        "IndependentFlip",
        "IndependentFlip",
        "PhotoMetricDistortion",
        "Normalize",
        "Pad",
        "DefaultFormatBundle",
        "Collect",
    ]
    assert [(step.prob, step.direction) for step in pipeline[2:4]] == [(0.5, "horizontal"), (0.5, "vertical")]
    assert pipeline[5] == NORMALISE
    assert pipeline[6] == {"type": "Pad", "size": (512, 512), "pad_val": 0, "seg_pad_val": 255}


@pytest.mark.parametrize("name", RECIPE)
def test_the_recipes_inference_input(name: str) -> None:
    views = load_config(name).data.test.pipeline[1]
    assert views.type == "MultiScaleFlipAug"
    assert (views.img_scale, views.flip, views.flip_direction) == ((512, 512), True, ["horizontal", "vertical"])
    assert views.transforms[0] == {"type": "Resize", "keep_ratio": True}
    assert views.transforms[2] == NORMALISE


@pytest.mark.parametrize("name", RECIPE)
def test_tiny_twins_inherit_and_keep_the_family(name: str) -> None:
    full, tiny = load_config(name), load_config(f"{name}_tiny")
    assert f'_base_ = "{name}.py"' in (BUNDLED / f"{name}_tiny.py").read_text()
    for part in ("backbone", "decode_head", "auxiliary_head"):
        assert tiny.model[part].type == full.model[part].type
    assert tiny.pretrained is None


def test_no_paths_of_data_in_the_configs() -> None:
    for name in bundled_names():
        assert not {"data_root", "img_dir", "ann_dir"} & set(load_config(name).data.train)


def test_unknown_name_offers_the_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown config name 'swin_tinny' \(did you mean swin_tiny"):
        load_config("swin_tinny")
    with pytest.raises(ConfigError, match=r"bundled: .*swin"):
        load_config("xyzzy")


def test_options_as_an_object_of_json_are_those_as_pairs() -> None:
    pairs = ["optimizer.lr=0.5", "model.backbone.depths=[2,2]", "dist_params.backend=gloo"]
    text = '{"optimizer.lr": 0.5, "model.backbone.depths": [2, 2], "dist_params.backend": "gloo"}'
    assert parse_options([text]) == parse_options(pairs)
    assert parse_options(["{}"]) == {}
    with pytest.raises(ConfigError, match="expected key=value pairs or one JSON object, found"):
        parse_options(["{optimizer.lr: 0.5}"])


def test_options_override_and_may_add() -> None:
    options = parse_options(["optimizer.lr=0.5", "model.backbone.depths=[2,2]", "data.train.pipeline.6.size=(64,64)"])
    config = load_config("swin", options)
    assert config.optimizer.lr == 0.5
    assert config.model.backbone.depths == [2, 2]
    assert config.data.train.pipeline[6]["size"] == (64, 64)


@pytest.mark.parametrize(
    "pair", ["lr", "=3", "depths=[1,2", "optimizer..lr=1", "optimizer. lr=1", '{"a.": 1}', '{"a": ' + "[" * 9999]
)
def test_broken_options_are_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="--cfg-options"):
        parse_options([pair])


def test_a_file_that_does_not_load(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(\n")
    with pytest.raises(ConfigError, match="does not load"):
        load_config(str(broken))
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(str(tmp_path / "absent.py"))
    broken.write_text("import sys\nsys.exit('no data here')\n")
    with pytest.raises(ConfigError, match="does not load: SystemExit: no data here"):
        load_config(str(broken))
    broken.write_text("custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)\n")
    with pytest.raises(ConfigError, match=r"does not load: ModuleNotFoundError: No module named 'no_such_.*PYTHONPATH"):
        load_config(str(broken))


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("data.train.pipeline.99.prob=1", "the config cannot take data.train.pipeline.99.prob: KeyError: Index 99"),
        ("data.train.pipeline.-1.prob=1", "the config cannot take data.train.pipeline.-1.prob: TypeError: list"),
        ("log_level.x=1", "the config cannot take log_level.x: TypeError: log_level="),
    ],
)
def test_an_option_that_leads_nowhere_is_the_options_fault(option: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^--cfg-options: {re.escape(problem)}"):
        load_config("swin_tiny", parse_options([option]))


def test_yaml_holds_tuples_and_runs_nothing(tmp_path: Path) -> None:
    config = load_config("swin_tiny")
    mmcv.Config({"model": config.model, "test_pipeline": config.test_pipeline}).dump(str(tmp_path / "own.yaml"))
    assert "!!python/tuple" in (tmp_path / "own.yaml").read_text()
    assert load_config(str(tmp_path / "own.yaml")).test_pipeline == config.test_pipeline
    evil = f"model: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path}/made]]\n"
    (tmp_path / "evil.yaml").write_text(evil)
    with pytest.raises(ConfigError, match="does not load: ConstructorError"):
        load_config(str(tmp_path / "evil.yaml"))
    assert not (tmp_path / "made").exists()


def test_configs_of_mmsegmentation_1_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "new.py"
    for text in (
        "model = dict(type='EncoderDecoder', data_preprocessor=dict())\n",
        "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"found one of 1\.x"):
            load_config(str(path))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "a" / "_base_").mkdir(parents=True)
    (tmp_path / "a" / "b").mkdir()
    (tmp_path / "a" / "_base_" / "model.py").write_text("model = dict(type='EncoderDecoder', x=1)\n")
    (tmp_path / "a" / "b" / "child.py").write_text("_base_ = ['../_base_/model.py']\nmodel = dict(x=2)\n")
    with serving_files(tmp_path) as address:
        yield address


def test_a_config_over_http_comes_with_its_bases(server: str) -> None:
    assert load_config(f"{server}/a/b/child.py").model == {"type": "EncoderDecoder", "x": 2}
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(f"{server}/a/b/absent.py")


def test_a_config_in_object_storage_comes_with_its_bases(s3: S3) -> None:
    path = STOCK / "fcn" / "fcn_r50-d8_512x512_20k_voc12aug.py"
    for part in [path, *(STOCK / "_base_").rglob("*.py")]:
        storage.put_file(f"{s3.uri}/{part.relative_to(STOCK)}", part)
    assert load_config(f"{s3.uri}/fcn/{path.name}").pretty_text == load_config(str(path)).pretty_text


def test_stock_configs_have_names() -> None:
    by_name = load_config("pspnet_r50-d8_512x512_80k_ade20k")
    assert by_name.pretty_text == load_config(str(STOCK / "pspnet" / "pspnet_r50-d8_512x512_80k_ade20k.py")).pretty_text
    assert load_config("swin").optimizer.lr == 6e-5
    with pytest.raises(ConfigError, match=r"did you mean pspnet_r50-d8_512x512_80k_ade20k"):
        load_config("pspnet_r50_d8_512x512_80k_ade20k")


def test_custom_imports_of_a_parsed_config_are_asked_for() -> None:
    text = 'model = dict(type="EncoderDecoder")\ncustom_imports = dict(imports={}, allow_failed_imports=False)'
    import_modules(parse_config(text.format('["json", "mmcls.models"]'), "text"))
    import_modules(parse_config(text.format('"mmcls.models"'), "text"))
    with pytest.raises(ConfigError, match="custom_imports no_such_module: cannot be imported"):
        import_modules(parse_config(text.format('"no_such_module"'), "text"))


@pytest.mark.parametrize("name", bundled_names())
def test_a_resolved_config_reads_back(name: str) -> None:
    config = load_config(name)
    assert parse_config(config.pretty_text, "text")._cfg_dict == config._cfg_dict


def test_keys_that_are_no_names_read_back() -> None:
    keys = {"backbone.stages.0": {"lr_mult": 0.1}, "norm": {"decay_mult": 0.0}}
    config = load_config("swin", {"optimizer.paramwise_cfg.custom_keys": keys})
    assert (
        parse_config(config.pretty_text, "text").optimizer.paramwise_cfg.custom_keys["backbone.stages.0"]
        == keys["backbone.stages.0"]
    )


def test_reading_back_executes_nothing(tmp_path: Path) -> None:
    for text in (
        f"model = open({str(tmp_path / 'x')!r}, 'w')",
        "import os",
        "model = dict(**{'type': 'A'})",
        "model = [].append",
        "model = (",
    ):
        with pytest.raises(ContractError, match="expected the text of an mmseg config"):
            parse_config(text, "text")
    assert not (tmp_path / "x").exists()


def test_stock_configs_read_back() -> None:
    for path in sorted(STOCK.glob("[a-z]*/*.py"))[::150]:
        config = load_config(str(path))
        assert parse_config(config.pretty_text, path)._cfg_dict == config._cfg_dict


def test_a_fragment_behind_an_address_is_not_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(load_config("swin_tiny").pretty_text)
    assert load_config(f"{path}#0123abcd").pretty_text == load_config("swin_tiny").pretty_text
