"""train-resnest: ResNeSt-101 + DeepLabV3+."""

from components.models import MODELS

train_resnest = MODELS["resnest"]
