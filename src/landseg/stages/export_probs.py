"""`landseg export-probs`: a model and a staged dataset become probabilities in object storage."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Mapping
from typing import Any

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import ClassSchema, Scale
from landseg.contracts.errors import ConfigError, ContractError
from landseg.contracts.names import check_model_name
from landseg.contracts.parameters import add_parameter, check_values
from landseg.contracts.probabilities import VIEWS, ProbsManifest, ProbsSpec
from landseg.contracts.references import ARGUMENTS
from landseg.dataset.reader import StagedDataset
from landseg.models.model_input import fit_input
from landseg.models.trained_model import TrainedModel, check_predicts, open_model
from landseg.probabilities.codec import default_dtype
from landseg.probabilities.writer import ProbsWriter
from landseg.raw.processes import num_cpus
from landseg.stages.shared import costs
from landseg.stages.shared.context import StageContext, finished, record_arguments, stage_context
from landseg.stages.shared.options import (
    add_cache_argument,
    add_common_arguments,
    add_network_arguments,
    batch_size,
    check_cache_bytes,
    parse_share,
    split_tiles,
)
from landseg.stages.shared.siblings import report_others

HELP = "predict the tiles of a staged dataset; store their probabilities"
EXAMPLE = """landseg export-probs --dataset out/dataset.json --model out/model.json \\
      --storage-uri s3://bucket/landseg --run-id first"""

_OTHER_MEANT = "To go on with it, give its parameters, and use the landseg that began it"

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    group = parser.add_argument_group("what to predict")
    add_parameter(group, "dataset_uri")
    add_parameter(group, "model_uri")
    group.add_argument(
        "--name",
        default="",
        metavar="NAME",
        help="the model's name in the run (default: the manifest's; for a checkpoint, that of its backbone)",
    )
    for name in ("splits", "tta", "views", "dtype"):
        add_parameter(group, name)
    group = parser.add_argument_group("how to compute")
    add_network_arguments(group)
    group.add_argument(
        "--num-workers",
        type=int,
        default=num_cpus(),
        metavar="N",
        help="threads that decode, and as many that encode (default: the CPUs, %(default)s)",
    )
    add_parameter(group, "worker")
    add_cache_argument(group)
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Export, or find the exported probabilities; publish their reference."""
    batch_size(args.batch_size)
    if args.num_workers < 1:
        raise ConfigError("--num-workers", f"expected at least 1, found {args.num_workers}")
    if args.name:
        check_model_name("--name", args.name)
    check_values("export-probs", args)
    check_cache_bytes(args.cache_bytes)
    share, num_shares = parse_share(args.worker)
    with stage_context("export-probs", args) as context:
        cache = context.scratch / "shards"
        ref = context.reference("dataset", args.dataset)
        dataset = StagedDataset.open(ref, cache, access="neighbours", cache_bytes=args.cache_bytes)
        dataset.check_room()
        model = open_model(context.reference("model", args.model), context.scratch, context.storage_uri)
        probs = export_model(context, dataset, model, args, share, num_shares)
        if probs is not None:
            _publish(context, probs)
            print(probs.uri)


def export_model(
    context: StageContext,
    dataset: StagedDataset,
    model: TrainedModel,
    args: argparse.Namespace,
    share: int = 1,
    num_shares: int = 1,
) -> storage.Loaded[ProbsManifest] | None:
    """Export a model's probabilities, or find what was exported before.

    Args:
        context: the stage's.
        dataset: the staged dataset.
        model: what predicts it.
        args: the verb's, checked.
        share: which share of the work to do, counted from 1.
        num_shares: number of shares.

    Returns:
        None while shards of other shares are missing.
    """
    from landseg.prediction.device import num_gpus, resolve_precision

    check_model_name(model.uri, args.name or model.name, "give it another with --name")
    dataset = dataset.seen_as(_fitted(model, dataset))
    tiles = split_tiles(args.splits, dataset)
    spec = ProbsSpec(
        model=args.name or model.name,
        model_sha256=model.sha256,
        checkpoint_sha256=model.checkpoint_sha256,
        dataset_id=dataset.manifest.dataset_id,
        dataset_sha256=dataset.sha256,
        classes=dataset.schema.classes,
        dtype=default_dtype(dataset.schema.num_classes) if args.dtype == "auto" else args.dtype,
        tta=args.tta,
        views=VIEWS[args.tta] if args.views == "each" else (),
        precision=resolve_precision(args.precision, model.precision),
    )
    identity = {"spec": spec.model_dump(mode="json"), "splits": list(tiles), **_other_input(dataset)}
    folder = context.folder(spec.model, identity)
    writer = ProbsWriter(folder, spec, tiles)
    probs = finished(ProbsManifest, folder, *writer.metadata)
    if probs is None:
        asked = {"splits": ",".join(tiles), "tta": spec.tta, "views": args.views, "dtype": spec.dtype}
        asked |= {"export_precision": args.precision, "batch_size": args.batch_size}
        if storage.stat(storage.join(folder, ARGUMENTS)) is None:
            is_meant = functools.partial(_has_same_inputs, spec)
            report_others(f"an export of {spec.model}", folder, identity, _OTHER_MEANT, is_meant)
        record_arguments(folder, {"dataset_uri": dataset.uri, "model_uri": model.uri, **asked})
        try:
            _export(args, context, model, dataset, writer, share, num_shares)
        finally:
            costs.record(folder, context.seconds, num_gpus())
        probs = writer.publish()
    if probs is None:
        _log.info("shards of other shares are still missing")
        # KFP passes on what every share outputs: this one writes no reference, but says where the manifest will be.
        context.outputs.metadata("probs", {"uri": storage.join(folder, "manifest.json"), "worker": args.worker})
    return probs


def _fitted(model: TrainedModel, dataset: StagedDataset) -> ClassSchema:
    """The dataset's schema with the model's bands and scale; refuses a model whose classes are not the dataset's."""
    schema = dataset.schema
    if model.classes != schema.classes:
        raise ContractError(
            model.uri,
            f"the model's classes are not the dataset's: {_first_difference(model.classes, schema.classes)}",
            "predict with a model that was trained on this class list, in this order",
        )
    fitted = fit_input(model, dataset.manifest)
    if fitted.bands != schema.bands:
        _log.info("%s: reads the bands %s, as the model was trained", model.uri, _listed(fitted.bands))
    if _values(fitted.scale) != _values(schema.scale):
        _log.info("%s: scales the bands as the model was trained, not as the dataset's own values", model.uri)
    return fitted


def _other_input(dataset: StagedDataset) -> dict[str, Any]:
    """What the identity holds where a model sees other bands or another scale than the dataset's own."""
    own, seen = dataset.schema, dataset.image_schema or dataset.schema
    if (seen.bands, _values(seen.scale)) == (own.bands, _values(own.scale)):
        return {}
    return {"input": {"bands": seen.bands, "scale": _values(seen.scale)}}


def _values(scale: Scale | None) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    return None if scale is None else (scale.low, scale.high)


def _has_same_inputs(spec: ProbsSpec, other: Mapping[str, Any]) -> bool:
    """Whether an export of another identity is of the same model and dataset."""
    own, theirs = spec.model_dump(mode="json"), other.get("spec")
    return isinstance(theirs, dict) and all(own[key] == theirs.get(key) for key in ("model_sha256", "dataset_sha256"))


def _listed(bands: tuple[int, ...]) -> str:
    return ", ".join(map(str, bands))


def _first_difference(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    if len(theirs) != len(ours):
        return f"{len(theirs)} and {len(ours)} in number"
    return next(f"class {i} is {a!r} and {b!r}" for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)


def _export(
    args: argparse.Namespace,
    context: StageContext,
    model: TrainedModel,
    dataset: StagedDataset,
    writer: ProbsWriter,
    share: int,
    num_shares: int,
) -> None:
    pending = writer.pending(share - 1, num_shares)
    if not pending:
        return
    from landseg.prediction.export import export
    from landseg.prediction.loading import load_predictor

    check_predicts(model, args.trust_modules)
    checkpoint = context.scratch / "model.pth"
    storage.get_file(model.checkpoint_uri, checkpoint, sha256=model.checkpoint_sha256)
    spec = writer.spec
    seen = dataset.image_schema or dataset.schema
    predict = load_predictor(
        model, seen, checkpoint, tta=spec.tta, precision=spec.precision, trusted=args.trust_modules
    )
    total, left = (sum(plan.num_tiles for plan in plans) for plans in (writer.share(share - 1, num_shares), pending))
    with Progress(f"exporting {spec.model}", total, "tiles", done=total - left) as progress:
        export(
            predict,
            dataset,
            writer,
            pending,
            batch_size=batch_size(args.batch_size),
            num_threads=args.num_workers,
            advance=progress.advance,
        )


def _publish(context: StageContext, probs: storage.Loaded[ProbsManifest]) -> None:
    manifest = probs.document
    context.publish(
        "probs",
        probs,
        {
            "model": manifest.spec.model,
            "splits": ",".join(manifest.splits),
            "tiles": sum(map(manifest.num_tiles, manifest.splits)),
            "megabytes": round(manifest.size_bytes() / 1e6, 1),
            "tta": manifest.spec.tta,
            "dtype": manifest.spec.dtype,
            "precision": manifest.spec.precision,
        },
    )
