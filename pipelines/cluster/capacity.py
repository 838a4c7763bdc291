"""Checks before a run is submitted: whether what steps may use fits the size of the data.

The stages check the same by what they read. Here it is known before a pod waits for a node.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import botocore.exceptions

from components.models import MODELS
from pipelines.dags.step_limits import Limits, limits_of
from pipelines.errors import UserError
from pipelines.object_storage import s3_client
from pipelines.source import Listing

_ROOM_SHARE = 0.5
"""Of the scratch volume: stage-data reads a larger archive by range (landseg.raw.sources.archives)."""
_ARGUMENT_BYTES, _ARTIFACT_BYTES, _USUAL_URI = 128 << 10, 800, 100
"""Of one argument; of it, what each worker of an export leaves where the root in object storage has up to 100
characters (landseg.stages.plan_export, which knows the workers of one model only)."""
_MANIFEST_BYTES, _SHARD_ENTRY_BYTES, _SHARD_BYTES = 64 << 20, 280, 160_000_000
"""Of a dataset's manifest, of a shard in it, and of a shard (landseg.dataset)."""
_STAGED_BYTES_PER_S = 139_000_000
"""By one pod, from object storage to object storage (docs/scale.md)."""
_INDEX_ROOM = 2
"""How often what a step keeps of a dataset is enough for it (landseg.dataset.reader)."""


def check_listing(package: str, listing: Listing, stage_workers: int) -> str:
    """Check what is known of the raw tiles; return a note where staging is likely to outlast its step.

    Args:
        package: compiled YAML.
        listing: of the source.
        stage_workers: how many pods share the staging.

    Raises:
        UserError: the dataset's manifest could not list its shards, or stage-data's volume holds no shard.
    """
    limits, size = limits_of(package).get("stage-data"), listing.size_bytes
    if limits is None:
        return ""
    most = _MANIFEST_BYTES // _SHARD_ENTRY_BYTES * _SHARD_BYTES
    if size > most:
        raise UserError(
            f"--source: expected at most {most / 1e12:.1f} TB, found {size / 1e12:.1f} TB: no manifest lists as many "
            f"shards of {_SHARD_BYTES // 10**6} MB; divide it into several datasets"
        )
    _check_room("stage-data", limits, min(size, _SHARD_BYTES), "a shard")
    hours, most_hours = size / _STAGED_BYTES_PER_S / 3600, limits.timeout_s / 3600
    if hours > most_hours * stage_workers:
        return (
            f"staging {size / 1e12:.1f} TB takes about {hours:.0f} h, {hours / stage_workers:.0f} for each of "
            f"{stage_workers} workers, and the step ends after {most_hours:.3g} h: expected "
            f"stage_workers={math.ceil(hours / most_hours)} at least"
        )
    return ""


def check_dataset(package: str, dataset_uri: str) -> str:
    """Check that the volumes of a pipeline's steps hold what these keep of a dataset; return a note if it is unknown.

    Args:
        package: compiled YAML.
        dataset_uri: the dataset's manifest; of anything else nothing is known.

    Raises:
        UserError: a volume is too small.
    """
    answer, note = _asked("get_object", dataset_uri)
    if answer is None:
        return note
    try:
        splits = json.loads(answer["Body"].read(_MANIFEST_BYTES + 1))["splits"].values()
        rows = sum(split["index"]["size_bytes"] for split in splits)
        shards = [shard["size_bytes"] for split in splits for shard in split["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""  # a reference, or what the stage will refuse
    for step, limits in limits_of(package).items():
        if step == "export-probs":
            _check_room(step, limits, rows + max(shards, default=0), "the dataset's indexes and its largest shard")
        elif step != "stage-data":
            _check_room(step, limits, rows, "the dataset's indexes")
    return ""


def _check_room(step: str, limits: Limits, least_bytes: int, what: str) -> None:
    if limits.scratch_bytes < least_bytes:
        fitting = math.ceil(_INDEX_ROOM * least_bytes / 2**30)
        raise UserError(
            f"step {step}: expected a scratch volume of {least_bytes} bytes at least, for {what}; "
            f'found {limits.scratch_bytes}: submit with SET="{step}.scratch={fitting}Gi"'
        )


def check_archive(package: str, source: str) -> str:
    """Return a note where stage-data has no room to fetch an archive in object storage whole."""
    if not source.lower().endswith((".zip", ".tar")):
        return ""
    answer, note = _asked("head_object", source)
    if answer is None:
        return note
    limits, size = limits_of(package).get("stage-data"), answer["ContentLength"]
    if limits is not None and size > _ROOM_SHARE * limits.scratch_bytes:
        fitting = math.ceil(size / _ROOM_SHARE / 2**30)
        return (
            f"{source}: its {size / 1e9:.1f} GB take more than half of the {limits.scratch_bytes / 2**30:g} GiB of "
            f'scratch: stage-data reads it by range, twice; SET="stage-data.scratch={fitting}Gi" fetches it once'
        )
    return ""


def _asked(operation: str, uri: str) -> tuple[dict[str, Any] | None, str]:
    """What object storage answers about an object; else None, and a note unless nobody here can ask."""
    if not uri.startswith("s3://") or "AWS_ACCESS_KEY_ID" not in os.environ:
        return None, ""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        return getattr(s3_client(), operation)(Bucket=bucket, Key=key), ""
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as err:
        return None, f"the size of {uri} not checked, it cannot be read from here: {err}"


def check_export_workers(parameters: Mapping[str, Any]) -> None:
    """Check that what the workers of all models leave fits into one argument of the next step.

    Args:
        parameters: of the run; those that are not given are the pipeline's own.

    Raises:
        UserError: it does not.
    """
    workers = [int(parameters.get(f"{model}_export_workers", 1)) for model in MODELS]
    each = _ARTIFACT_BYTES + max(0, len(str(parameters["storage_uri"])) - _USUAL_URI)
    most = _ARGUMENT_BYTES // each
    if sum(workers) > most:
        names = " and ".join(f"{model}_export_workers" for model in MODELS)
        raise UserError(
            f"--param {names}: expected at most {most} together, found {sum(workers)}: what they leave is one argument "
            "of the next step, of at most 128 KiB"
        )
