"""What the stages cost: each leaves its time beside its result, and the ensemble's report adds it up.

A manifest holds no times, so that its bytes depend on inputs alone. Each attempt of each worker leaves a record in
`costs/` of the stage's folder when it ends, also with an error; only one that is killed outright leaves none. Training
is the exception: its time is part of its checkpoints, and so of its manifest.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from pydantic import Field

from landseg import storage
from landseg.contracts.documents import Count, Document
from landseg.contracts.errors import LandsegError
from landseg.contracts.model import ModelManifest
from landseg.contracts.references import Arguments
from landseg.ensemble.shard_results import Job
from landseg.report.ensemble import StageCost
from landseg.stages.shared.context import ARGUMENTS

_FOLDER = "costs"


class Cost(Document):
    """One attempt of one worker.

    Attributes:
        seconds: wall-clock time.
        num_gpus: GPUs that it held meanwhile.
    """

    kind: Literal["landseg.cost"] = "landseg.cost"
    version: int = 1
    seconds: Annotated[float, Field(ge=0)]
    num_gpus: Count


def record(folder: str, seconds: float, num_gpus: int = 0) -> None:
    """Leave what an attempt took in the stage's folder."""
    uri = storage.join(folder, _FOLDER, f"{uuid.uuid4().hex[:12]}.json")
    storage.write_document(uri, Cost(seconds=round(seconds, 3), num_gpus=num_gpus))


def recorded(folder: str) -> list[Cost]:
    """What the attempts on a stage's folder took."""
    infos = storage.list_objects(storage.join(folder, _FOLDER))
    return [cost for _, cost in storage.parallel(lambda info: (info, _read(info.uri)), infos)]


def _read(uri: str) -> Cost:
    return storage.read_document(Cost, uri).document


def model_of(probs_folder: str, sha256: str) -> ModelManifest | None:
    """The manifest of the model that made probabilities, if it is still where the export read it."""
    try:
        arguments = storage.read_document(Arguments, storage.join(probs_folder, ARGUMENTS)).document
        loaded = storage.read_document(ModelManifest, str(arguments.values["model_uri"]))
    except (LandsegError, KeyError):  # a bare checkpoint, or a model that was moved or pruned
        return None
    return loaded.document if loaded.sha256 == sha256 else None


def costs(job: Job, seconds: float) -> list[StageCost]:
    """What an ensemble has cost, stage by stage.

    Args:
        job: the ensemble.
        seconds: what averaging has taken so far in this attempt.
    """
    shards = [shard for info in job.dataset.manifest.splits.values() for shard in info.shards]
    dataset = storage.parent(job.dataset.uri)
    found = [_stage("stage-data", recorded(dataset), sum(shard.size_bytes for shard in shards))]
    exports = []
    for member in job.members:
        folder, spec = storage.parent(member.reader.uri), member.reader.spec
        if model := model_of(folder, spec.model_sha256):
            num_gpus = model.parameters.get("processes", 0) if model.parameters.get("device") == "gpu" else 0
            cost = Cost(seconds=model.seconds, num_gpus=num_gpus)
            found.append(_stage(f"train-{member.name}", [cost], model.checkpoint.size_bytes))
        size = sum(shard.size_bytes for split in member.reader.manifest.splits.values() for shard in split)
        exports.append(_stage(f"export-probs-{member.name}", recorded(folder), size))
    earlier = recorded(job.folder)
    return [*found, *exports, _stage("average-probs", [*earlier, Cost(seconds=seconds, num_gpus=0)], None)]


def _stage(name: str, attempts: list[Cost], size_bytes: int | None) -> StageCost:
    gpu_seconds = sum(cost.seconds * cost.num_gpus for cost in attempts)
    seconds = sum(cost.seconds for cost in attempts) if attempts else None
    return StageCost(name, seconds, gpu_seconds or None, size_bytes)
