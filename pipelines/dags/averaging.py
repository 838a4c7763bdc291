"""The last part of the pipelines: divide the average among workers, and let them average."""

from typing import Any

from kfp import dsl

from components.average_probs.component import average_probs
from components.plan_average.component import plan_average
from pipelines.dags.branches import component_arguments
from pipelines.dags.scheduling import AVERAGE_PROBS, PLAN_AVERAGE, schedule


def average(dataset: Any, probs: dict[str, Any], values: dict[str, Any]) -> None:
    """Add the plan and the loop over its shares; the worker that ends last publishes label maps, scores and report.

    Args:
        dataset: what stage-data wrote.
        probs: what the exports wrote, by the plan's inputs. Only the plan is given all of it: its workers get the
            URI of each model's manifest.
        values: of the pipeline's parameters, by their names in the table.
    """
    plan = plan_average(dataset=dataset, **probs, **component_arguments("plan-average", values))
    schedule(plan, PLAN_AVERAGE, "plan-average")
    with dsl.ParallelFor(plan.outputs["averages"], name="average-workers") as one:
        own = {"probs_uris": one.probs_uris, "worker": one.worker}
        task = average_probs(dataset=dataset, **component_arguments("average-probs", values) | own)
        schedule(task, AVERAGE_PROBS, "average-probs")
