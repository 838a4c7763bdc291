"""plan-average: the shares that the workers of an average take."""

from kfp import dsl

from components.average_probs.component import MODELS_PROBS
from components.factory import make_component

plan_average = make_component(
    "plan-average",
    "Divide an average among workers, at most one per shard; refuse models that do not fit each other.",
    inputs={
        "dataset": (dsl.Input[dsl.Dataset], "what stage-data wrote; leave it out where dataset_uri is given"),
        **MODELS_PROBS,
    },
    outputs={
        "averages": (dsl.OutputPath(list), "what each worker is given: worker, and probs_uris of all models"),
    },
    image_of="average-probs",
)
