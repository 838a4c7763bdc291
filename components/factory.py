"""Makes the components: a stage's parameters from the table, its artifacts from the component's own declaration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.images import image
from components.parameters import bound, declare, of_component

ATTEMPTS = 3
"""How often a container begins its stage before it fails: stock KFP does not start one again that has failed."""

Artifacts = Mapping[str, tuple[Any, str]]
"""By name: the annotation, e.g. `dsl.Output[dsl.Model]`, and what the artifact is."""


def make_component(
    stage: str,
    summary: str,
    *,
    inputs: Artifacts,
    outputs: Artifacts,
    image_of: str = "",
    model: str = "",
) -> Any:
    """Make the container component of a stage.

    Args:
        stage: the verb of landseg.
        summary: what it does, in one line.
        inputs: its input artifacts, each of which may be left out.
        outputs: its output artifacts, or output parameters.
        image_of: the component in whose image it runs; its own by default.
        model: of a component that belongs to one model: the model's name in a run.
    """
    name = f"{stage}-{model}" if model else stage
    table = of_component(stage)

    def component(*arguments: Any) -> dsl.ContainerSpec:
        values = bound(component, arguments)
        flags = [item for one in table if one.option for item in (one.option, values[one.name])]
        named = ["--name", model] if model else []
        return dsl.ContainerSpec(
            image=image(image_of or name),
            command=["landseg", stage],
            args=[*named, *flags, "--attempts", str(ATTEMPTS), "--executor-input", "{{$}}"],
        )

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    declare(
        component,
        name.replace("-", "_"),  # KFP names the component after the function
        summary,
        [
            *(
                (inspect.Parameter(key, kind, annotation=annotation), text)
                for key, (annotation, text) in outputs.items()
            ),
            *(
                (inspect.Parameter(key, kind, annotation=annotation, default=None), text)
                for key, (annotation, text) in inputs.items()
            ),
            *((one.declared(one.name, one.default_for(model)), one.description) for one in table),
        ],
    )
    return dsl.container_component(component)
