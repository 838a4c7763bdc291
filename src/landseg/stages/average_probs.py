"""`landseg average-probs`: models' probabilities become label maps, scores and a report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from landseg import __version__, storage
from landseg.data.dataset import StagedDataset
from landseg.data.workers import num_cpus
from landseg.ensemble.bootstrap import CONFIDENCE
from landseg.ensemble.gallery import Place, TileView, most_disagreeing, view, worst_and_best
from landseg.ensemble.labels import extract_pngs
from landseg.ensemble.manifest import LabelsManifest
from landseg.ensemble.members import open_members
from landseg.ensemble.parts import Job, Part
from landseg.ensemble.publish import Outcome, publish
from landseg.ensemble.summary import Scored, SplitResult, scored_split
from landseg.errors import ConfigError
from landseg.progress import Progress
from landseg.report import ensemble as ensemble_page
from landseg.report.ground import pixel_area_m2
from landseg.report.pictures import shrink
from landseg.stages.common import StageContext, add_common_arguments, finished, parse_worker, stage_context

HELP = "average models' probabilities into label maps; score the models and the ensemble"

_GALLERY_TILES = 6
"""Of each of the report's three galleries."""
_KFP_SCORES = ("mIoU", "mAcc", "aAcc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("--dataset", metavar="REF", help="the dataset's manifest or reference")
    parser.add_argument(
        "--probs",
        action="append",
        default=[],
        metavar="REF",
        help="a model's probabilities: manifest or reference; once per model, or several with commas between",
    )
    parser.add_argument(
        "--weights",
        default="equal",
        metavar="equal|A,B",
        help="equal (default), or one number per model in the order of --probs",
    )
    parser.add_argument("--png-dir", type=Path, metavar="DIR", help="also write the label maps to DIR/<split>/")
    parser.add_argument(
        "--num-workers", type=int, default=num_cpus(), metavar="N", help="threads (default: the CPUs, %(default)s)"
    )
    parser.add_argument(
        "--worker",
        default="1/1",
        metavar="I/N",
        help="do the I-th of N shares of the work; the worker that finds all shares done publishes the result",
    )
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Average, or find the label maps; publish their reference, the scores and the report."""
    if args.num_workers < 1:
        raise ConfigError("--num-workers", f"expected at least 1, found {args.num_workers}")
    worker, num_workers = parse_worker(args.worker)
    weights = _parse_weights(args.weights)
    with stage_context("average-probs", args) as context:
        dataset = StagedDataset.open(context.reference("dataset", args.dataset), context.scratch / "shards")
        members = open_members(context.references("probs", args.probs), weights, dataset)
        splits = members[0].reader.manifest.splits
        job = Job(
            folder=context.folder(
                "",
                {
                    "dataset_sha256": dataset.sha256,
                    "members": [member.describe().model_dump(mode="json") for member in members],
                },
            ),
            dataset=dataset,
            members=tuple(members),
            tiles={split: {tile.id: tile for tile in dataset.tiles(split)} for split in splits},
            scratch=context.scratch,
        )
        labels = finished(LabelsManifest, job.folder)
        if labels is None:
            parts = _average(job, job.shards[worker - 1 :: num_workers], args.num_workers)
            parts |= {shard: part for shard in job.shards if shard not in parts and (part := job.finished(shard))}
            if len(parts) < len(job.shards):
                print(f"{len(job.shards) - len(parts)} shards are left to other workers", file=sys.stderr)
                return
            labels = publish(
                job,
                [parts[shard] for shard in job.shards],
                lambda outcome: _render(outcome, context.run_id, args.num_workers),
            )
        _write_outputs(context, labels)
        if args.png_dir is not None:
            _write_pngs(labels, dataset, args.png_dir, context.scratch)
        print(labels.uri)


def _parse_weights(text: str) -> list[float] | None:
    if text in {"", "equal"}:  # KFP passes an empty string for a parameter that is not given
        return None
    try:
        return [float(weight) for weight in text.split(",")]
    except ValueError as err:
        raise ConfigError("--weights", f"expected 'equal' or numbers with commas between, found {text!r}") from err


def _average(job: Job, shards: list[Any], num_threads: int) -> dict[Any, Part]:
    def work(shard: Any) -> tuple[Any, Part]:
        return shard, job.finished(shard) or job.process(shard)

    parts = {}
    splits = job.members[0].reader.manifest.splits
    total = sum(len(splits[split][index].tiles) for split, index in shards)
    with Progress("averaging", total, "tiles") as progress:
        for shard, part in storage.parallel(work, shards, workers=num_threads):
            parts[shard] = part
            progress.advance(len(part.tiles))
    return parts


def _write_outputs(context: StageContext, labels: storage.Loaded[LabelsManifest]) -> None:
    folder, manifest = storage.parent(labels.uri), labels.document
    report, text = (
        storage.get_bytes(storage.join(folder, blob.path), sha256=blob.sha256)
        for blob in (manifest.report, manifest.summary)
    )
    summary = json.loads(text)
    columns = {**summary["models"], "ensemble": summary["ensemble"]}
    metrics = {f"{name}.{key}": scores[key] for name, scores in columns.items() for key in _KFP_SCORES if key in scores}
    tiles = {f"num_tiles.{split}": archive.num_tiles for split, archive in manifest.splits.items()}
    context.publish("labels", labels, {"models": ",".join(summary["models"]), **tiles, **metrics})
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


def _write_pngs(labels: storage.Loaded[LabelsManifest], dataset: StagedDataset, directory: Path, scratch: Path) -> None:
    for split, archive in labels.document.splits.items():
        path = scratch / f"{split}.tar"
        storage.get_file(storage.join(storage.parent(labels.uri), archive.path), path, sha256=archive.sha256)
        with path.open("rb") as file:
            extract_pngs(file, [f"{tile.id}.png" for tile in dataset.tiles(split)], directory / split)
        path.unlink()


def _render(outcome: Outcome, run_id: str, num_threads: int) -> str:
    job, scoring = outcome.job, scored_split(outcome.scorings)
    schema, several = job.dataset.schema, len(job.members) > 1
    disagreeing = most_disagreeing(outcome.results, _GALLERY_TILES) if several else []
    worst, best = worst_and_best(outcome.results, scoring, _GALLERY_TILES)

    def draw(place: Place) -> tuple[Place, ensemble_page.TilePicture]:
        return place, _picture(view(job, place), several)

    pictures = dict(storage.parallel(draw, dict.fromkeys([*disagreeing, *worst, *best]), workers=num_threads))

    def gallery(places: Iterable[Place]) -> tuple[ensemble_page.TilePicture, ...]:
        return tuple(pictures[place] for place in places)

    return ensemble_page.render(
        ensemble_page.EnsembleReport(
            run_id=run_id,
            dataset=job.dataset.manifest.name,
            classes=schema.classes,
            palette=schema.palette,
            models=tuple(
                _prediction(member.name, scoring.ensembles[(i,)] if scoring else None, member.weight)
                for i, member in enumerate(job.members)
            ),
            ensemble=_prediction("ensemble", scoring.whole if scoring else None, None),
            num_tiles={split: info.num_tiles for split, info in job.dataset.manifest.splits.items()},
            scored_split=scoring.split if scoring else None,
            confidence=CONFIDENCE,
            gain_interval=scoring.gain[1] if scoring and scoring.gain else None,
            adds=scoring.gains if scoring else {},
            subsets=tuple(
                _prediction("+".join(scored.models), scored, None)
                for scored in (scoring.ensembles.values() if scoring else ())
                if 1 < len(scored.models) < len(job.members)
            ),
            areas=tuple(_class_areas(job, result, several) for result in outcome.results),
            disagreeing=gallery(disagreeing),
            worst=gallery(worst),
            best=gallery(best),
            costs=tuple(_costs(job)),
            provenance=_provenance(job),
        )
    )


def _prediction(name: str, scored: Scored | None, weight: float | None) -> ensemble_page.Prediction:
    if scored is None:
        return ensemble_page.Prediction(name, weight=weight)
    return ensemble_page.Prediction(name, scored.scores, scored.confusion, scored.intervals, weight)


def _picture(tile: TileView, several: bool) -> ensemble_page.TilePicture:
    return ensemble_page.TilePicture(
        tile_id=tile.tile_id,
        split=tile.split,
        image=shrink(tile.image),
        truth=None if tile.truth is None else shrink(tile.truth),
        models=tuple(shrink(labels) for labels in tile.models),
        ensemble=shrink(tile.ensemble),
        disagreement=shrink(tile.disagreement) if several else None,
        disagreement_share=tile.differing if several else None,
        mIoU=tile.miou,
    )


def _class_areas(job: Job, result: SplitResult, several: bool) -> ensemble_page.ClassAreas:
    tiles = job.tiles[result.split].values()
    truth = None if result.areas is None else tuple(result.areas[:, -1, 1].sum(axis=0).tolist())
    return ensemble_page.ClassAreas(
        split=result.split,
        predicted_px=tuple(result.pixels.tolist()),
        true_px=truth,
        pixel_area_m2=pixel_area_m2((tile.geo for tile in tiles), job.dataset.manifest.crs),
        overlapping=any(tile.scene is not None for tile in tiles),
        disagreement_share=float(result.differing.mean()) if several else None,
    )


def _costs(job: Job) -> Iterator[ensemble_page.StageCost]:
    shards = [shard for info in job.dataset.manifest.splits.values() for shard in info.shards]
    yield ensemble_page.StageCost("stage-data", None, size_bytes=sum(shard.size_bytes for shard in shards))
    for member in job.members:
        size = sum(shard.size_bytes for split in member.reader.manifest.splits.values() for shard in split)
        yield ensemble_page.StageCost(f"export-probs-{member.name}", None, size_bytes=size)


def _provenance(job: Job) -> dict[str, dict[str, object]]:
    manifest = job.dataset.manifest
    sections: dict[str, dict[str, object]] = {
        "Dataset": {"name": manifest.name, "id": manifest.dataset_id, "manifest sha256": job.dataset.sha256}
    }
    for member in job.members:
        spec = member.reader.spec
        sections[f"Model {member.name}"] = {
            "weight": member.weight,
            "checkpoint sha256": spec.checkpoint_sha256,
            "model manifest sha256": spec.model_sha256,
            "probabilities sha256": member.reader.sha256,
            "stored as": spec.dtype,
            "views": spec.tta,
            "precision": spec.precision,
        }
    sections["Versions"] = {"landseg": __version__}
    return sections
