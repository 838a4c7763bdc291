# The same family at a size that learns the sample data from scratch on two CPU cores.
_base_ = "resnest.py"

pretrained = None
model = dict(
    backbone=dict(depth=50, stem_channels=16, base_channels=16),
    decode_head=dict(in_channels=512, channels=48, dilations=(1, 2, 4, 6), c1_in_channels=64, c1_channels=16),
    auxiliary_head=dict(in_channels=256, channels=32),
)
optimizer = dict(lr=0.02)
train_pipeline = {{_base_.own_size_train_pipeline}}
test_pipeline = {{_base_.own_size_test_pipeline}}
data = dict(
    train=dict(pipeline=train_pipeline),
    val=dict(pipeline=test_pipeline),
    test=dict(pipeline=test_pipeline),
)
