"""What an ensemble cost, from the records that the stages leave (:class:`landseg.contracts.references.Cost`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from landseg import storage
from landseg.contracts.documents import Model
from landseg.contracts.references import COSTS, Cost
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.trained_models import model_of
from landseg.storage.records import settle_record


@dataclass(frozen=True)
class StageCost:
    """What one stage cost.

    Attributes:
        stage: e.g. `train-swin`.
        seconds: wall-clock time of the work (of the first run, if a rerun found it done); None if not known.
        gpu_seconds: seconds times GPUs; None if no GPU was used.
        size_bytes: what the stage wrote to object storage; None if not known.
    """

    stage: str
    seconds: float | None
    gpu_seconds: float | None = None
    size_bytes: int | None = None


class _Counted(Model):
    """What an ensemble cost, as it was counted first."""

    costs: tuple[StageCost, ...]


def stage_costs(ensemble: Ensemble, seconds: float) -> list[StageCost]:
    """What an ensemble cost, stage by stage, as whoever came first has counted it.

    Several may make the report at once, or again later, and the times differ; the report must not.

    Args:
        ensemble: the ensemble.
        seconds: what averaging has taken so far in this attempt.
    """
    counted = _Counted(costs=tuple(_count(ensemble, seconds)))
    return list(settle_record(storage.join(ensemble.folder, "parts", "costs.json"), counted).costs)


def _count(ensemble: Ensemble, seconds: float) -> list[StageCost]:
    """What an ensemble cost until now.

    Args:
        ensemble: the ensemble.
        seconds: what averaging has taken so far in this attempt.
    """
    shards = [shard for info in ensemble.dataset.manifest.splits.values() for shard in info.shards]
    dataset = storage.parent(ensemble.dataset.uri)
    found = [_stage("stage-data", _recorded(dataset), sum(shard.size_bytes for shard in shards))]
    exports = []
    for member in ensemble.members:
        folder = storage.parent(member.reader.uri)
        if model := model_of(member):
            cost = Cost(seconds=model.seconds, num_gpus=_num_gpus(model.parameters))
            found.append(_stage(f"train-{member.name}", [cost], model.checkpoint.size_bytes))
        size = member.reader.manifest.size_bytes()
        exports.append(_stage(f"export-probs-{member.name}", _recorded(folder), size))
    earlier = _recorded(ensemble.folder)
    return [*found, *exports, _stage("average-probs", [*earlier, Cost(seconds=seconds, num_gpus=0)], None)]


def _num_gpus(parameters: Mapping[str, Any]) -> int:
    """How many GPUs a model was trained on, by its manifest, which may come from elsewhere and say anything."""
    processes = parameters.get("processes")
    if type(processes) is not int or processes < 0 or parameters.get("device") != "gpu":
        return 0
    return processes


def _stage(name: str, attempts: list[Cost], size_bytes: int | None) -> StageCost:
    gpu_seconds = sum(cost.seconds * cost.num_gpus for cost in attempts)
    seconds = sum(cost.seconds for cost in attempts) if attempts else None
    return StageCost(name, seconds, gpu_seconds or None, size_bytes)


def _recorded(folder: str) -> list[Cost]:
    """The records of all attempts in a stage's folder."""
    infos = storage.list_objects(storage.join(folder, COSTS))
    return list(storage.parallel(lambda info: storage.read_document(Cost, info.uri).document, infos))
