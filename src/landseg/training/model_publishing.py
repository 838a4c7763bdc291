"""The last step of a training: from the result that its processes left to the manifest of the model."""

from __future__ import annotations

import json
from typing import Any

from landseg import storage
from landseg.contracts.documents import Blob, parse_json, validate
from landseg.contracts.errors import ContractError, masked
from landseg.contracts.model import ModelInput, ModelManifest
from landseg.dataset.reader import StagedDataset
from landseg.models.model_input import input_of
from landseg.training.job import TrainingJob
from landseg.training.provenance import versions


def publish_model(job: TrainingJob, dataset: StagedDataset, identity: dict[str, Any]) -> storage.Loaded[ModelManifest]:
    """Publish what training left: the manifest of the model, written last.

    Args:
        job: the training.
        dataset: what it trained on.
        identity: what decided the result.
    """
    result = _settled(job)
    selected = {key: result[key] for key in ("iterations", "selected_iteration") if key in result}
    # The last evaluation is the model's, unless it was selected by its score.
    iteration = result.get("selected_iteration")
    own = [evaluation for evaluation in result["evaluations"] if evaluation["iteration"] == iteration]
    scores = (own or result["evaluations"] or [{"scores": {}}])[-1]["scores"]
    document = ModelManifest(
        name=job.name,
        checkpoint=Blob(**result["checkpoint"]),
        config=job.config,
        class_schema=dataset.manifest.class_schema,
        input=_model_input(result, dataset),
        mean=tuple(result["mean"]),
        std=tuple(result["std"]),
        metrics=scores,
        parameters=masked({key: value for key, value in identity.items() if key != "config"})
        | result["speed"]
        | selected,
        versions=versions(),
        dataset_id=dataset.manifest.dataset_id,
        dataset_sha256=dataset.sha256,
        seconds=result["seconds"],
    )
    return storage.publish_manifest(storage.join(job.folder, "manifest.json"), document)


def _model_input(result: dict[str, Any], dataset: StagedDataset) -> ModelInput:
    """What training left of the images; a result of an earlier release leaves their size out."""
    if "input" not in result:
        return input_of(dataset.manifest)
    return validate(ModelInput, json.dumps(result["input"]).encode(), "the training's result")


def _settled(job: TrainingJob) -> dict[str, Any]:
    """What training left, or what an equal training that ended first has published, where its weights are in place."""
    uri = storage.join(job.folder, job.result)
    ours: dict[str, Any] = json.loads((job.scratch / job.result).read_text())
    if storage.create(uri, json.dumps(ours).encode()):
        return ours
    standing = storage.get_bytes(uri)
    try:
        found: dict[str, Any] = parse_json(standing, uri)
        weights = Blob(**found["checkpoint"])
    except (ContractError, KeyError, TypeError, ValueError):  # damaged
        weights = None
    info = weights and storage.stat(storage.join(job.folder, weights.path))
    if weights and info and info.size_bytes == weights.size_bytes:
        own = Blob(**ours["checkpoint"])
        if own.path != weights.path or own.sha256 == weights.sha256:
            return found
    storage.put_bytes(uri, json.dumps(ours).encode())
    return ours
