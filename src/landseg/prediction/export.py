"""Exporting probabilities: decoding, inference, encoding and upload at the same time, in bounded memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from landseg.contracts.dataset import Split
from landseg.contracts.tile import Tile
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.models.failures import came_from_lack_of_memory, free_memory, is_out_of_memory, out_of_memory
from landseg.models.preprocessing import Planes
from landseg.prediction.outlets import DeviceOutlet, HostOutlet
from landseg.prediction.predictor import Predictor
from landseg.probabilities.layout import ShardPlan
from landseg.probabilities.writer import ProbsWriter, ShardBuilder

_BATCHES_AHEAD = 2
"""Batches that may be decoded ahead of the model."""
_SHARDS_IN_UPLOAD = 2
_AUTO_BATCH = {"cuda": 16, "cpu": 4}
"""What `--batch-size auto` begins with: larger ones were no faster for the bundled models."""

_log = logging.getLogger(__name__)


@dataclass
class _Batch:
    """Tiles of one size from one shard, to be predicted together."""

    plan: ShardPlan
    tiles: list[Tile]
    last: bool
    prepared: list[Future[list[Planes]]] = field(default_factory=list)


def export(
    predict: Predictor,
    dataset: StagedDataset,
    writer: ProbsWriter,
    plans: Sequence[ShardPlan],
    *,
    batch_size: int | None,
    num_threads: int,
    advance: Callable[[int], None],
) -> None:
    """Predict the tiles of the given shards and write the shards.

    Which tiles are predicted together depends on the shard and the batch size alone, so on one kind of device a shard's
    bytes are the same whichever pod writes it. Another batch size may change the last bits of a probability: kernels
    add in another order.

    Args:
        predict: the model.
        dataset: the staged dataset.
        writer: takes the probabilities.
        plans: the shards to write.
        batch_size: largest number of tiles predicted together; None begins with what suits the device, and halves it
            where memory does not suffice.
        num_threads: threads that decode, and as many that encode.
        advance: called with the number of tiles just predicted.
    """
    tiles = {split: dataset.index(split) for split in {plan.split for plan in plans}}
    planned = batch_size or _AUTO_BATCH[predict.device.type]
    with (
        ThreadPoolExecutor(num_threads, "decode") as decoders,
        ThreadPoolExecutor(num_threads, "encode") as encoders,
        ThreadPoolExecutor(_SHARDS_IN_UPLOAD, "upload") as uploaders,
    ):
        outlet = _outlet(predict, writer, encoders, planned)
        sizes = _Sizes(planned, is_fixed=batch_size is not None)

        def decode(split: Split, tile: Tile) -> list[Planes]:
            return predict.prepare(dataset.read_image(split, tile))

        def close(builder: ShardBuilder, encoded: list[Future[None]]) -> None:
            for future in encoded:
                future.result()
            builder.close()

        uploads: deque[Future[None]] = deque()
        builder: ShardBuilder | None = None
        try:
            for batch in _ahead(_batches(plans, tiles, planned), lambda b: _submit(decoders, decode, b)):
                if builder is None:
                    builder = writer.shard(batch.plan)
                _predict(outlet, builder, batch, sizes)
                advance(len(batch.tiles))
                if batch.last:
                    uploads.append(uploaders.submit(close, builder, outlet.take()))
                    builder = None
                    if len(uploads) > _SHARDS_IN_UPLOAD:
                        uploads.popleft().result()
            for upload in uploads:
                upload.result()
        except BaseException as err:
            for pool in (decoders, encoders, uploaders):
                pool.shutdown(wait=False, cancel_futures=True)
            if is_out_of_memory(err):
                raise out_of_memory(err, "--batch-size") from err
            raise


def _outlet(
    predict: Predictor, writer: ProbsWriter, encoders: ThreadPoolExecutor, batch_size: int
) -> HostOutlet | DeviceOutlet:
    if predict.device.type == "cuda":
        return DeviceOutlet(predict, writer, encoders)
    return HostOutlet(predict, writer, encoders, batch_size)


@dataclass
class _Sizes:
    """How many tiles are predicted together.

    Attributes:
        most: at most so many.
        is_fixed: whether a user said so.
    """

    most: int
    is_fixed: bool

    def halve(self, err: BaseException) -> bool:
        """Halve the number after an error; False where memory was not its cause, or there is nothing to halve."""
        if self.is_fixed or self.most == 1 or not came_from_lack_of_memory(err):
            return False
        self.most //= 2
        _log.info("memory does not suffice: from here on, %d tiles are predicted together", self.most)
        return True


def _predict(outlet: HostOutlet | DeviceOutlet, builder: ShardBuilder, batch: _Batch, sizes: _Sizes) -> None:
    """Predict a batch, in parts where memory does not suffice for it as a whole."""
    prepared = [future.result() for future in batch.prepared]
    done = 0
    while done < len(batch.tiles):
        part = slice(done, done + sizes.most)
        try:
            outlet.put(builder, batch.tiles[part], prepared[part])
        except Exception as err:
            if not sizes.halve(err):
                raise
        else:
            done += len(batch.tiles[part])
            continue
        free_memory()  # outside of the handler: the error holds on to what was computed


def _batches(plans: Sequence[ShardPlan], tiles: dict[Split, TileIndex], batch_size: int) -> Iterator[_Batch]:
    for plan in plans:
        sizes: dict[tuple[int, int], list[Tile]] = {}
        for stored in plan.tiles:
            sizes.setdefault((stored.height, stored.width), []).append(tiles[plan.split].find(stored.id))
        groups = [
            group[start : start + batch_size] for group in sizes.values() for start in range(0, len(group), batch_size)
        ]
        for i, group in enumerate(groups):
            yield _Batch(plan, group, last=i == len(groups) - 1)


def _submit(pool: ThreadPoolExecutor, decode: Callable[[Split, Tile], list[Planes]], batch: _Batch) -> _Batch:
    batch.prepared = [pool.submit(decode, batch.plan.split, tile) for tile in batch.tiles]
    return batch


def _ahead(batches: Iterator[_Batch], start: Callable[[_Batch], _Batch]) -> Iterator[_Batch]:
    """Start batches before they are needed."""
    window: deque[_Batch] = deque()
    for batch in batches:
        window.append(start(batch))
        if len(window) > _BATCHES_AHEAD:
            yield window.popleft()
    yield from window
