"""Six stock-like models end with the weights of a program that uses mmsegmentation alone, to the last bit.

That program reads the tiles' own files with mmseg's dataset and transforms and trains with `train_segmentor`. It is
told only in which order tiles are drawn; the transforms draw nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from training_data import CLASSES, write_raw

from landseg.cli.main import main
from landseg.models.config_files import STOCK
from landseg.training.input.batches import BatchOrder

# isort: split
import mmcv
from mmcv.runner import HOOKS, Hook
from mmseg.apis import set_random_seed, train_segmentor
from mmseg.datasets import build_dataset
from mmseg.models import build_segmentor
from torch.utils.data import Subset

ITERATIONS, BATCH, TILES = 5, 2, 6

COMMON = """
_base_ = '{base}'
norm_cfg = dict(type='BN', requires_grad=True)
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='Resize', img_scale=(96, 48)),
    dict(type='RandomFlip', prob=0.0), dict(type='Normalize', **img_norm_cfg),
    dict(type='Pad', size=(64, 64), pad_val=0, seg_pad_val=255),
    dict(type='DefaultFormatBundle'), dict(type='Collect', keys=['img', 'gt_semantic_seg'])]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(96, 64), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'), dict(type='Normalize', **img_norm_cfg),
        dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])])]
data = dict(
    samples_per_gpu=2, workers_per_gpu=0, train=dict(type='CustomDataset', pipeline=train_pipeline),
    test=dict(type='CustomDataset', pipeline=test_pipeline))
optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005)
optimizer_config = dict()
lr_config = dict(policy='poly', power=0.9, min_lr=1e-4, by_epoch=False)
runner = dict(type='IterBasedRunner', max_iters=5)
checkpoint_config = dict(by_epoch=False, interval=5)
log_config = dict(interval=50, hooks=[])
log_level, load_from, resume_from, workflow, cudnn_benchmark = 'ERROR', None, None, [('train', 1)], True
"""
RESNET = "pretrained=None, backbone=dict(depth=18, base_channels=8, stem_channels=8, norm_cfg=norm_cfg)"
HEAD = "num_classes=19, norm_cfg=norm_cfg"
MODELS = {
    "encnet_r50-d8": f"""
model = dict(
    {RESNET},
    decode_head=dict(in_channels=[16, 32, 64], channels=16, num_codes=4, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=32, channels=8, norm_cfg=norm_cfg))
""",
    "ocrnet_r50-d8": f"""
first = dict(type='FCNHead', in_channels=32, in_index=2, channels=8, num_convs=1, concat_input=False, {HEAD})
model = dict(
    {RESNET},
    decode_head=[first, dict(type='OCRHead', in_channels=64, in_index=3, channels=16, ocr_channels=8, {HEAD})])
""",
    "segformer_mit-b0": """
model = dict(
    backbone=dict(embed_dims=8, num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[8, 16, 40, 64], channels=16, norm_cfg=norm_cfg))
keys = {'norm': dict(decay_mult=0.), 'head': dict(lr_mult=10.)}
optimizer = dict(type='AdamW', lr=6e-5, weight_decay=0.01, paramwise_cfg=dict(custom_keys=keys))
optimizer_config = dict(grad_clip=dict(max_norm=1.))
""",
    "fast_scnn": f"""
ohem = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=500)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg, sampler=ohem),
    auxiliary_head=[dict(type='FCNHead', in_channels=128, channels=32, num_convs=1, in_index=-2, {HEAD})])
""",
    "fcn_unet_s5-d16": """
ce, dice = dict(type='CrossEntropyLoss', loss_name='loss_ce'), dict(type='DiceLoss', loss_name='loss_dice')
model = dict(
    backbone=dict(base_channels=4, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=4, channels=4, norm_cfg=norm_cfg, loss_decode=[ce, dice]),
    auxiliary_head=dict(in_channels=8, channels=4, norm_cfg=norm_cfg))
""",
    "pointrend_r50": f"""
fpn = dict(type='FPNHead', in_channels=[16] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32], channels=16,
           {HEAD})
point = dict(type='PointHead', in_channels=[16], in_index=[0], channels=16, num_classes=19)
model = dict(
    {RESNET}, neck=dict(in_channels=[8, 16, 32, 64], out_channels=16), decode_head=[fpn, point])
""",
}
"""By the file of mmseg's `_base_/models` that is made small."""


@HOOKS.register_module()
class SameDropout(Hook):  # type: ignore[misc]
    def before_train_iter(self, runner: Any) -> None:
        if runner.iter == 0:
            torch.manual_seed(0)  # the DataLoader has drawn a number


def _stock(path: Path, tiles: Path, order: Sequence[int], work_dir: Path) -> dict[str, torch.Tensor]:
    """The weights that mmsegmentation alone ends with."""
    config = mmcv.Config.fromfile(str(path))
    heads = [config.model.decode_head, config.model.get("auxiliary_head") or []]
    for head in (one for part in heads for one in (part if isinstance(part, list) else [part])):
        head.num_classes = len(CLASSES)
    folders = {"img_dir": str(tiles / "images"), "ann_dir": str(tiles / "labels"), "img_suffix": ".tif"}
    config.merge_from_dict(
        {
            "data.train_dataloader": {"shuffle": False, "persistent_workers": False},
            "custom_hooks": [{"type": "SameDropout"}],
            "work_dir": str(work_dir),
            "gpu_ids": [0],
            "device": "cpu",
            "seed": 0,
        }
    )
    dataset = build_dataset({**config.data.train, **folders, "classes": CLASSES})
    set_random_seed(0)
    model = build_segmentor(config.model)
    model.init_weights()
    train_segmentor(model, Subset(dataset, order), config, meta={})
    return dict(model.state_dict())


@pytest.mark.parametrize(
    "name", [name if name == "encnet_r50-d8" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_the_weights_are_those_of_mmsegmentation_alone(name: str, tmp_path: Path) -> None:
    config, raw, store = tmp_path / f"{name}.py", write_raw(tmp_path / "raw", train=TILES, val=0), tmp_path / "store"
    config.write_text(COMMON.format(base=STOCK / "_base_" / "models" / f"{name}.py") + MODELS[name])
    batches = BatchOrder(TILES, BATCH, 1, 0, 0).batches(0, ITERATIONS)
    expected = _stock(config, raw / "train", [index for batch in batches for _, index in batch], tmp_path / "work")
    place = ["--storage-uri", str(store), "--output-dir"]
    assert main(["stage-data", "--source", str(raw), *place, str(tmp_path / "data"), "--num-workers", "1"]) == 0
    options = ["--gpus", "0", "--num-workers", "0", "--precision", "fp32", "--pretrained", "none", "--run-id", "r"]
    data = ["--dataset", str(tmp_path / "data" / "dataset.json"), "--config", str(config)]
    assert main(["train", "--name", "one", *data, *options, *place, str(tmp_path / "out")]) == 0
    (weights,) = (store / "runs" / "r" / "train" / "one").glob("*/model.pth")
    found = torch.load(weights, weights_only=True)["state_dict"]
    assert found.keys() == expected.keys()
    assert any(key.endswith("num_batches_tracked") and value == ITERATIONS for key, value in expected.items())
    different = [key for key, value in expected.items() if not torch.equal(found[key], value)]
    assert not different
