"""`landseg stage-data`: raw tiles become indexed shards and a manifest in object storage."""

from __future__ import annotations

import argparse
import json
import sys
import time

from landseg.data.shards import DEFAULT_SHARD_BYTES
from landseg.data.sources import open_source
from landseg.data.staging import Staged, stage_dataset
from landseg.data.workers import num_cpus
from landseg.errors import ConfigError
from landseg.stages.common import add_common_arguments, stage_context

HELP = "check raw tiles and pack them into indexed shards in object storage"
_SMALLEST_SHARD = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "--source", required=True, metavar="URI", help="the raw dataset: a folder or s3://bucket/prefix"
    )
    parser.add_argument(
        "--shard-bytes",
        type=int,
        default=DEFAULT_SHARD_BYTES,
        metavar="N",
        help="target size of a shard (default: %(default)s)",
    )
    parser.add_argument(
        "--num-workers", type=int, default=num_cpus(), metavar="N", help="processes (default: the CPUs, %(default)s)"
    )
    add_common_arguments(parser, run_id=False)


def run(args: argparse.Namespace) -> None:
    """Stage a dataset, publish the reference to its manifest and the data report."""
    if args.shard_bytes < _SMALLEST_SHARD:
        raise ConfigError("--shard-bytes", f"expected at least {_SMALLEST_SHARD}, found {args.shard_bytes}")
    if args.num_workers < 1:
        raise ConfigError("--num-workers", f"expected at least 1, found {args.num_workers}")
    start = time.monotonic()
    with stage_context("stage-data", args) as context:
        staged = stage_dataset(
            open_source(args.source),
            context.storage_uri,
            context.scratch,
            shard_bytes=args.shard_bytes,
            num_workers=args.num_workers,
        )
        facts = _facts(staged)
        context.publish("dataset", staged.loaded, facts)
        context.outputs.write("report", json.dumps(facts, indent=1), ".html")
        for note in staged.notes:
            print(f"note: {note}", file=sys.stderr)
        print(_summary(staged, time.monotonic() - start))


def _facts(staged: Staged) -> dict[str, str | int | float | bool]:
    manifest = staged.loaded.document
    facts: dict[str, str | int | float | bool] = {
        "dataset_id": manifest.dataset_id,
        "name": manifest.name,
        "num_classes": manifest.class_schema.num_classes,
        "size_bytes": sum(shard.size_bytes for info in manifest.splits.values() for shard in info.shards),
    }
    return facts | {f"num_tiles.{name}": info.num_tiles for name, info in manifest.splits.items()}


def _summary(staged: Staged, seconds: float) -> str:
    manifest = staged.loaded.document
    lines = [f"dataset {manifest.name} ({manifest.dataset_id})"]
    for name, info in manifest.splits.items():
        size = sum(shard.size_bytes for shard in info.shards)
        lines.append(f"  {name:6}{info.num_tiles:8} tiles {len(info.shards):5} shards {size / 1e9:9.3f} GB")
    lines.append(f"  {staged.uploaded_bytes / 1e9:.3f} GB of shards uploaded in {seconds:.1f} s")
    lines.append(staged.loaded.uri)
    return "\n".join(lines)
