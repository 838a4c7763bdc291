"""`landseg average-probs`: models' probabilities become label maps, scores and a report."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError
from landseg.contracts.labels import LabelsManifest, LayerName
from landseg.contracts.parameters import add_parameter, check_values, split_list
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.fitted_weights import SPLIT as FITTED_SPLIT
from landseg.ensemble.fitted_weights import Fit, fit_weights
from landseg.ensemble.maps.files import remove_maps
from landseg.ensemble.maps.scenes import Scenes
from landseg.ensemble.members import Member, affordable_threads, open_members
from landseg.ensemble.publishing import Outcome, publish
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.shard_results import LAYERS
from landseg.ensemble.trained_models import seen_by
from landseg.raw.processes import num_cpus
from landseg.report.ensemble import render
from landseg.report.ensemble_facts import ensemble_report
from landseg.scoring.scores import METRICS
from landseg.stages.shared import costs
from landseg.stages.shared.context import StageContext, finished, record_arguments, stage_context
from landseg.stages.shared.options import add_common_arguments, check_writable, local_folder, parse_share
from landseg.stages.shared.results import tell, write_maps
from landseg.storage.records import read_record, write_record

HELP = "average models' probabilities into label maps; score the models and the ensemble"
EXAMPLE = """landseg average-probs --dataset out/dataset.json --probs swin/probs.json --probs resnest/probs.json \\
      --storage-uri s3://bucket/landseg --run-id first"""

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    group = parser.add_argument_group("what to average")
    for name in ("dataset_uri", "probs_uris", "weights", "temperature", "seen_val"):
        add_parameter(group, name)
    group = parser.add_argument_group("what to write")
    add_parameter(group, "layers")
    group.add_argument("--png-dir", type=local_folder, metavar="DIR", help="also write the maps to DIR/<split>/")
    group = parser.add_argument_group("how to compute")
    group.add_argument(
        "--num-workers", type=int, default=num_cpus(), metavar="N", help="threads (default: the CPUs, %(default)s)"
    )
    add_parameter(group, "worker")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Average, or find finished label maps; publish their reference, the scores and the report."""
    check_arguments(args)
    if args.png_dir is not None:
        check_writable("--png-dir", args.png_dir)
        remove_maps(args.png_dir)
    with stage_context("average-probs", args) as context:
        ref = context.reference("dataset", args.dataset)
        dataset = StagedDataset.open(ref, context.scratch / "dataset", access="few")
        labels = average(context, dataset, context.references("probs", args.probs), args)
        if labels is None:
            return
        write_outputs(context, labels)
        if args.png_dir is not None:
            write_maps(labels, dataset, args.png_dir, context.scratch)
        tell(labels, args.png_dir, args.output_dir)
        print(labels.uri)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments that :func:`average` would refuse, before anything is done.

    Raises:
        ConfigError: one of them is wrong, or does not fit another.
    """
    if args.num_workers < 1:
        raise ConfigError("--num-workers", f"expected at least 1, found {args.num_workers}")
    check_values("average-probs", args)


def average(
    context: StageContext, dataset: StagedDataset, refs: Sequence[str], args: argparse.Namespace
) -> storage.Loaded[LabelsManifest] | None:
    """Average models' probabilities, or find finished label maps.

    Args:
        context: the stage's.
        dataset: the staged dataset.
        refs: each model's probabilities.
        args: the verb's, checked by :func:`check_arguments`.

    Returns:
        None while shards of other shares have yet to be averaged.
    """
    share, num_shares = parse_share(args.worker)
    weights, layers, temperature = _parse_weights(args.weights), _parse_layers(args.layers), args.temperature
    members = open_members(refs, None if isinstance(weights, str) else weights, dataset, context.scratch)
    num_threads = affordable_threads(members, args.num_workers)
    identity: dict[str, Any] = {
        "dataset_sha256": dataset.sha256,
        "members": [member.describe().model_dump(mode="json") for member in members],
        "layers": layers,
    }
    _note_views(members)
    if _note_seen(members, dataset) and weights == "auto" and args.seen_val == "equal":
        _log.warning("--weights auto: refused, weights stay equal; --seen-val fit fits them to val all the same")
        weights, temperature = "equal", "none"
    if weights == "auto":
        identity |= {"weights": weights, "temperature": temperature}
    folder = context.folder("", identity)
    asked = {"temperature": temperature, "layers": ",".join(layers)}
    record_arguments(folder, {"dataset_uri": dataset.uri, **asked, **_arguments(members, weights)})
    fitted = None
    if weights == "auto":
        fitted = _fit(folder, members, dataset, temperature == "auto", num_threads)
        members = fitted.apply(members)
    splits = members[0].reader.manifest.splits
    ensemble = Ensemble(
        folder=folder,
        dataset=dataset,
        members=tuple(members),
        tiles={split: dataset.index(split) for split in splits},
        scratch=context.scratch,
        layers=layers,
        fit=fitted,
    )
    if labels := finished(LabelsManifest, ensemble.folder):
        return labels
    scenes = Scenes(ensemble)
    try:
        parts = ensemble.parts()
        _average(ensemble, ensemble.share(share - 1, num_shares), parts, num_threads)
        scenes.write(scenes.share(share - 1, num_shares), parts, num_threads)
        left = _unfinished(ensemble, scenes)
    except BaseException:
        costs.record(folder, context.seconds)
        raise
    if left:
        _log.info("%s of other shares have yet to be averaged", left)
        costs.record(folder, context.seconds)
        return None

    def report(outcome: Outcome) -> str:
        return render(ensemble_report(outcome, context.run_id, context.seconds, num_threads))

    labels = publish(ensemble, scenes.results(), report)
    costs.record(folder, context.seconds)
    return labels


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


def _parse_weights(text: str) -> list[float] | Literal["equal", "auto"]:
    if text in {"", "equal"}:  # KFP passes an empty string for a parameter that is not given
        return "equal"
    if text == "auto":
        return "auto"
    return [float(weight) for weight in text.split(",")]


def _arguments(members: list[Member], weights: list[float] | Literal["equal", "auto"]) -> dict[str, str]:
    """The models and their weights, in the order of the members, whatever order they were given in."""
    given = weights if isinstance(weights, str) else ",".join(repr(member.weight) for member in members)
    return {"models": ",".join(member.name for member in members), "weights": given}


def _parse_layers(text: str) -> tuple[LayerName, ...]:
    wanted = split_list(text)
    return tuple(layer for layer in LAYERS if layer in wanted)


def _fit(folder: str, members: list[Member], dataset: StagedDataset, temperature: bool, num_threads: int) -> Fit:
    """Fit weights, or find those fitted before."""
    uri = storage.join(folder, "weights.json")
    if found := read_record(Fit, uri):
        return found
    fitted = fit_weights(members, dataset, temperature=temperature, num_threads=num_threads)
    write_record(uri, fitted)
    return fitted


def _average(ensemble: Ensemble, shards: list[tuple[Split, int]], parts: Mapping[str, int], num_threads: int) -> None:
    reader = ensemble.members[0].reader

    def num_tiles(shard: tuple[Split, int]) -> int:
        return len(reader.index(shard[0])[shard[1]].tiles)

    def work(shard: tuple[Split, int]) -> int:
        if not ensemble.is_finished(shard, parts):
            ensemble.average_shard(shard)
        return num_tiles(shard)

    with Progress("averaging", sum(map(num_tiles, shards)), "tiles") as progress:
        for done in storage.parallel(work, shards, workers=num_threads):
            progress.advance(done)


def _unfinished(ensemble: Ensemble, scenes: Scenes) -> str:
    """How many shards and scenes have yet to be averaged, in words; empty where there is none.

    Mostly one listing tells. Records are read only once all of them are there, by the worker that joins them.
    """
    parts = ensemble.parts()
    shards = [shard for shard in ensemble.shards if not ensemble.is_recorded(shard, parts)]
    if not shards:
        found = storage.parallel(lambda shard: (shard, ensemble.is_finished(shard, parts)), ensemble.shards)
        shards = [shard for shard, is_finished in found if not is_finished]
    left = [place for place in scenes.places if not scenes.is_finished(place, parts)]
    counts = [f"{len(shards)} shards"] * bool(shards) + [f"{len(left)} scenes"] * bool(left)
    return " and ".join(counts)


def write_outputs(context: StageContext, labels: storage.Loaded[LabelsManifest]) -> None:
    """Write the references, scores and report that KFP and `--output-dir` get."""
    folder, manifest = storage.parent(labels.uri), labels.document
    report, text = (
        storage.get_bytes(storage.join(folder, blob.path), sha256=blob.sha256)
        for blob in (manifest.report, manifest.summary)
    )
    summary = json.loads(text)
    columns = {**summary["models"], "ensemble": summary["ensemble"]}
    metrics = {f"{name}.{key}": scores[key] for name, scores in columns.items() for key in METRICS if key in scores}
    tiles = {f"num_tiles.{split}": archive.num_tiles for split, archive in manifest.splits.items()}
    scored = summary["scored_split"]
    names = ",".join(summary["splits"][scored]["trained_on_it"]) if scored else ""
    seen = {f"trained_on_{scored}": names} if names else {}
    context.publish("labels", labels, {"models": ",".join(summary["models"]), **seen, **tiles, **metrics})
    context.outputs.write("metrics", json.dumps(metrics, indent=1), ".json")
    context.outputs.metadata("metrics", metrics)
    confusion = {
        "annotationSpecs": [{"displayName": name} for name in manifest.class_schema.classes],
        "rows": [{"row": row} for row in summary["confusion"]],
    }
    if summary["confusion"]:
        context.outputs.metadata("confusion_matrix", {"confusionMatrix": confusion})
    context.outputs.write("confusion_matrix", json.dumps(confusion), ".json")
    context.outputs.write("report", report, ".html")
    context.outputs.write("summary", text, ".json")
