"""Pipelines of one step each, to run a single stage of an earlier run again.

A step is given URIs of manifests where the whole pipeline wires artifacts, and takes the component's other parameters
as they are. KFP's own cache is off for it: whoever asks for a step wants it run; the stage itself knows what is done.
"""

from typing import Any

from kfp import dsl

from components.average_probs.component import average_probs
from components.export_probs.component import export_probs
from components.models import MODELS
from components.parameters import bound, declare, of_component, placement
from components.stage_data.component import stage_data
from pipelines.dags.scheduling import AVERAGE_PROBS, EXPORT_PROBS, STAGE_DATA, TRAIN, Resources, schedule


def step(stage: str, component: Any, resources: Resources, model: str = "") -> Any:
    """Make the pipeline of one step.

    Its parameters are the component's, less the artifacts, and for a step with GPUs where to run.

    Args:
        stage: the verb of landseg.
        component: the stage's component.
        resources: what it requests.
        model: of a component that belongs to one model: the model's name in a run.
    """
    name = f"{stage}-{model}" if model else stage
    placed = placement() if resources.gpus else []
    table = [*of_component(stage), *placed]

    def pipeline(*arguments: Any) -> None:
        values = bound(pipeline, arguments)
        where = {one.name: values.pop(one.name) for one in placed}
        schedule(component(**values), resources, name, gpus=values.get("gpus"), **where).set_caching_options(False)

    summary = f"The step {name} on its own."
    declare(
        pipeline,
        name.replace("-", "_"),
        summary,
        [(one.declared(one.name, one.default_for(model)), one.description) for one in table],
    )
    return dsl.pipeline(name=name, display_name=f"landseg: {name}", description=summary)(pipeline)


STEPS = {
    "stage-data": step("stage-data", stage_data, STAGE_DATA),
    **{f"train-{name}": step("train", train, TRAIN, name) for name, train in MODELS.items()},
    "export-probs": step("export-probs", export_probs, EXPORT_PROBS),
    "average-probs": step("average-probs", average_probs, AVERAGE_PROBS),
}
