"""Quantisation where the probabilities are, and their way to the host.

The operations are those of :func:`landseg.probabilities.codec.quantize`: one product in float32, one rounding half to
even, one table. Each is exact in IEEE arithmetic or takes integers, so a GPU stores what the CPU would.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from landseg.probabilities.codec import Dtype, Stored, Summary, companded_table

_STORED = {"u1": torch.uint8, "u2": torch.int16, "f2": torch.float16, "f4": torch.float32}
"""torch's types for those of arrays. It does little with uint16; int16 has the same bits."""


def quantize(probs: torch.Tensor, dtype: Dtype) -> torch.Tensor:
    """As :func:`landseg.probabilities.codec.quantize`, on the device of `probs`.

    Args:
        probs: (N, C, H, W) float32 in 0-1.
        dtype: how to store them.

    Returns:
        (N, C, H, W): the bits of `dtype.stored`, as a type that torch has.
    """
    kind = _STORED[dtype.stored.str[1:]]
    if not dtype.levels:
        return probs.to(kind)
    # Not fused, and no product of three: either would round once where the codec rounds twice.
    levels = torch.full((), dtype.levels, dtype=torch.float32, device=probs.device)  # filled there, nothing is copied
    rounded = (probs * levels).round_().to(torch.int32)
    if dtype.name == "companded":
        table = _companded_table(probs.device)
        # What is no probability, NaN above all, is refused later (`summarize`); here an index out of bounds would end
        # the GPU's context.
        return table[rounded.clamp_(0, dtype.levels)]
    return rounded.to(kind)  # the lower bits, as NumPy's cast to an unsigned type


@functools.cache
def _companded_table(device: torch.device) -> torch.Tensor:
    """The table on a device, copied there once: each copy would wait until the device has nothing left to do."""
    return torch.from_numpy(companded_table().astype(np.int16)).to(device)


def summarize(probs: torch.Tensor) -> torch.Tensor:
    """What says whether maps are probabilities: (N, 3) float32 lowest, highest, largest distance of a sum from 1.

    NaN wherever a map holds NaN.
    """
    flat = probs.flatten(1)
    off = (probs.sum(1) - 1).abs_().flatten(1)
    return torch.stack([flat.amin(1), flat.amax(1), off.amax(1)], 1)


@dataclass
class Transfer:
    """Stored tiles on their way to the host; valid until the slot is given to :meth:`HostBuffers.send` again.

    Attributes:
        stored: (N, C, H, W) on the host, complete once :meth:`wait` has returned.
        summaries: (N, 3) likewise.
        slot: the buffer they lie in.
        arrived: the event of the GPU after both copies; None where they were made at once.
        source: what is copied, held until it has arrived.
    """

    stored: torch.Tensor
    summaries: torch.Tensor
    slot: int
    arrived: Any = None
    source: Sequence[torch.Tensor] = field(default_factory=list)

    def wait(self) -> None:
        """Wait until everything has arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        self.source = ()

    def array(self, dtype: Dtype) -> Stored:
        """(N, C, H, W) of `dtype.stored`."""
        array: Stored = self.stored.numpy().view(dtype.stored)
        return array

    def summary(self, tile: int) -> Summary:
        """Of one tile."""
        low, high, off = self.summaries[tile].tolist()
        return Summary(low, high, off)


class HostBuffers:
    """Page-locked buffers that are filled in turn by a stream of their own, so that copying delays no computing.

    Args:
        device: where tiles come from; copies from a CPU are made at once.
        number: how many transfers may be under way or in use.
    """

    def __init__(self, device: torch.device, number: int) -> None:
        self._on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None  # type: ignore[no-untyped-call]
        self._bytes = [torch.empty(0, dtype=torch.uint8) for _ in range(number)]

    def send(self, probs: torch.Tensor, dtype: Dtype, slot: int) -> Transfer:
        """Quantise tiles on their device and start to copy them; returns at once.

        Args:
            probs: (N, C, H, W) float32.
            dtype: how to store them.
            slot: a buffer that nothing uses any more.
        """
        stored, summaries = quantize(probs, dtype).contiguous(), summarize(probs)
        host = self._buffer(slot, stored.nbytes).view(stored.dtype).view(stored.shape)
        found = torch.empty(summaries.shape, pin_memory=self._on_gpu)
        if self._stream is None:
            host.copy_(stored)
            found.copy_(summaries)
            return Transfer(host, found, slot)
        self._stream.wait_stream(torch.cuda.current_stream(probs.device))
        with torch.cuda.stream(self._stream):
            # As bytes: one plain copy, whatever the type.
            host.view(torch.uint8).copy_(stored.view(torch.uint8), non_blocking=True)
            found.copy_(summaries, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
        # Their memory is not to be reused before the copy has been made: the transfer holds on to them.
        return Transfer(host, found, slot, arrived, (stored, summaries))

    def _buffer(self, slot: int, size: int) -> torch.Tensor:
        if len(self._bytes[slot]) < size:
            self._bytes[slot] = torch.empty(size, dtype=torch.uint8, pin_memory=self._on_gpu)
        return self._bytes[slot][:size]
