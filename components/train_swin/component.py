"""train-swin: Swin-Base + UPerNet."""

from components.training import train_component

train_swin = train_component("swin")
