"""export-probs: softmax probabilities of every tile, from one model."""

from kfp import dsl

from components.factory import make_component

export_probs = make_component(
    "export-probs",
    "Predict every tile of the given splits and store the probabilities.",
    inputs={
        "dataset": (dsl.Input[dsl.Dataset], "what stage-data wrote; leave it out where dataset_uri is given"),
        "model": (dsl.Input[dsl.Model], "what a training wrote; leave it out where model_uri is given"),
    },
    outputs={
        "probs": (
            dsl.Output[dsl.Dataset],
            "reference to the probability manifest; of several workers, the last to finish writes it",
        ),
    },
)
