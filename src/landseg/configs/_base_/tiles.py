# How tiles become input. Where the tiles lie is not said here: landseg passes the staged dataset.

custom_imports = dict(imports=["landseg.training.input.augment"], allow_failed_imports=True)  # IndependentFlip

img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)  # ImageNet, RGB
crop_size = (512, 512)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="IndependentFlip", prob=0.5, direction="horizontal"),
    dict(type="IndependentFlip", prob=0.5, direction="vertical"),
    dict(type="PhotoMetricDistortion"),
    dict(type="Normalize", **img_norm_cfg),
    dict(type="Pad", size=crop_size, pad_val=0, seg_pad_val=255),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_semantic_seg"]),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="MultiScaleFlipAug",
        img_scale=crop_size,
        flip=True,
        flip_direction=["horizontal", "vertical"],
        transforms=[
            dict(type="Resize", keep_ratio=True),
            dict(type="RandomFlip"),
            dict(type="Normalize", **img_norm_cfg),
            dict(type="ImageToTensor", keys=["img"]),
            dict(type="Collect", keys=["img"]),
        ],
    ),
]
# For tiles of any one size, neither padded nor resized: what the tiny twins train on and predict.
own_size_train_pipeline = [step for step in train_pipeline if step["type"] != "Pad"]
own_size_test_pipeline = [test_pipeline[0], dict(test_pipeline[1], img_scale=None, img_ratios=[1.0])]

data = dict(
    samples_per_gpu=8,
    workers_per_gpu=4,
    train=dict(type="CustomDataset", pipeline=train_pipeline),
    val=dict(type="CustomDataset", pipeline=test_pipeline),
    test=dict(type="CustomDataset", pipeline=test_pipeline),
)
