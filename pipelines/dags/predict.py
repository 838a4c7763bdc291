"""The pipeline `predict`: label tiles with models that are already trained, any number of them."""

from typing import Any

from kfp import dsl

from components.export_probs.component import export_probs
from components.parameters import bound, declare, parameters, placement
from components.plan_export.component import plan_export
from pipelines.dags.averaging import average
from pipelines.dags.branches import component_arguments
from pipelines.dags.scheduling import EXPORT_PROBS, PLAN_EXPORT, schedule
from pipelines.dags.staging import make_stage

_NAME = "predict"
_SUMMARY = "Label tiles with trained models: export the probabilities of each and average them."


def _make() -> Any:
    table = [one for one in parameters().values() if _NAME in one.pipelines]
    stage = make_stage(_NAME)

    def pipeline(*arguments: Any) -> None:
        given = bound(pipeline, arguments)
        values = {one.name: given[one.in_pipeline()] for one in table}
        dataset = stage(values)
        plan = plan_export(dataset=dataset, **component_arguments("plan-export", values))
        schedule(plan, PLAN_EXPORT, "plan-export")
        # One loop over the workers of all models: KFP collects the artifacts of a loop, not those of a loop in a loop.
        with dsl.ParallelFor(plan.outputs["exports"], name="workers") as worker:
            own = {"model_uri": worker.model_uri, "worker": worker.worker}
            export = export_probs(dataset=dataset, **component_arguments("export-probs", values) | own)
            schedule(export, EXPORT_PROBS, "export-probs", **{one.name: values[one.name] for one in placement()})
        average(dataset, {"probs_1": dsl.Collected(export.outputs["probs"])}, values)

    declare(
        pipeline,
        _NAME,
        _SUMMARY,
        [(one.declared(one.in_pipeline(), one.default_for(pipeline=_NAME)), one.description) for one in table],
    )
    return dsl.pipeline(name=_NAME, display_name="landseg: predict", description=_SUMMARY)(pipeline)


predict = _make()
