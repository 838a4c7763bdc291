"""Exporting probabilities: decoding, inference, encoding and upload at the same time, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from landseg.contracts.dataset import Split, Tile
from landseg.dataset.index import TileIndex
from landseg.dataset.reader import StagedDataset
from landseg.models.failures import is_out_of_memory, out_of_memory
from landseg.models.preprocessing import Planes
from landseg.prediction.predictor import Predictor
from landseg.probabilities.layout import ShardPlan
from landseg.probabilities.writer import ProbsWriter, ShardBuilder

_BATCHES_AHEAD = 2
"""Batches that may be decoded ahead of the model, and as many that may wait to be encoded after it."""
_SHARDS_IN_UPLOAD = 2


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
    batch_size: int,
    num_threads: int,
    advance: Callable[[int], None],
) -> None:
    """Predict the tiles of the given shards and write the shards.

    Which tiles are predicted together depends on the shard and the batch size alone, so a shard's bytes are the same
    whichever pod writes it.

    Args:
        predict: the model.
        dataset: the staged dataset.
        writer: takes the probabilities.
        plans: the shards to write.
        batch_size: largest number of tiles predicted together.
        num_threads: threads that decode, and as many that encode.
        advance: called with the number of tiles just predicted.
    """
    keep_views = bool(writer.spec.views)
    tiles = {split: dataset.index(split) for split in {plan.split for plan in plans}}
    room = threading.BoundedSemaphore(_BATCHES_AHEAD * batch_size)
    with (
        ThreadPoolExecutor(num_threads, "decode") as decoders,
        ThreadPoolExecutor(num_threads, "encode") as encoders,
        ThreadPoolExecutor(_SHARDS_IN_UPLOAD, "upload") as uploaders,
    ):

        def decode(split: Split, tile: Tile) -> list[Planes]:
            return predict.prepare(dataset.read_image(split, tile))

        def encode(builder: ShardBuilder, tile: Tile, probs: Planes, views: Sequence[Planes]) -> None:
            try:
                builder.add(tile.id, probs, views)
            finally:
                room.release()

        def close(builder: ShardBuilder, encoded: list[Future[None]]) -> None:
            for future in encoded:
                future.result()
            builder.close()

        uploads: deque[Future[None]] = deque()
        builder: ShardBuilder | None = None
        encoded: list[Future[None]] = []
        try:
            for batch in _ahead(_batches(plans, tiles, batch_size), lambda b: _submit(decoders, decode, b)):
                if builder is None:
                    builder, encoded = writer.shard(batch.plan), []
                first = batch.tiles[0]
                prepared, size = [future.result() for future in batch.prepared], (first.height, first.width)
                probs, views = predict.with_views(prepared, size) if keep_views else (predict(prepared, size), None)
                for i, tile in enumerate(batch.tiles):
                    room.acquire()
                    encoded.append(encoders.submit(encode, builder, tile, probs[i], () if views is None else views[i]))
                advance(len(batch.tiles))
                if batch.last:
                    uploads.append(uploaders.submit(close, builder, encoded))
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
