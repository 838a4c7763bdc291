"""The models that the pipeline trains: the only list of them (docs/adding-a-model.md)."""

from components.training import train_component

MODELS = {
    "swin": train_component("swin"),
    "resnest": train_component("resnest"),
}
"""The training component of each model, in the order in which the ensemble takes them."""
