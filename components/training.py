"""The training component of a model: the same container contract for every model, with an image of its own."""

from typing import Any

from kfp import dsl

from components.factory import make_component


def train_component(name: str, image_of: str = "") -> Any:
    """Make the component `train-<name>`.

    Args:
        name: the model's name in a run; also the bundled config it trains by default.
        image_of: the model in whose image it runs, which can train any config; its own by default.
    """
    return make_component(
        "train",
        "Train a model with an mmsegmentation config; resumes from its own checkpoints.",
        inputs={
            "dataset": (dsl.Input[dsl.Dataset], "what stage-data wrote; leave it out where dataset_uri is given"),
        },
        outputs={
            "model": (dsl.Output[dsl.Model], "reference to the model manifest"),
            "metrics": (dsl.Output[dsl.Metrics], "mIoU, mAcc, aAcc and IoU of each class on val"),
            "report": (dsl.Output[dsl.HTML], "curves and metrics of the training"),
        },
        image_of=f"train-{image_of or name}",
        model=name,
    )
