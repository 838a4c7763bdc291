"""`landseg stage-data`: raw tiles become indexed shards and a manifest in object storage."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from typing import Any

from landseg import storage
from landseg.cli.console import is_quiet
from landseg.contracts.errors import ConfigError, printable
from landseg.contracts.parameters import add_parameter, check_values
from landseg.dataset.places import datasets_folder
from landseg.dataset.shards import DEFAULT_SHARD_BYTES
from landseg.dataset.staging.result import Options, StagingResult
from landseg.dataset.staging.room import reading_room
from landseg.dataset.staging.staging import stage_dataset
from landseg.dataset.staging.workspace import Workspace
from landseg.raw.findings import alike
from landseg.raw.layout.listing import RawDataset
from landseg.raw.processes import num_cpus
from landseg.raw.sources.archives import open_source
from landseg.report.data import DataReport, render
from landseg.report.data_facts import as_json, data_report, gigabytes
from landseg.stages.shared import costs
from landseg.stages.shared.code import rooms_digest
from landseg.stages.shared.context import StageContext, record_arguments, stage_context
from landseg.stages.shared.heap import return_large_blocks
from landseg.stages.shared.options import add_common_arguments, parse_share
from landseg.stages.shared.step_limits import check_step_room, limit

HELP = "check raw tiles and pack them into indexed shards in object storage"
EXAMPLE = "landseg stage-data --source tiles --storage-uri s3://bucket/landseg --output-dir out"

_log = logging.getLogger(__name__)
_SMALLEST_SHARD = 10_000
_LISTED = 1000
_ROOMS = ("dataset", "raw")
"""The folders whose code decides what a range of tiles becomes: records that other code wrote are not used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    group = parser.add_argument_group("what to stage")
    for name in ("source", "on_bad_tile", "max_bad"):
        add_parameter(group, name)
    group = parser.add_argument_group("how to stage")
    group.add_argument(
        "--shard-bytes", type=int, default=DEFAULT_SHARD_BYTES, metavar="N", help="target size of a shard"
    )
    group.add_argument(
        "--num-workers", type=int, default=num_cpus(), metavar="N", help="processes (default: the CPUs, %(default)s)"
    )
    add_parameter(group, "worker")
    add_parameter(group, "join")
    add_common_arguments(parser, run_id=False)


def run(args: argparse.Namespace) -> None:
    """Stage a dataset; publish the reference to its manifest, the data report and its facts."""
    for flag, value, least in (
        ("--shard-bytes", args.shard_bytes, _SMALLEST_SHARD),
        ("--num-workers", args.num_workers, 1),
    ):
        if value < least:
            raise ConfigError(flag, f"expected at least {least}, found {value}")
    check_values("stage-data", args)
    share, num_shares = parse_share(args.worker)
    options = Options(
        args.shard_bytes,
        args.num_workers,
        args.on_bad_tile,
        args.max_bad,
        share=share,
        num_shares=num_shares,
        joins=args.join == "last",
        timeout_s=limit("stage-data", "timeout_s"),
    )
    with stage_context("stage-data", args) as context:
        raw = RawDataset.open(open_source(args.source, context.scratch))
        if storage.is_s3(context.storage_uri):
            indexes, with_shard = reading_room(raw.pairing.tiles, options.shard_bytes)
            check_step_room(("train", "plan-export", "plan-average", "average-probs"), indexes)
            check_step_room(("export-probs",), with_shard)
        asked = {"source": args.source, "on_bad_tile": args.on_bad_tile, "max_bad": args.max_bad}
        report, result = stage(context, raw, options, asked)
        if result.loaded is None:
            _log.info("not joined: %s", result.unjoined)
            return
        _print_facts(report, result)
        _publish(context, result)


def stage(
    context: StageContext, raw: RawDataset, options: Options, asked: dict[str, Any]
) -> tuple[DataReport, StagingResult]:
    """Stage a listed dataset, or find what was staged before; write the data report.

    Args:
        context: the stage's.
        raw: the dataset.
        options: how to stage.
        asked: the arguments to record.

    Returns:
        The report, and the result: without a manifest while the shares of several workers are not joined.

    Raises:
        DataError: files are wrong; which, is printed and in the report.
    """
    return_large_blocks()  # worker processes: holes in their heaps would add up
    start = time.monotonic()
    options = replace(options, code=rooms_digest(_ROOMS))
    result = stage_dataset(raw, Workspace(context.storage_uri, context.scratch), options)
    report = data_report(result, raw.source.uri, options, time.monotonic() - start)
    if result.unjoined:
        return report, result
    page, checks = render(report).encode(), as_json(report)
    context.outputs.write("report", page, ".html")
    context.outputs.write("checks", checks, ".json")
    _print_findings(report)
    if result.loaded is None:
        _keep_refused(context, report.name, page, checks)
        raise result.findings.summary(raw.source.uri)
    folder = storage.parent(result.loaded.uri)
    if not costs.is_recorded(folder):  # a dataset that had been result before cost what it cost then
        costs.record(folder, context.seconds)
    record_arguments(folder, asked)
    return report, result


def _keep_refused(context: StageContext, name: str, page: bytes, checks: bytes) -> None:
    """Put the report into object storage: KFP keeps nothing of a failed step."""
    base = storage.join(datasets_folder(context.storage_uri), "refused", name)
    storage.put_bytes(f"{base}.html", page)
    storage.put_bytes(f"{base}.json", checks)
    print(f"all problems: {base}.html")


def _publish(context: StageContext, result: StagingResult) -> None:
    assert result.loaded is not None, "published datasets only"
    manifest = result.loaded.document
    facts: dict[str, str | int | float | bool] = {
        "dataset_id": manifest.dataset_id,
        "name": manifest.name,
        "num_classes": manifest.class_schema.num_classes,
        "size_bytes": sum(shard.size_bytes for info in manifest.splits.values() for shard in info.shards),
        "num_skipped": len(manifest.skipped),
    }
    facts |= {f"num_tiles.{name}": info.num_tiles for name, info in manifest.splits.items()}
    context.publish("dataset", result.loaded, facts)
    print(result.loaded.uri)


def _print_findings(report: DataReport) -> None:
    """Print what there is to say. Bad files go to stdout: stderr is for the one line that ends the stage."""
    for warning in report.warnings:
        _log.warning("%s", warning)
    about_files = alike(report.about_files)
    for finding in about_files[:_LISTED]:
        action = f" ({finding.action})" if finding.action else ""
        print(printable(f"{finding.severity}: {finding.where}: {finding.problem}{action}"))
    if len(about_files) > _LISTED:
        print(f"... and {len(about_files) - _LISTED} more")


def _print_facts(report: DataReport, result: StagingResult) -> None:
    """Print the report in a few lines."""
    if is_quiet():
        return
    print(f"dataset {report.name} ({report.dataset_id})")
    for split in report.splits:
        size = gigabytes(split.size_bytes)
        print(f"  {split.name:6}{split.num_tiles:9,} tiles {split.num_shards:5} shards {size:>10}")
    print(f"  {gigabytes(result.uploaded_bytes)} of shards uploaded in {report.seconds:.1f} s")
    for need in report.needs:
        print(f"  {need.stage} needs: {need.what}: {need.amount}")
