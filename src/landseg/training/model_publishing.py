"""The last step of a training: from the result that its processes left to the manifest of the model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from pydantic import BaseModel

from landseg import storage
from landseg.contracts.documents import Blob, parse_json, validate
from landseg.contracts.errors import ConfigError, ContractError, masked
from landseg.contracts.model import ModelInput, ModelManifest
from landseg.dataset.reader import StagedDataset
from landseg.models.model_input import input_of
from landseg.scoring.scores import scores
from landseg.training.job import TrainingJob
from landseg.training.provenance import versions


def publish_model(job: TrainingJob, dataset: StagedDataset, identity: dict[str, Any]) -> storage.Loaded[ModelManifest]:
    """Publish what training left: the manifest of the model, written last.

    Args:
        job: the training.
        dataset: what it trained on.
        identity: what decided the result.
    """
    return storage.publish_manifest(
        storage.join(job.folder, "manifest.json"), _document(job, dataset, identity, _settled(job))
    )


def sample_documents(
    job: TrainingJob, dataset: StagedDataset, identity: dict[str, Any]
) -> tuple[ModelManifest, dict[str, Any]]:
    """The manifest that :func:`publish_model` will write and the result it rests on, with made-up numbers.

    Whoever makes them before training learns then, not hours later, what cannot be written.

    Args:
        job: the training.
        dataset: what it is to train on.
        identity: what decides the result.

    Raises:
        ConfigError: the manifest is not valid.
    """
    classes = dataset.schema.classes
    result: dict[str, Any] = {
        "checkpoint": {"path": "model.pth", "size_bytes": 1, "sha256": "0" * 64},
        "curve": {"iteration": [1], "lr": [0.1], "loss": [1.0]},
        "evaluations": [{"iteration": 1, "epoch": 1, "scores": scores(np.eye(len(classes), dtype=np.int64), classes)}],
        "images_per_s": 1.0,
        "iterations": 1,
        "selected_iteration": 1,
        "seconds": 1.0,
        "num_parameters": 1,
        "peak_memory_bytes": 1,
        "environment": {"CPU": "any"},
        "speed": {},
        "mean": [0.0] * len(dataset.schema.bands),
        "std": [1.0] * len(dataset.schema.bands),
    }
    try:
        document = _document(job, dataset, identity, result)
        document.to_bytes()
    except ValueError as err:
        line = " ".join(str(err).split())[:200]
        raise ConfigError("the model's manifest", f"cannot be written after this training: {line}") from err
    return document, result


class _Evaluation(BaseModel):
    iteration: int
    epoch: int
    scores: dict[str, float]


class _Result(BaseModel):
    """What the report rests on; there is more."""

    curve: dict[str, list[float | None]]
    evaluations: list[_Evaluation]
    images_per_s: float
    num_parameters: int
    peak_memory_bytes: int | None
    environment: dict[str, str]


def read_result(uri: str) -> dict[str, Any]:
    """What a training left next to its manifest, as the report shows it.

    Args:
        uri: of the result.

    Raises:
        ObjectNotFoundError: there is none.
        ContractError: it is damaged.
    """
    data = storage.get_bytes(uri)
    validate(_Result, data, uri)
    found: dict[str, Any] = json.loads(data)  # a curve may hold infinity, which parse_json refuses
    return found


def _document(
    job: TrainingJob, dataset: StagedDataset, identity: dict[str, Any], result: dict[str, Any]
) -> ModelManifest:
    selected = {key: result[key] for key in ("iterations", "selected_iteration") if key in result}
    # The last evaluation is the model's, unless it was selected by its score.
    iteration = result.get("selected_iteration")
    own = [evaluation for evaluation in result["evaluations"] if evaluation["iteration"] == iteration]
    metrics = (own or result["evaluations"] or [{"scores": {}}])[-1]["scores"]
    return ModelManifest(
        name=job.name,
        checkpoint=Blob(**result["checkpoint"]),
        config=job.config,
        class_schema=dataset.manifest.class_schema,
        input=_model_input(result, dataset),
        mean=tuple(result["mean"]),
        std=tuple(result["std"]),
        metrics=metrics,
        parameters=masked({key: value for key, value in identity.items() if key != "config"})
        | result["speed"]
        | selected,
        versions=versions(),
        dataset_id=dataset.manifest.dataset_id,
        dataset_sha256=dataset.sha256,
        seconds=result["seconds"],
    )


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
