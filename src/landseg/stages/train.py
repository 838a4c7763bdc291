"""`landseg train`: a staged dataset and an mmseg config become a model in object storage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
from typing import Any

from landseg import storage
from landseg.contracts.errors import ConfigError, ContractError, masked
from landseg.contracts.model import ModelManifest
from landseg.contracts.names import check_model_name
from landseg.contracts.parameters import add_parameter, check_values, of_verb
from landseg.contracts.references import ARGUMENTS
from landseg.dataset.reader import StagedDataset
from landseg.report.training import render
from landseg.report.training_facts import training_report
from landseg.stages.shared.context import StageContext, finished, record_arguments, stage_context
from landseg.stages.shared.options import add_cache_argument, add_common_arguments, check_cache_bytes
from landseg.stages.shared.planned_training import plan_training
from landseg.stages.shared.siblings import report_others

HELP = "train a model; resume from its own checkpoints after an interruption"
EXAMPLE = """landseg train --name swin --config swin --dataset out/dataset.json \\
      --storage-uri s3://bucket/landseg --run-id first"""

_log = logging.getLogger(__name__)

PARAMETERS = tuple(
    parameter.name
    for parameter in of_verb("train")
    if parameter.pipelines and parameter.name not in ("storage_uri", "run_id")
)
"""What a training is asked for by a pipeline, besides where its results go."""

_INT64 = 1 << 63
"""Of torch's seeds and the lengths of Python's sequences."""

_OTHER_MEANT = (
    "To resume it, give its parameters; to train it longer, its manifest as --resume-from; to start from its weights, "
    "as --pretrained; to tell them apart, give another --name"
)

RESULT = "result.json"
"""Next to the manifest: the curves and the speed that the report shows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    group = parser.add_argument_group("what to train")
    group.add_argument("--name", required=True, metavar="NAME", help="the model's name in the run, e.g. swin")
    add_parameter(group, "dataset_uri")
    add_parameter(group, "config")
    add_parameter(group, "cfg_options")
    group = parser.add_argument_group("the recipe")
    for name in (
        "epochs",
        "batch_per_gpu",
        "lr",
        "seed",
        "train_splits",
        "pretrained",
        "resume_from",
        "class_weights",
        "sampling",
        "selection",
        "patience",
    ):
        add_parameter(group, name)
    group = parser.add_argument_group("how to train")
    add_parameter(group, "gpus")
    group.add_argument("--cpu-processes", type=int, default=1, metavar="N", help="processes that train on the CPU")
    add_parameter(group, "precision")
    group.add_argument("--compile", action="store_true", help="try torch.compile, which needs a compiler")
    group.add_argument("--num-workers", type=int, metavar="N", help="loader processes per GPU (default: by CPUs)")
    for name in ("checkpoint_interval", "checkpoint_minutes", "keep"):
        add_parameter(group, name)
    add_cache_argument(group)
    group.add_argument(
        "--decoded-bytes",
        type=int,
        metavar="N",
        help="likewise for decoded tiles (default: by memory)",
    )
    group.add_argument(
        "--tile-order",
        choices=("auto", "tiles", "shards"),
        default="auto",
        help="tiles: drawn from all shards; shards: from a few at a time; auto: shards if not all fit",
    )
    add_parameter(group, "deterministic")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train, or find the finished model; publish its reference, metrics and report."""
    _check(args)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts, in each process
    with stage_context("train", args) as context:
        from landseg.models.weights import pretrained
        from landseg.training import trainer
        from landseg.training.distributed.processes import count_processes, run_processes
        from landseg.training.model_publishing import publish_model, sample_documents

        processes, on_gpu = count_processes(args.gpus, args.cpu_processes)
        ref, cache = context.reference("dataset", args.dataset), context.scratch / "shards"
        dataset = StagedDataset.open(ref, cache, cache_bytes=args.cache_bytes)
        dataset.check_room()
        job, identity, source = plan_training(args, context, dataset, processes, on_gpu, RESULT)
        model = finished(ModelManifest, job.folder, RESULT)
        if model is not None and not _is_whole(storage.join(job.folder, RESULT)):
            model = None
        if model is None:
            # Of sample numbers, and dropped: what could not be published is found before the first batch.
            _report(args, dataset, *sample_documents(job, dataset, identity))
            storage.try_writing(storage.join(job.folder, "checkpoints"))
            if job.earlier is None and storage.stat(storage.join(job.folder, ARGUMENTS)) is None:
                report_others(f"a training of {args.name}", job.folder, identity, _OTHER_MEANT)
            record_arguments(job.folder, {"dataset_uri": dataset.uri, **_asked(args)})
            if source is not None:
                advice = (
                    "--pretrained takes a path, an address, one of mmcv's names, or none"
                    if args.pretrained
                    else "these weights are the config's: --pretrained takes others, or none"
                )
                fetched = pretrained.fetch(source, context.storage_uri, context.scratch, advice)
                job = dataclasses.replace(job, pretrained=fetched.path)
                identity["pretrained_sha256"] = fetched.sha256
            run_processes(trainer.train, job, processes, on_gpu, context.scratch)
            model = publish_model(job, dataset, identity)
        _write_outputs(context, args, dataset, model)
        print(model.uri)


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters as a pipeline would be given them, JSON as text."""
    from landseg.models.build import parse_options

    asked = {name: getattr(args, name) for name in PARAMETERS}
    asked["cfg_options"] = json.dumps(parse_options(args.cfg_options))
    asked["deterministic"] = json.dumps(args.deterministic)
    return asked


def _check(args: argparse.Namespace) -> None:
    check_model_name("--name", args.name)
    check_values("train", args)
    check_cache_bytes(args.cache_bytes)
    if args.resume_from and args.pretrained:
        raise ConfigError("--resume-from", "expected no --pretrained with it: training continues from its own weights")
    for flag, least in (
        ("cpu_processes", 1),
        ("num_workers", 0),
        ("decoded_bytes", 0),
    ):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise ConfigError(f"--{flag.replace('_', '-')}", f"expected at least {least}, found {value}")
    for flag, value in vars(args).items():
        option = f"--{flag.replace('_', '-')}"
        if isinstance(value, int) and value >= _INT64:
            raise ConfigError(option, f"expected at most {_INT64 - 1}, found {value}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(option, f"expected a finite number, found {value}")


def _is_whole(result: str) -> bool:
    """Whether training's result can be read; if it is damaged, it is removed, and training makes it again."""
    from landseg.training.model_publishing import read_result

    try:
        read_result(result)
    except ContractError as err:
        _log.warning("%s; it is removed and made again", err)
        storage.delete(result)
        return False
    return True


def _write_outputs(
    context: StageContext, args: argparse.Namespace, dataset: StagedDataset, model: storage.Loaded[ModelManifest]
) -> None:
    from landseg.training.model_publishing import read_result

    document = model.document
    facts: dict[str, Any] = {"name": document.name, "seconds": round(document.seconds, 1)}
    if "mIoU" in document.metrics:
        facts["mIoU"] = round(document.metrics["mIoU"], 4)
    context.publish("model", model, facts)
    context.outputs.metadata("metrics", dict(document.metrics))
    context.outputs.write("metrics", json.dumps(document.metrics, indent=1), ".json")
    result = read_result(storage.join(storage.parent(model.uri), RESULT))
    context.outputs.write("report", _report(args, dataset, document, result), ".html")


def _report(args: argparse.Namespace, dataset: StagedDataset, model: ModelManifest, result: dict[str, Any]) -> str:
    """The page that shows what training left."""
    return render(training_report(masked(args.config), args.run_id, dataset.uri, dataset.manifest, model, result))
