"""The facts of the training report, gathered from what training left."""

from __future__ import annotations

from typing import Any

from landseg.contracts.dataset import DatasetManifest
from landseg.contracts.model import ModelManifest
from landseg.report.training import Evaluation, TrainingReport


def training_report(
    config_name: str,
    run_id: str,
    dataset_uri: str,
    dataset: DatasetManifest,
    model: ModelManifest,
    result: dict[str, Any],
) -> TrainingReport:
    """Assemble everything that the page shows.

    Args:
        config_name: the config as the user named it.
        run_id: the run's name.
        dataset_uri: of the dataset manifest.
        dataset: what the model was trained on.
        model: the manifest.
        result: the content of training's `result.json`: curves, evaluations, speed, memory, environment.
    """
    curve = dict(result["curve"])
    parameters = model.parameters
    pixels = [dataset.splits[split].class_pixels for split in parameters["train_splits"]]
    on_gpu = parameters["device"] == "gpu"
    return TrainingReport(
        name=model.name,
        config_name=config_name,
        run_id=run_id,
        dataset=dataset.name,
        classes=model.class_schema.classes,
        palette=model.class_schema.palette,
        iterations=[int(value) for value in curve.pop("iteration")],
        lr=curve.pop("lr"),
        losses={name: values for name, values in curve.items() if "loss" in name},
        evaluations=tuple(Evaluation(**evaluation) for evaluation in result["evaluations"]),
        selected_iteration=result.get("selected_iteration"),
        train_pixels=tuple(map(sum, zip(*pixels, strict=True))),
        num_parameters=result["num_parameters"],
        images_per_s=result["images_per_s"],
        seconds=model.seconds,
        num_gpus=parameters["processes"] if on_gpu else 0,
        peak_memory_bytes=result["peak_memory_bytes"] if on_gpu else None,
        size_bytes=model.checkpoint.size_bytes,
        config=model.config,
        provenance={
            "Dataset": {"id": model.dataset_id, "sha256 of the manifest": model.dataset_sha256, "URI": dataset_uri},
            "Parameters": {key: str(value) for key, value in parameters.items()},
            "Environment": result["environment"],
            "Versions": dict(model.versions),
        },
        warnings=_warnings(parameters),
    )


def _warnings(parameters: dict[str, Any]) -> tuple[str, ...]:
    """What the reader must know before believing a number."""
    warnings = []
    if "val" in parameters["train_splits"]:
        warnings.append("The model was trained on val: no score of it on val says anything.")
    if parameters.get("selection", "last") != "last":
        warnings.append(
            "The weights with the best score on val were selected: that score is higher than on unseen tiles."
        )
    if parameters["class_weights"] != "none":
        warnings.append("Classes are weighted in the loss: it does not compare with that of another weighting.")
    return tuple(warnings)
