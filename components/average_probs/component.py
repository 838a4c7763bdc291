"""average-probs: the ensemble of up to five models with an input each, or of any number given as one list."""

from kfp import dsl

from components.factory import make_component

ORDINALS = ("first", "second", "third", "fourth", "fifth")
"""Of the models that have an input each: in KFP, a component has a fixed number of them."""

MODELS_PROBS = {
    f"probs_{number}": (
        dsl.Input[list[dsl.Dataset]],
        f"what the workers of export-probs wrote for the {ordinal} model, or for several; leave it out where "
        "there is none, or probs_uris is given",
    )
    for number, ordinal in enumerate(ORDINALS, 1)
}
"""The inputs that are the models' probabilities."""

average_probs = make_component(
    "average-probs",
    "Average the models' probabilities into label maps, and score each model and the ensemble.",
    inputs={
        "dataset": (dsl.Input[dsl.Dataset], "what stage-data wrote; leave it out where dataset_uri is given"),
        **MODELS_PROBS,
    },
    outputs={
        "labels": (dsl.Output[dsl.Dataset], "reference to the manifest of the label maps"),
        "metrics": (dsl.Output[dsl.Metrics], "mIoU, mAcc, aAcc, ECE, boundary mIoU of each model and the ensemble"),
        "confusion_matrix": (dsl.Output[dsl.ClassificationMetrics], "of the ensemble"),
        "report": (dsl.Output[dsl.HTML], "scores side by side, confusion matrix, gallery"),
        "summary": (dsl.Output[dsl.Artifact], "the scores as JSON"),
    },
)
