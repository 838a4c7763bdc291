"""train-resnest: ResNeSt-101 + DeepLabV3+."""

from components.training import train_component

train_resnest = train_component("resnest")
