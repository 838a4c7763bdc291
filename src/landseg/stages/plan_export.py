"""`landseg plan-export`: the shares into which an export is divided."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence

from landseg import storage
from landseg.contracts.errors import ConfigError
from landseg.contracts.model import ModelManifest, is_checkpoint
from landseg.contracts.parameters import add_parameter, check_values
from landseg.dataset.reader import StagedDataset
from landseg.models.checkpoint_names import checkpoint_name
from landseg.probabilities.layout import ShardPlan, plan_splits
from landseg.stages.shared.context import stage_context
from landseg.stages.shared.options import (
    MAX_ARGUMENT_BYTES,
    add_common_arguments,
    all_shares,
    check_handed_on,
    split_tiles,
)
from landseg.stages.shared.step_limits import check_step_room, limit

HELP = "divide an export among workers: print each one's --worker (and --model)"
EXAMPLE = "landseg plan-export --dataset out/dataset.json --workers 4 --storage-uri s3://bucket/landseg"

_MOST_ARTIFACTS = 150
"""How many workers may leave an artifact."""
_ARTIFACT_BYTES = 800
"""What each takes of the argument at most, where the root in object storage has up to 100 characters."""
_PIXELS_PER_S = 54 * 512 * 512
"""Of Swin, measured on an H100 (docs/scale.md)."""

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    for name in ("dataset_uri", "model_uris", "splits", "workers"):
        add_parameter(parser, name)
    add_common_arguments(parser, run_id=False, files=False)


def run(args: argparse.Namespace) -> None:
    """Print the shares `1/N` to `N/N`, with no more workers than there are shards: none starts without work.

    Where models are given, every worker of every model is printed, its model first.

    Raises:
        ConfigError: a model is given twice, two have one name, or all models together have more workers than
            KFP can hand on; a later step's scratch volume is too small.
    """
    check_values("plan-export", args)
    with stage_context("plan-export", args) as context:
        ref = context.reference("dataset", args.dataset)
        dataset = StagedDataset.open(ref, context.scratch / "shards", access="few")
        dataset.check_room()
        if dataset.is_cached:
            check_step_room(["export-probs"], dataset.room_needed("neighbours"))
            check_step_room(["plan-average", "average-probs"], dataset.room_needed("few"))
        shards = plan_splits(split_tiles(args.splits, dataset), dataset.schema.num_classes)
        num_shares = max(1, min(args.workers, len(shards)))
        shares = all_shares(num_shares)
        models = [model.strip() for model in args.models.split(",") if model.strip()]
        if twice := next((model for model in models if models.count(model) > 1), ""):
            raise ConfigError("--models", f"expected each model once, found {twice} twice")
        _check_artifacts(max(1, len(models)), num_shares, context.storage_uri)
        _check_names(models)
        _note_hours(shards, num_shares)
        exports = [{"model_uri": model, "worker": share} for model in models for share in shares]
        check_handed_on(exports, num_shares)
        context.outputs.parameter("shares", shares)
        context.outputs.parameter("exports", exports)
        print("\n".join([f"{export['model_uri']} {export['worker']}" for export in exports] or shares))


def _check_artifacts(num_models: int, num_shares: int, storage_uri: str) -> None:
    """Refuse more workers of all models together than the next step can be told of."""
    each = _ARTIFACT_BYTES + max(0, len(storage_uri) - 100)
    most = min(_MOST_ARTIFACTS, MAX_ARGUMENT_BYTES // each)
    reason = "what all workers leave is one argument of the next step, of at most 128 KiB"
    if num_models > most:
        raise ConfigError("--models", f"expected at most {most}, found {num_models}", f"give fewer: {reason}")
    if num_models * num_shares > most:
        problem = f"expected at most {most // num_models} for {num_models} models, found {num_shares}"
        raise ConfigError("--workers", problem, f"ask for fewer: {reason}")


def _note_hours(shards: Sequence[ShardPlan], num_shares: int) -> None:
    """Warn where a share is likely to take longer than the pipeline lets its step run."""
    timeout_s = limit("export-probs", "timeout_s")
    pixels = sum(shard.num_tiles * shard.canvas[0] * shard.canvas[1] for shard in shards)
    seconds = pixels / _PIXELS_PER_S
    if timeout_s is not None and seconds > timeout_s * num_shares:
        _log.warning(
            "a model's export takes %.0f GPU hours (three views, at an H100's speed), %.0f for each of %d workers: "
            "the pipeline ends the step after %.3g h; expected at least %d workers",
            *(seconds / 3600, seconds / 3600 / num_shares, num_shares, timeout_s / 3600),
            math.ceil(seconds / timeout_s),
        )


def _check_names(models: Sequence[str]) -> None:
    """Refuse two models of one name, which could not be averaged, before any of them is exported."""
    by_name: dict[str, str] = {}
    for model in models:
        name = checkpoint_name(model) if is_checkpoint(model) else _name(model)
        if name is None:
            continue
        if name in by_name:
            raise ConfigError(
                "--models",
                f"expected models of different names, found {by_name[name]} and {model}, both named {name}",
                "predict with one of them, or with landseg predict, which numbers them",
            )
        by_name[name] = model


def _name(model: str) -> str:
    return storage.read_document(ModelManifest, model).document.name
