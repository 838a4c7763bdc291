"""The pipeline `train-and-ensemble`: stage the tiles, train the models side by side, average their probabilities."""

from kfp import dsl

from components.average_probs.component import average_probs
from components.stage_data.component import stage_data
from pipelines.dags.branches import BRANCHES
from pipelines.dags.scheduling import AVERAGE_PROBS, STAGE_DATA, schedule


@dsl.pipeline(  # type: ignore[untyped-decorator]  # kfp has no types
    name="train-and-ensemble",
    display_name="landseg: train and ensemble",
    description="Train Swin-Base + UPerNet and ResNeSt-101 + DeepLabV3+, average their probabilities, report.",
)
def train_and_ensemble(
    source: str,
    storage_uri: str,
    run_id: str,
    swin_config: str = "swin",
    resnest_config: str = "resnest",
    swin_lr: float = 0.0,
    resnest_lr: float = 0.0,
    swin_pretrained: str = "",
    resnest_pretrained: str = "",
    epochs: int = 0,
    batch_per_gpu: int = 0,
    seed: int = 0,
    train_splits: str = "train",
    class_weights: str = "none",
    precision: str = "auto",
    gpus: int = 2,
    swin_export_workers: int = 1,
    resnest_export_workers: int = 1,
    splits: str = "val,test",
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
    """Train two models and average their probabilities.

    Args:
        source: raw tiles (docs/contracts.md, "Raw dataset"): an s3:// prefix, or a folder the pod can see.
        storage_uri: root in object storage, s3://bucket/prefix.
        run_id: names the run; results go to <storage_uri>/runs/<run_id>/.
        swin_config: a bundled mmseg config, or the path or URI of one.
        resnest_config: a bundled mmseg config, or the path or URI of one.
        swin_lr: learning rate; 0 means the config's.
        resnest_lr: learning rate; 0 means the config's.
        swin_pretrained: weights to start from: URL, s3:// URI, path or none; empty means the config's.
        resnest_pretrained: weights to start from: URL, s3:// URI, path or none; empty means the config's.
        epochs: of both trainings; 0 means the config's.
        batch_per_gpu: images per GPU and iteration; 0 means the config's.
        seed: of everything random.
        train_splits: splits to train on, comma-separated; with val in it there are no honest metrics.
        class_weights: of the losses: none, inverse-frequency or sqrt-inverse-frequency.
        precision: auto, fp32, fp16 or bf16.
        gpus: processes per training, one per GPU; 0 trains on the CPU.
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
        "epochs": epochs,
        "batch_per_gpu": batch_per_gpu,
        "seed": seed,
        "train_splits": train_splits,
        "class_weights": class_weights,
        "precision": precision,
        "gpus": gpus,
        "splits": splits,
        "tta": tta,
        "views": views,
        "dtype": dtype,
        "node_selector": node_selector,
        "tolerations": tolerations,
    }
    swin = BRANCHES["swin"](
        config=swin_config, lr=swin_lr, pretrained=swin_pretrained, export_workers=swin_export_workers, **common
    )
    resnest = BRANCHES["resnest"](
        config=resnest_config,
        lr=resnest_lr,
        pretrained=resnest_pretrained,
        export_workers=resnest_export_workers,
        **common,
    )
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
