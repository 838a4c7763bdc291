"""`landseg plan-export`: the shares into which an export is divided."""

from __future__ import annotations

import argparse

from landseg.contracts.errors import ConfigError
from landseg.contracts.parameters import add_parameter, check_values
from landseg.dataset.reader import StagedDataset
from landseg.probabilities.layout import plan_splits
from landseg.stages.shared.context import stage_context
from landseg.stages.shared.options import add_common_arguments, split_tiles

HELP = "divide an export among workers: print each one's --worker (and --model)"
EXAMPLE = "landseg plan-export --dataset out/dataset.json --workers 4 --storage-uri s3://bucket/landseg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    for name in ("dataset_uri", "model_uris", "splits", "workers"):
        add_parameter(parser, name)
    add_common_arguments(parser, run_id=False)


def run(args: argparse.Namespace) -> None:
    """Print the shares `1/N` to `N/N`, with no more workers than there are shards: none starts without work.

    Where models are given, every worker of every model is printed, its model first.

    Raises:
        ConfigError: a model is given twice.
    """
    check_values("plan-export", args)
    with stage_context("plan-export", args) as context:
        dataset = StagedDataset.open(context.reference("dataset", args.dataset), context.scratch / "shards")
        shards = plan_splits(split_tiles(args.splits, dataset), dataset.schema.num_classes)
        num_shares = max(1, min(args.workers, len(shards)))
        shares = [f"{share}/{num_shares}" for share in range(1, num_shares + 1)]
        models = [model.strip() for model in args.models.split(",") if model.strip()]
        if twice := next((model for model in models if models.count(model) > 1), ""):
            raise ConfigError("--models", f"expected each model once, found {twice} twice")
        exports = [{"model_uri": model, "worker": share} for model in models for share in shares]
        context.outputs.parameter("shares", shares)
        context.outputs.parameter("exports", exports)
        print("\n".join([f"{export['model_uri']} {export['worker']}" for export in exports] or shares))
