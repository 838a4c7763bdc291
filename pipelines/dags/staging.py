"""The first part of the pipelines: stage the tiles, by one pod or with the help of several."""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.parameters import REQUIRED, Parameter, bound, declare, of_component, parameters
from components.plan_stage.component import plan_stage
from components.stage_data.component import stage_data
from pipelines.dags.branches import component_arguments
from pipelines.dags.scheduling import PLAN_STAGE, STAGE_DATA, schedule

_NAME = "stage-workers"
_SUMMARY = "Stage shares of the tiles side by side, if there are to be several workers."


def _make_workers(table: list[Parameter]) -> Any:
    """The sub-pipeline of the workers; with one worker it does nothing."""

    def workers(*arguments: Any) -> None:
        given = bound(workers, arguments)
        values = {one.name: given[one.in_pipeline()] for one in table}
        with dsl.If(values["stage_workers"] > 1, name="several-workers"):
            plan = plan_stage(**component_arguments("plan-stage", values))
            schedule(plan, PLAN_STAGE, "plan-stage")
            with dsl.ParallelFor(plan.outputs["shares"], name="shares") as share:
                own = {"worker": share, "join": "later"}
                task = stage_data(**component_arguments("stage-data", values) | own)
                schedule(task, STAGE_DATA, "stage-data-share")

    declare(
        workers,
        _NAME.replace("-", "_"),
        _SUMMARY,
        [(one.declared(one.in_pipeline(), REQUIRED), one.description) for one in table],
    )
    return dsl.pipeline(name=_NAME, description=_SUMMARY)(workers)


def make_stage(pipeline: str) -> Callable[[dict[str, Any]], Any]:
    """Make what stages the tiles in a pipeline.

    Args:
        pipeline: the pipeline's name, under which the table of parameters knows it.

    Returns:
        A function that adds the workers, and the step that stages what they have left and publishes the dataset. It
        takes the values of the pipeline's parameters, by their names in the table, and returns the dataset.
    """
    table = _parameters(pipeline)
    workers = _make_workers(table)  # not within a pipeline: KFP makes no pipeline while it makes another

    def stage(values: dict[str, Any]) -> Any:
        helping = workers(**{one.in_pipeline(): values[one.name] for one in table})
        task = stage_data(**component_arguments("stage-data", values)).after(helping)
        schedule(task, STAGE_DATA, "stage-data")
        return task.outputs["dataset"]

    return stage


def _parameters(pipeline: str) -> list[Parameter]:
    wanted = {one.name for stage in ("plan-stage", "stage-data") for one in of_component(stage)}
    return [one for one in parameters().values() if one.name in wanted and pipeline in one.pipelines]
