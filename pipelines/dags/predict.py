"""The pipeline `predict`: label tiles with models that are already trained, any number of them."""

from typing import Any

from kfp import dsl

from components.average_probs.component import average_probs
from components.export_probs.component import export_probs
from components.parameters import bound, declare, parameters, placement
from components.plan_export.component import plan_export
from components.stage_data.component import stage_data
from pipelines.dags.branches import component_arguments
from pipelines.dags.scheduling import AVERAGE_PROBS, EXPORT_PROBS, PLAN_EXPORT, STAGE_DATA, schedule

_NAME = "predict"
_SUMMARY = "Label tiles with trained models: export the probabilities of each and average them."


def _make() -> Any:
    table = [one for one in parameters().values() if _NAME in one.pipelines]

    def pipeline(*arguments: Any) -> None:
        given = bound(pipeline, arguments)
        values = {one.name: given[one.in_pipeline()] for one in table}
        stage = stage_data(**component_arguments("stage-data", values))
        schedule(stage, STAGE_DATA, "stage-data")
        dataset = stage.outputs["dataset"]
        plan = plan_export(dataset=dataset, **component_arguments("plan-export", values))
        schedule(plan, PLAN_EXPORT, "plan-export")
        # One loop over the workers of all models: KFP collects the artifacts of a loop, not those of a loop in a loop.
        with dsl.ParallelFor(plan.outputs["exports"], name="workers") as worker:
            own = {"model_uri": worker.model_uri, "worker": worker.worker}
            export = export_probs(dataset=dataset, **component_arguments("export-probs", values) | own)
            schedule(export, EXPORT_PROBS, "export-probs", **{one.name: values[one.name] for one in placement()})
        average = average_probs(
            dataset=dataset,
            probs_1=dsl.Collected(export.outputs["probs"]),
            **component_arguments("average-probs", values),
        )
        schedule(average, AVERAGE_PROBS, "average-probs")

    declare(
        pipeline,
        _NAME,
        _SUMMARY,
        [(one.declared(one.in_pipeline(), one.default_for(pipeline=_NAME)), one.description) for one in table],
    )
    return dsl.pipeline(name=_NAME, display_name="landseg: predict", description=_SUMMARY)(pipeline)


predict = _make()
