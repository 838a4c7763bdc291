"""What the workers of an average share before they begin: its folder, and weights fitted to the models.

The first to get here fits them. plan-average does, where several workers are to average: else each would fit the same.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from landseg import storage
from landseg.contracts.labels import LayerName
from landseg.contracts.parameters import split_list
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.fitted_weights import SPLIT as FITTED_SPLIT
from landseg.ensemble.fitted_weights import Fit, fit_weights, too_coarse
from landseg.ensemble.members import Member, open_members, room_needed
from landseg.ensemble.shard_results import LAYERS
from landseg.ensemble.trained_models import seen_by
from landseg.stages.shared.context import StageContext, record_arguments
from landseg.storage.records import read_record, settle_record

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SettledAverage:
    """An average that may begin.

    Attributes:
        folder: URI of its folder.
        members: the models, with their weights and temperatures.
        layers: the maps to write in addition to the labels.
        fit: how the weights were fitted, if they were.
    """

    folder: str
    members: tuple[Member, ...]
    layers: tuple[LayerName, ...]
    fit: Fit | None


def open_models(refs: Sequence[str], weights: str, dataset: StagedDataset, scratch: Path) -> list[Member]:
    """The models; see :func:`~landseg.ensemble.members.open_members`.

    A scratch folder that cannot hold a shard of each is refused.

    Args:
        refs: each model's probabilities.
        weights: the value of `--weights`, one that the table of parameters allows.
        dataset: the dataset that they have to be of.
        scratch: local folder for their shards while they are read.
    """
    dataset.check_room()
    given = parse_weights(weights)
    members = open_members(refs, None if isinstance(given, str) else given, dataset, scratch)
    storage.check_room(scratch, room_needed(members, dataset))
    return members


def settle(
    context: StageContext, dataset: StagedDataset, members: list[Member], args: argparse.Namespace, num_threads: int
) -> SettledAverage:
    """Find the folder of an average and, with `--weights auto`, the fitted weights; fit them where nobody has.

    Args:
        context: of average-probs, or of plan-average, which finds the same folder.
        dataset: the dataset.
        members: the models.
        args: the verb's, with `weights`, `temperature`, `seen_val` and `layers`.
        num_threads: threads that fit.
    """
    weights, layers, temperature = parse_weights(args.weights), parse_layers(args.layers), args.temperature
    identity: dict[str, Any] = {
        "dataset_sha256": dataset.sha256,
        "members": [member.describe().model_dump(mode="json") for member in members],
        "layers": layers,
    }
    _note_views(members)
    if _note_seen(members, dataset) and weights == "auto" and args.seen_val == "equal":
        _log.warning("--weights auto: refused, weights stay equal; --seen-val fit fits them to val anyway")
        weights, temperature = "equal", "none"
    if weights == "auto" and temperature == "auto" and (names := too_coarse(members)):
        _log.warning(
            "--temperature auto: %s keep no small probabilities, by which temperatures are fitted; expected an export "
            "with --dtype uint12 or finer: the temperature is a rough one",
            ", ".join(names),
        )
    if weights == "auto":
        identity |= {"weights": weights, "temperature": temperature}
    folder = context.folder("", identity, stage="average-probs")
    asked = {"temperature": temperature, "layers": ",".join(layers)}
    record_arguments(folder, {"dataset_uri": dataset.uri, **asked, **_arguments(members, weights)})
    fitted = None
    if weights == "auto":
        fitted = _fit(folder, members, dataset, context.scratch, temperature == "auto", num_threads)
        members = fitted.apply(members)
    return SettledAverage(folder, tuple(members), layers, fitted)


def _note_seen(members: list[Member], dataset: StagedDataset) -> tuple[str, ...]:
    """Warn of scores on splits that models were trained on; returns the models that were trained on val."""
    labelled = [split for split in members[0].reader.manifest.splits if dataset.manifest.splits[split].labelled]
    by_split = {split: seen_by(members, dataset.manifest.dataset_id, split) for split in labelled}
    for split, names in by_split.items():
        for name in names:
            _log.warning("%s was trained on %s: its scores there say nothing about other tiles", name, split)
    return by_split.get(FITTED_SPLIT, ())


def _note_views(members: list[Member]) -> None:
    """Explain why views that exist are not scored."""
    kept = [member.reader.spec.views for member in members]
    fewest = [member.name for member, views in zip(members, kept, strict=True) if views != max(kept, key=len)]
    if fewest:
        _log.warning("views are scored only where every model keeps the same ones: not %s", ", ".join(fewest))


def parse_weights(text: str) -> list[float] | Literal["equal", "auto"]:
    """What `--weights` says, a value that the table of parameters allows."""
    if text in {"", "equal"}:  # KFP passes an empty string for a parameter that is not given
        return "equal"
    if text == "auto":
        return "auto"
    return [float(weight) for weight in text.split(",")]


def _arguments(members: list[Member], weights: list[float] | Literal["equal", "auto"]) -> dict[str, str]:
    """The models and their weights, in the order of the members, whatever order they were given in."""
    given = weights if isinstance(weights, str) else ",".join(repr(member.weight) for member in members)
    return {"models": ",".join(member.name for member in members), "weights": given}


def parse_layers(text: str) -> tuple[LayerName, ...]:
    """The layers that `--layers` names, in the order in which they are written."""
    wanted = split_list(text)
    return tuple(layer for layer in LAYERS if layer in wanted)


def _fit(
    folder: str, members: list[Member], dataset: StagedDataset, scratch: Path, temperature: bool, num_threads: int
) -> Fit:
    """Fit weights, or find those fitted before."""
    uri = storage.join(folder, "weights.json")
    if found := read_record(Fit, uri):
        return found
    return settle_record(uri, fit_weights(members, dataset, scratch, temperature=temperature, num_threads=num_threads))
