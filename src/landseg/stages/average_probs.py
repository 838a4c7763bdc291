"""`landseg average-probs`: models' probabilities become label maps, scores and a report."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import Split
from landseg.contracts.errors import ConfigError
from landseg.contracts.labels import LabelsManifest, parse_summary
from landseg.contracts.parameters import add_parameter, check_values
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.maps.archives import Archives
from landseg.ensemble.maps.scenes import Scenes
from landseg.ensemble.members import affordable_threads
from landseg.ensemble.publishing import Outcome, publish
from landseg.ensemble.shard_averaging import Ensemble
from landseg.raw.processes import num_cpus
from landseg.report.ensemble.facts import ensemble_report
from landseg.report.ensemble.rendering import render
from landseg.scoring.scores import METRICS
from landseg.stages.shared import costs
from landseg.stages.shared.context import StageContext, finished, stage_context
from landseg.stages.shared.heap import return_freed_memory
from landseg.stages.shared.map_folder import MapFolder
from landseg.stages.shared.options import (
    add_common_arguments,
    add_joint_maps_arguments,
    local_folder,
    parse_share,
)
from landseg.stages.shared.results import tell
from landseg.stages.shared.settled_average import open_models, parse_layers, settle

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
    add_joint_maps_arguments(group)
    group = parser.add_argument_group("how to compute")
    group.add_argument(
        "--num-workers", type=int, default=num_cpus(), metavar="N", help="threads (default: the CPUs, %(default)s)"
    )
    add_parameter(group, "worker")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Average, or find finished label maps; publish their reference, the scores and the report."""
    check_arguments(args)
    maps = _map_folder(args)
    if maps is not None:
        maps.clear()
    with stage_context("average-probs", args) as context:
        ref = context.reference("dataset", args.dataset)
        dataset = StagedDataset.open(ref, context.scratch / "dataset", access="few")
        labels = average(context, dataset, context.references("probs", args.probs), args, maps)
        if labels is None:
            return
        write_outputs(context, labels)
        if maps is not None:
            maps.write(labels, dataset, context.scratch)
        tell(labels, args.png_dir, args.output_dir)
        print(labels.uri)


def _map_folder(args: argparse.Namespace) -> MapFolder | None:
    """Where maps go besides object storage, if anywhere."""
    if args.png_dir is not None:
        return MapFolder("--png-dir", args.png_dir, mosaic=args.mosaic, polygons=args.polygons)
    if args.mosaic or args.polygons:
        option = "--mosaic" if args.mosaic else "--polygons"
        raise ConfigError(option, "expected --png-dir, where it goes, found none", "add --png-dir DIR")
    return None


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments that :func:`average` would refuse, before anything is done.

    Raises:
        ConfigError: one of them is wrong, or does not fit another.
    """
    if args.num_workers < 1:
        raise ConfigError("--num-workers", f"expected at least 1, found {args.num_workers}")
    check_values("average-probs", args)


def average(
    context: StageContext,
    dataset: StagedDataset,
    refs: Sequence[str],
    args: argparse.Namespace,
    maps: MapFolder | None = None,
) -> storage.Loaded[LabelsManifest] | None:
    """Average models' probabilities, or find finished label maps.

    Args:
        context: the stage's.
        dataset: the staged dataset.
        refs: each model's probabilities.
        args: the verb's, checked by :func:`check_arguments`.
        maps: the local folder that the maps will go to, which is checked before anything is averaged.

    Returns:
        None while shards of other shares have yet to be averaged.
    """
    share, num_shares = parse_share(args.worker)
    members = open_models(refs, args.weights, dataset, context.scratch)
    splits = members[0].reader.manifest.splits
    if maps is not None:
        maps.check(dataset, [*splits], parse_layers(args.layers))
    num_threads = affordable_threads(members, args.num_workers)
    settled = settle(context, dataset, members, args, num_threads)
    folder = settled.folder
    ensemble = Ensemble(
        folder=folder,
        dataset=dataset,
        members=settled.members,
        tiles={split: dataset.index(split) for split in splits},
        scratch=context.scratch,
        layers=settled.layers,
        fit=settled.fit,
    )
    if labels := finished(LabelsManifest, ensemble.folder):
        return labels
    scenes, archives = Scenes(ensemble), Archives(ensemble)
    try:
        parts, shards = ensemble.parts(), ensemble.share(share - 1, num_shares)
        _average(ensemble, shards, parts, num_threads)
        return_freed_memory()
        scenes.write(scenes.share(share - 1, num_shares), parts, num_threads)
        del parts  # of many tiles each listing takes room
        parts = ensemble.parts()
        archives.write(archives.ready(shards, parts), parts)
        del parts
        left = _unfinished(ensemble, scenes)
        if not left:
            archives.write(archives.places, ensemble.parts())
    except BaseException:
        costs.record(folder, context.seconds)
        raise
    if left:
        _log.info("%s of other shares have yet to be averaged", left)
        costs.record(folder, context.seconds)
        return None

    return_freed_memory()

    def report(outcome: Outcome) -> str:
        return render(ensemble_report(outcome, context.run_id, context.seconds, num_threads))

    labels = publish(ensemble, archives.results(), scenes.results(), report)
    costs.record(folder, context.seconds)
    return labels


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
    left = [place for place in scenes.places if not scenes.is_recorded(place, parts)]
    if not left:
        stitched = storage.parallel(lambda place: (place, scenes.is_finished(place, parts)), scenes.places)
        left = [place for place, is_finished in stitched if not is_finished]
    counts = [f"{len(shards)} shards"] * bool(shards) + [f"{len(left)} scenes"] * bool(left)
    return " and ".join(counts)


def write_outputs(context: StageContext, labels: storage.Loaded[LabelsManifest]) -> None:
    """Write the references, scores and report that KFP and `--output-dir` get."""
    folder, manifest = storage.parent(labels.uri), labels.document
    report, text = (
        storage.get_bytes(storage.join(folder, blob.path), sha256=blob.sha256)
        for blob in (manifest.report, manifest.summary)
    )
    summary = parse_summary(text, storage.join(folder, manifest.summary.path))
    columns = {**summary["models"], "ensemble": summary["ensemble"]}
    metrics = {f"{name}.{key}": scores[key] for name, scores in columns.items() for key in METRICS if key in scores}
    scored = summary["scored_split"]
    if scored:
        own = summary["splits"][scored]
        for key, found, name in (("ECE", own["calibration"], "ECE"), ("boundary_mIoU", own["boundary"], "mIoU")):
            metrics |= {f"{model}.{key}": scores[name] for model, scores in found.items() if name in scores}
    tiles = {
        f"num_tiles.{split}": sum(archive.num_tiles for archive in manifest.archives(split))
        for split in manifest.splits
    }
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
