"""`landseg plan-average`: the shares into which an average is divided, and the weights that its workers use."""

from __future__ import annotations

import argparse

from landseg import storage
from landseg.contracts.parameters import add_parameter, check_values, split_list
from landseg.contracts.probabilities import ProbsManifest
from landseg.dataset.reader import StagedDataset
from landseg.ensemble.maps.scenes import check_num_scenes
from landseg.ensemble.members import affordable_threads, room_needed
from landseg.raw.processes import num_cpus
from landseg.stages.shared import costs
from landseg.stages.shared.context import stage_context
from landseg.stages.shared.options import add_common_arguments, all_shares, check_handed_on
from landseg.stages.shared.settled_average import open_models, settle
from landseg.stages.shared.step_limits import check_step_room

HELP = "divide an average among workers: print each one's --worker"
EXAMPLE = """landseg plan-average --dataset out/dataset.json --probs swin/probs.json --probs resnest/probs.json \\
      --workers 4 --storage-uri s3://bucket/landseg --run-id first"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    for name in ("dataset_uri", "probs_uris", "average_workers", "weights", "temperature", "seen_val", "layers"):
        add_parameter(parser, name)
    add_common_arguments(parser, files=False)


def run(args: argparse.Namespace) -> None:
    """Print the shares `1/N` to `N/N`, with no more workers than there are shards of probabilities.

    Weights that several workers are to use are fitted here.

    Workers get the URIs of the models' manifests: what the workers of the exports left would be many artifacts for each
    of them. Models that cannot be averaged are refused here, before any worker starts.

    Raises:
        ConfigError: what the workers are given is more than KFP can hand on, or the dataset has more scenes than label
            maps can be listed; the workers' scratch volumes are too small.
        ContractError: the models do not fit each other or the dataset.
    """
    check_values("plan-average", args)
    with stage_context("plan-average", args) as context:
        ref = context.reference("dataset", args.dataset)
        dataset = StagedDataset.open(ref, context.scratch / "dataset", access="few")
        refs = context.references("probs", args.probs)
        uris = [storage.read_document(ProbsManifest, ref).uri for ref in refs]  # in this order, which weights follow
        members = open_models(uris, args.weights, dataset, context.scratch)
        check_step_room(["average-probs"], room_needed(members, dataset))
        reader = members[0].reader
        indexes = [dataset.index(split) for split in reader.manifest.splits]
        ids = {(index, tile.scene.id) for index, tiles in enumerate(indexes) for tile in tiles if tile.scene}
        check_num_scenes([scene_id for _, scene_id in ids], 1 + len(split_list(args.layers)))
        num_shards = sum(len(reader.index(split)) for split in reader.manifest.splits)
        shares = all_shares(max(1, min(args.workers, num_shards)))
        # Each item of a loop holds all that differs from the pipeline's own parameters: kfp.local hands no other output
        # of a step into a loop.
        averages = [{"probs_uris": ",".join(uris), "worker": share} for share in shares]
        check_handed_on(averages, len(shares))
        if args.weights == "auto" and len(shares) > 1:
            settled = settle(context, dataset, members, args, affordable_threads(members, num_cpus()))
            costs.record(settled.folder, context.seconds)
        context.outputs.parameter("averages", averages)
        print("\n".join(shares))
