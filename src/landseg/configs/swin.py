# Swin-Base + UPerNet, full size: two 24 GB GPUs.
_base_ = ["_base_/models/upernet_swin.py", "_base_/tiles.py", "_base_/runtime.py"]

# The official ImageNet-22k weights; landseg converts their naming to mmseg's. `train --pretrained` overrides it.
pretrained = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window12_384_22k.pth"

optimizer = dict(
    type="AdamW",
    lr=6e-5,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    paramwise_cfg=dict(
        custom_keys={
            "absolute_pos_embed": dict(decay_mult=0.0),
            "relative_position_bias_table": dict(decay_mult=0.0),
            "norm": dict(decay_mult=0.0),
        }
    ),
)
lr_config = dict(
    policy="poly", power=1.0, min_lr=0.0, by_epoch=False, warmup="linear", warmup_iters=1500, warmup_ratio=1e-6
)
