"""The pipeline `predict`: label tiles with models that are already trained."""

from kfp import dsl

from components.average_probs.component import average_probs
from components.stage_data.component import stage_data
from pipelines.dags.branches import EXPORTS
from pipelines.dags.scheduling import AVERAGE_PROBS, STAGE_DATA, schedule


@dsl.pipeline(  # type: ignore[untyped-decorator]  # kfp has no types
    name="predict",
    display_name="landseg: predict",
    description="Label tiles with two trained models: export their probabilities and average them.",
)
def predict(
    source: str,
    storage_uri: str,
    run_id: str,
    swin_model_uri: str,
    resnest_model_uri: str,
    swin_export_workers: int = 1,
    resnest_export_workers: int = 1,
    splits: str = "test",
    tta: str = "hv",
    views: str = "mean",
    dtype: str = "companded",
    weights: str = "equal",
    temperature: str = "none",
    layers: str = "",
    source_version: str = "",
    on_bad_tile: str = "fail",
    max_bad: int = 10,
    node_selector: dict = {},  # type: ignore[type-arg]  # noqa: B006 - KFP reads the default, nothing changes it
    tolerations: list = [],  # type: ignore[type-arg]  # noqa: B006
) -> None:
    """Label tiles with models that are already trained.

    Args:
        source: raw tiles (docs/contracts.md, "Raw dataset"): an s3:// prefix, or a folder the pod can see.
        storage_uri: root in object storage, s3://bucket/prefix.
        run_id: names the run; results go to <storage_uri>/runs/<run_id>/.
        swin_model_uri: URI of the first model's manifest.
        resnest_model_uri: URI of the second model's manifest.
        swin_export_workers: pods that predict with swin at once, one GPU each.
        resnest_export_workers: pods that predict with resnest at once, one GPU each.
        splits: splits to predict, comma-separated.
        tta: views that are averaged: none, h or hv.
        views: mean: store the mean of the views; each: every view by itself too, so that their worth can be scored.
        dtype: how probabilities are stored.
        weights: one number per model, swin first, comma-separated; equal; or auto: fitted to half of val.
        temperature: none, or auto: with weights auto, fit how sharp each model's probabilities should be.
        layers: maps to write beside the labels, comma-separated: entropy, disagreement.
        source_version: anything that changes when the tiles at the source do; `make submit` fills it in.
        on_bad_tile: fail, or skip: leave bad tiles out.
        max_bad: with skip, fail all the same if more tiles are bad.
        node_selector: labels that nodes with GPUs must have, e.g. {"pool": "gpu"}.
        tolerations: of the taints on nodes with GPUs, e.g. [{"key": "nvidia.com/gpu", "operator": "Exists"}].
    """
    stage = stage_data(
        source=source,
        source_version=source_version,
        storage_uri=storage_uri,
        on_bad_tile=on_bad_tile,
        max_bad=max_bad,
    )
    schedule(stage, STAGE_DATA, "stage-data")
    dataset = stage.outputs["dataset"]
    common = {
        "dataset": dataset,
        "storage_uri": storage_uri,
        "run_id": run_id,
        "splits": splits,
        "tta": tta,
        "views": views,
        "dtype": dtype,
        "node_selector": node_selector,
        "tolerations": tolerations,
    }
    swin = EXPORTS["swin"](model_uri=swin_model_uri, export_workers=swin_export_workers, **common)
    resnest = EXPORTS["resnest"](model_uri=resnest_model_uri, export_workers=resnest_export_workers, **common)
    average = average_probs(
        dataset=dataset,
        dataset_uri="",
        probs_1=swin.output,
        probs_2=resnest.output,
        probs_uris="",
        weights=weights,
        temperature=temperature,
        layers=layers,
        storage_uri=storage_uri,
        run_id=run_id,
    )
    schedule(average, AVERAGE_PROBS, "average-probs")
