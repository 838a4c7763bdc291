"""Pipelines of one step each: to run a stage of an earlier run again, by itself.

A step is given URIs of manifests where the whole pipeline wires artifacts, and takes the component's other parameters
as they are. KFP's own cache is off for it: whoever asks for a step wants it run; the stage itself knows what is done.
"""

import inspect
from typing import Any

from kfp import dsl

from components.average_probs.component import average_probs
from components.export_probs.component import export_probs
from components.models import MODELS
from components.stage_data.component import stage_data
from pipelines.dags.scheduling import AVERAGE_PROBS, EXPORT_PROBS, STAGE_DATA, TRAIN, Resources, schedule

WHERE: dict[str, tuple[type, Any, str]] = {
    "node_selector": (dict, {}, 'labels that nodes with GPUs must have, e.g. {"pool": "gpu"}.'),
    "tolerations": (
        list,
        [],
        'of the taints on nodes with GPUs, e.g. [{"key": "nvidia.com/gpu", "operator": "Exists"}].',
    ),
}


def step(name: str, component: Any, resources: Resources) -> Any:
    """Make the pipeline of one step.

    Its parameters are the component's, less the artifacts, and for a step with GPUs where to run. KFP reads a
    pipeline's parameters from its function's signature and docstring, which are therefore put together here.
    """
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    declared = inspect.signature(component.pipeline_func).parameters.values()
    inputs = [parameter for parameter in declared if parameter.annotation in (str, int, float)]
    where = WHERE if resources.gpus else {}
    placement = [
        inspect.Parameter(key, keyword, default=default, annotation=kind) for key, (kind, default, _) in where.items()
    ]
    names = [parameter.name for parameter in (*inputs, *placement)]

    def pipeline(*arguments: Any) -> None:
        values = dict(zip(names, arguments, strict=True))
        placed = {key: values.pop(key) for key in where}
        schedule(component(**values), resources, name, **placed).set_caching_options(False)

    vars(pipeline)["__signature__"] = inspect.Signature([*inputs, *placement])
    described = [
        inspect.getdoc(component.pipeline_func),
        *(f"    {key}: {text}" for key, (_, _, text) in where.items()),
    ]
    pipeline.__doc__ = "\n".join(str(part) for part in described)
    return dsl.pipeline(name=name, display_name=f"landseg: {name}", description=f"The step {name} by itself.")(pipeline)


STEPS = {
    "stage-data": step("stage-data", stage_data, STAGE_DATA),
    **{f"train-{name}": step(f"train-{name}", train, TRAIN) for name, train in MODELS.items()},
    "export-probs": step("export-probs", export_probs, EXPORT_PROBS),
    "average-probs": step("average-probs", average_probs, AVERAGE_PROBS),
}
