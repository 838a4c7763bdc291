"""The part of a pipeline that belongs to one model: train it, and export its probabilities."""

import inspect
from typing import Any

from kfp import dsl

from components.export_probs.component import export_probs
from components.parameters import REQUIRED, Parameter, bound, declare, of_component, parameters, placement
from components.plan_export.component import plan_export
from pipelines.dags.scheduling import EXPORT_PROBS, PLAN_EXPORT, TRAIN, schedule


def branch_parameters(pipeline: str) -> list[Parameter]:
    """The parameters that a branch of a pipeline takes.

    Args:
        pipeline: the pipeline's name.
    """
    wanted = {one.name for stage in ("train", "plan-export", "export-probs") for one in of_component(stage)}
    return [one for one in parameters().values() if one.name in wanted and pipeline in one.pipelines] + placement()


def component_arguments(stage: str, values: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a stage's component: KFP 2.17.0 refuses a task that leaves one out.

    Args:
        stage: the verb of landseg.
        values: of the pipeline's parameters, by their names in the table. What the pipeline does not have is passed as
            its default, e.g. the URIs that artifacts stand in for.
    """
    return {one.name: values.get(one.name, one.default_for()) for one in of_component(stage)}


def make_branch(name: str, pipeline: str, train: Any) -> Any:
    """Make the sub-pipeline of one model, a group in the DAG view.

    Args:
        name: the model's name in a run.
        pipeline: the pipeline that it is part of.
        train: the model's training component.

    Returns:
        A pipeline whose only output are the references to the model's probabilities, one per worker.
    """
    table = branch_parameters(pipeline)

    def branch(*arguments: Any) -> Any:
        given = bound(branch, arguments)
        dataset = given["dataset"]
        values = {one.name: given[one.in_pipeline()] for one in table}
        where = {one.name: values[one.name] for one in placement()}
        training = train(dataset=dataset, **component_arguments("train", values))
        schedule(training, TRAIN, f"train-{name}", gpus=values["gpus"], **where)
        plan = plan_export(dataset=dataset, **component_arguments("plan-export", values))
        schedule(plan, PLAN_EXPORT, f"plan-export-{name}")
        with dsl.ParallelFor(plan.outputs["shares"], name=f"workers-{name}") as share:
            export_arguments = component_arguments("export-probs", values) | {"worker": share}
            export = export_probs(dataset=dataset, model=training.outputs["model"], **export_arguments)
            schedule(export, EXPORT_PROBS, f"export-probs-{name}", **where)
        return dsl.Collected(export.outputs["probs"])

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    dataset = inspect.Parameter("dataset", kind, annotation=dsl.Input[dsl.Dataset])
    does = f"Train {name} and export its probabilities."
    declare(
        branch,
        name,
        does,
        [
            (dataset, "what stage-data wrote"),
            *((one.declared(one.in_pipeline(), REQUIRED), one.description) for one in table),
        ],
        returns=list[dsl.Dataset],
    )
    return dsl.pipeline(name=name, description=does)(branch)
