# The same family at a size that learns the sample data from scratch on two CPU cores.
_base_ = "swin.py"

pretrained = None
model = dict(
    backbone=dict(
        embed_dims=32, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4, patch_size=4, drop_path_rate=0.0
    ),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=48),
    auxiliary_head=dict(in_channels=128, channels=32),
)
optimizer = dict(lr=1e-3)
lr_config = dict(warmup_iters=50)
train_pipeline = {{_base_.own_size_train_pipeline}}
test_pipeline = {{_base_.own_size_test_pipeline}}
data = dict(
    train=dict(pipeline=train_pipeline),
    val=dict(pipeline=test_pipeline),
    test=dict(pipeline=test_pipeline),
)
