"""From a batch of prepared tiles to encoded ones: predicting, quantising, handing over to the threads that encode."""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from landseg.contracts.errors import ConfigError
from landseg.contracts.tile import Tile
from landseg.models.failures import came_from_lack_of_memory, free_memory
from landseg.models.preprocessing import Planes
from landseg.prediction.predictor import Predictor
from landseg.prediction.quantizing import HostBuffers, Transfer, quantize, summarize
from landseg.probabilities.codec import DTYPES, Stored, Summary
from landseg.probabilities.writer import ProbsWriter, ShardBuilder

_log = logging.getLogger(__name__)

BATCHES_WAITING = 2
"""Batches that may wait to be encoded."""


class HostOutlet:
    """Where the CPU predicts: the threads that encode also quantise.

    Args:
        predict: the model.
        writer: takes the probabilities.
        encoders: threads that encode.
        batch_size: largest number of tiles in a batch.
    """

    def __init__(self, predict: Predictor, writer: ProbsWriter, encoders: ThreadPoolExecutor, batch_size: int) -> None:
        self._predict, self._encoders = predict, encoders
        self._keep, self._fp16 = bool(writer.spec.views), writer.spec.precision == "fp16"
        self._room = threading.BoundedSemaphore(BATCHES_WAITING * batch_size)
        self._encoded: list[Future[None]] = []

    def put(self, builder: ShardBuilder, tiles: Sequence[Tile], prepared: Sequence[list[Planes]]) -> None:
        """Predict tiles of one size from one shard."""
        size = (tiles[0].height, tiles[0].width)
        if self._keep:
            probs, views = self._predict.with_views(prepared, size)
        else:
            probs, views = self._predict(prepared, size), None
        for i, tile in enumerate(tiles):
            mean, each = probs[i], () if views is None else views[i]
            if self._fp16 and math.isnan(float(mean.min())):
                _note_overflow(builder, tile)
                again, kept = _in_bf16(self._predict, prepared[i], size, self._keep)
                mean, each = again[0].cpu().numpy(), () if kept is None else kept[0].cpu().numpy()
            self._room.acquire()
            self._encoded.append(self._encoders.submit(self._encode, builder, tile, mean, each))

    def _encode(self, builder: ShardBuilder, tile: Tile, probs: Planes, views: Sequence[Planes]) -> None:
        try:
            builder.add(tile.id, probs, views)
        finally:
            self._room.release()

    def take(self) -> list[Future[None]]:
        """The tiles put since the last call, done or not; empties the outlet."""
        encoded, self._encoded = self._encoded, []
        return encoded


@dataclass
class _Pending:
    """A batch whose copy to the host has begun."""

    builder: ShardBuilder
    tiles: Sequence[Tile]
    prepared: Sequence[list[Planes]]
    transfer: Transfer


class DeviceOutlet:
    """Where a GPU predicts: it quantises too, and stored values come to the host while it predicts the next batch.

    Args:
        predict: the model.
        writer: takes the probabilities.
        encoders: threads that encode.
    """

    def __init__(self, predict: Predictor, writer: ProbsWriter, encoders: ThreadPoolExecutor) -> None:
        self._predict, self._encoders = predict, encoders
        self._dtype = DTYPES[writer.spec.dtype]
        self._arrays = 1 + len(writer.spec.views)
        self._fp16 = writer.spec.precision == "fp16"
        slots = BATCHES_WAITING + 1
        self._buffers = HostBuffers(predict.device, slots)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(slots):
            self._free.put(slot)
        self._pending: _Pending | None = None
        self._encoded: list[Future[None]] = []

    def put(self, builder: ShardBuilder, tiles: Sequence[Tile], prepared: Sequence[list[Planes]]) -> None:
        """Start to predict tiles of one size from one shard; the batch before goes on to be encoded."""
        probs = _stacked(*self._predict.on_device(prepared, (tiles[0].height, tiles[0].width), self._arrays > 1))
        slot = self._free.get()
        try:
            transfer = self._buffers.send(probs, self._dtype, slot)
        except BaseException:
            self._free.put(slot)
            raise
        before, self._pending = self._pending, _Pending(builder, tiles, prepared, transfer)
        self._settle(before)

    def take(self) -> list[Future[None]]:
        """The tiles put since the last call, done or not; empties the outlet."""
        before, self._pending = self._pending, None
        self._settle(before)
        encoded, self._encoded = self._encoded, []
        return encoded

    def _settle(self, batch: _Pending | None) -> None:
        """Wait until a batch has arrived, and let its tiles be encoded."""
        if batch is None:
            return
        batch.transfer.wait()
        stored = batch.transfer.array(self._dtype)
        left = threading.Semaphore(len(batch.tiles) - 1)
        for i, tile in enumerate(batch.tiles):
            rows = range(i * self._arrays, (i + 1) * self._arrays)
            arrays, summaries = [stored[row] for row in rows], [batch.transfer.summary(row) for row in rows]
            if self._fp16 and math.isnan(summaries[0].low):
                _note_overflow(batch.builder, tile)
                arrays, summaries = self._again(batch.prepared[i], tile)
            self._encoded.append(
                self._encoders.submit(self._encode, batch.builder, tile, arrays, summaries, batch.transfer.slot, left)
            )

    def _again(self, prepared: list[Planes], tile: Tile) -> tuple[list[Stored], list[Summary]]:
        size = (tile.height, tile.width)
        probs = _stacked(*_in_bf16(self._predict, prepared, size, self._arrays > 1))
        stored = quantize(probs, self._dtype).cpu().numpy().view(self._dtype.stored)
        return list(stored), [Summary(*row) for row in summarize(probs).tolist()]

    def _encode(
        self,
        builder: ShardBuilder,
        tile: Tile,
        arrays: Sequence[Stored],
        summaries: Sequence[Summary],
        slot: int,
        left: threading.Semaphore,
    ) -> None:
        try:
            builder.add_stored(tile.id, arrays, summaries)
        finally:
            if not left.acquire(blocking=False):  # the last tile of its batch
                self._free.put(slot)


def _in_bf16(
    predict: Predictor, tile: list[Planes], size: tuple[int, int], keep: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As :meth:`landseg.prediction.predictor.Predictor.in_bf16`.

    Raises:
        ConfigError: as there. Where memory did not suffice, its cause is left out: the batch is not to be put again in
            smaller parts, some of its tiles are on their way already.
    """
    try:
        return predict.in_bf16(tile, size, keep)
    except ConfigError as err:
        if not came_from_lack_of_memory(err):
            raise
    free_memory()  # outside of the handler: the error holds on to what was computed
    try:
        return predict.in_bf16(tile, size, keep)
    except ConfigError as err:
        raise err from None


def _stacked(mean: torch.Tensor, views: torch.Tensor | None) -> torch.Tensor:
    """(N * (1 + V), C, H, W): of each of N tiles the mean, then its V views."""
    return mean if views is None else torch.cat([mean[:, None], views], 1).flatten(0, 1)


def _note_overflow(builder: ShardBuilder, tile: Tile) -> None:
    _log.warning("tile %s: the network overflows in fp16; it is predicted in bf16", tile.id)
    builder.note_bf16(tile.id)
