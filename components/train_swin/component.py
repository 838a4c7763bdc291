"""train-swin: Swin-Base + UPerNet."""

from components.models import MODELS

train_swin = MODELS["swin"]
