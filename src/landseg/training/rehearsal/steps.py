"""What would fail in the middle of training, tried before the first batch: samples of other sizes than the first's.

Where every batch has the same size, the first one shows whether it fits, seconds later. Where samples differ, a network
that takes only some sizes, or a GPU that has no room for the largest, would end a training after hours.
"""

from __future__ import annotations

import torch

from landseg.training.input.batches import Batch
from landseg.training.job import tiles_per_batch
from landseg.training.losses import compute_losses
from landseg.training.rehearsal.conditions import MAX_SIZES, memory_of_training, untouched
from landseg.training.session import Session


def rehearse_steps(session: Session) -> None:
    """Compute the losses and the gradients of a batch of each size that training will meet, where there are several.

    Weights, BatchNorm's statistics, gradients, the optimizer and the random numbers of training are as before
    afterwards, to the bit. Every process of a team has to call it: parts of the model may exchange what they compute.

    Raises:
        LandsegError: the transforms fail on a tile, samples of a batch differ in size, or the network cannot be trained
            on a size.
    """
    with untouched(session):
        sizes = sorted(_batch_sizes(session), key=lambda size: -size[0] * size[1])
        if len(sizes) < 2 or session.acceleration.compiled:  # torch.compile would compile each size anew
            return
        session.model.train()
        with memory_of_training(session, gradients=False):
            for size in sizes:
                losses = compute_losses(session, session.model, _batch(session, size))
                losses["loss"].backward()  # type: ignore[no-untyped-call]
                session.model.zero_grad(set_to_none=True)


def _batch_sizes(session: Session) -> set[tuple[int, int]]:
    """The (height, width) of the batches that training meets, or of as many as are tried."""
    tiles, pipeline = session.tiles, session.tiles.pipeline
    if pipeline.size and not pipeline.mmseg_steps:
        return {pipeline.size}
    if pipeline.mmseg_steps and session.job.mixed_shards:  # a shard would be fetched for each tile
        return set()
    numbers = tiles.one_of_each_size(MAX_SIZES)
    if not pipeline.mmseg_steps:
        return {pipeline.padded(tiles.size(number)) for number in numbers}
    # The first epoch's own draws, and where there are few sizes those of further epochs: crops and scales are random.
    keys = [(draw, number) for draw in range(max(1, MAX_SIZES // len(numbers))) for number in numbers]
    if tiles_per_batch(session.config) > 1:
        return {(height, width) for *_, height, width in [tiles.read(keys)["img"].shape]}
    return {(height, width) for key in keys for *_, height, width in [tiles.read([key])["img"].shape]}


def _batch(session: Session, size: tuple[int, int]) -> Batch:
    """A batch of noise, in which every class occurs."""
    number = tiles_per_batch(session.config)
    bands, num_classes = len(session.dataset.schema.bands), session.dataset.schema.num_classes
    shape = (*size, bands)
    meta = {"filename": "trial", "ori_filename": "trial", "scale_factor": 1.0, "flip": False, "flip_direction": None}
    meta |= {"ori_shape": shape, "img_shape": shape, "pad_shape": shape}
    return {
        "img": torch.randn(number, bands, *size),
        "gt_semantic_seg": torch.randint(num_classes, (number, 1, *size)),
        "img_metas": [dict(meta) for _ in range(number)],
    }
