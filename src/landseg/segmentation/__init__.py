"""Everything that needs torch, mmcv and mmsegmentation: datasets, transforms, training, inference, weights."""
