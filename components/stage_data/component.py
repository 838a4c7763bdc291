"""stage-data: raw tiles become an indexed, checksummed dataset in object storage."""

from kfp import dsl

from components.factory import make_component

stage_data = make_component(
    "stage-data",
    "Pair, validate and pack raw tiles into tar shards in object storage, with manifest and statistics.",
    inputs={},
    outputs={
        "dataset": (dsl.Output[dsl.Dataset], "reference to the dataset manifest"),
        "report": (dsl.Output[dsl.HTML], "what is in the dataset: tiles, classes, bands, pictures, problems"),
        "checks": (dsl.Output[dsl.Artifact], "the report's facts as JSON"),
    },
)
