"""`export-probs` without a model: a share of an export that reads every image and stores the same probabilities.

`python -m benchmarks.stand_in_export DATASET FOLDER MODEL I/N SCRATCH` costs what the stage costs around the network.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np

from benchmarks.fields import made_up_spec
from landseg import storage
from landseg.contracts.probabilities import ProbsManifest
from landseg.dataset.reader import StagedDataset
from landseg.probabilities.writer import ProbsWriter
from landseg.stages.shared.context import finished
from landseg.stages.shared.options import parse_share


def main(ref: str, folder: str, model: str, worker: str, scratch: str) -> None:
    """Write the shards of a share that are missing and, where that was the last, the manifest."""
    share, num_shares = parse_share(worker)
    dataset = StagedDataset.open(ref, Path(scratch), access="neighbours")
    tiles = {split: dataset.index(split) for split in sorted(dataset.manifest.splits)}
    spec = made_up_spec(dataset, model)
    writer = ProbsWriter(folder, spec, tiles)
    if finished(ProbsManifest, folder, *writer.metadata):
        return
    for plan in writer.pending(share - 1, num_shares):
        builder = writer.shard(plan)
        for stored in plan.tiles:
            dataset.read_image(plan.split, tiles[plan.split].find(stored.id))
            builder.add(stored.id, _probs(len(spec.classes), stored.height, stored.width, model))
        builder.close()
    if probs := writer.publish():
        print(storage.join(folder, "manifest.json"), probs.sha256)


@functools.cache
def _probs(num_classes: int, height: int, width: int, model: str) -> np.ndarray:
    raised = np.exp(np.random.default_rng(len(model)).normal(size=(num_classes, height, width)))
    probs: np.ndarray = (raised / raised.sum(axis=0)).astype(np.float32)
    return probs


if __name__ == "__main__":
    main(*sys.argv[1:])
