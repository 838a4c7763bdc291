# ResNeSt-101 + DeepLabV3+, full size: two 24 GB GPUs.
_base_ = ["_base_/models/deeplabv3plus_resnest.py", "_base_/tiles.py", "_base_/runtime.py"]

# ImageNet weights in mmcls's naming, which landseg converts. `train --pretrained` overrides it.
pretrained = "https://download.openmmlab.com/mmclassification/v0/resnest/resnest101_imagenet_converted-032caa52.pth"

optimizer = dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0005)
lr_config = dict(policy="poly", power=0.9, min_lr=1e-4, by_epoch=False)
