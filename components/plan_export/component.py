"""plan-export: the shares that the workers of an export take."""

from kfp import dsl

from components.factory import make_component

plan_export = make_component(
    "plan-export",
    "Divide an export among workers, at most one per shard.",
    inputs={"dataset": (dsl.Input[dsl.Dataset], "what stage-data wrote; leave it out where dataset_uri is given")},
    outputs={
        "shares": (dsl.OutputPath(list), 'what each worker is given, e.g. ["1/2", "2/2"]'),
        "exports": (dsl.OutputPath(list), "the workers of every model of model_uris: model_uri and worker of each"),
    },
    image_of="stage-data",
)
