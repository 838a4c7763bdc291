"""Makes a whole pipeline: stage the tiles, train each model in a branch of its own, average their probabilities."""

from typing import Any

from kfp import dsl

from components.average_probs.component import ORDINALS
from components.models import MODELS
from components.parameters import bound, declare, parameters
from pipelines.dags.averaging import average
from pipelines.dags.branches import branch_parameters, make_branch
from pipelines.dags.staging import make_stage


def make_pipeline(name: str, description: str) -> Any:
    """Make the pipeline of all models.

    Args:
        name: the pipeline's name, under which the table of parameters knows it.
        description: shown in the UI.
    """
    if len(MODELS) > len(ORDINALS):
        raise ValueError(f"components/models.py: expected at most {len(ORDINALS)} models, found {len(MODELS)}")
    table = [one for one in parameters().values() if name in one.pipelines]
    of_branch = branch_parameters(name)
    stage = make_stage(name)
    branches = {model: make_branch(model, name, train) for model, train in MODELS.items()}

    def pipeline(*arguments: Any) -> None:
        given = bound(pipeline, arguments)
        values = {one.name: given[one.in_pipeline()] for one in table if name not in one.per_model}
        dataset = stage(values)
        probs = {}
        for number, (model, branch) in enumerate(branches.items(), 1):
            own = {one.in_pipeline(): given[one.in_pipeline(model)] for one in of_branch}
            probs[f"probs_{number}"] = branch(dataset=dataset, **own).output
        average(dataset, probs, values)

    declare(
        pipeline,
        name.replace("-", "_"),
        description,
        [
            (one.declared(one.in_pipeline(model), one.default_for(model, name)), one.description)
            for one in table
            for model in (MODELS if name in one.per_model else [""])
        ],
    )
    display_name = f"landseg: {name.replace('-', ' ')}"
    return dsl.pipeline(name=name, display_name=display_name, description=description)(pipeline)
