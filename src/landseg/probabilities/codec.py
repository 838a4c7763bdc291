"""How probabilities become bytes, and bytes probabilities: quantisation, compression, shards.

A shard is a shard of a Zarr v3 array (codec `sharding_indexed`): one Blosc-compressed chunk per tile, then an index of
(offset, length) of each chunk as little-endian uint64, then the CRC-32C of the index. Any Zarr library reads it;
:mod:`landseg.probabilities.layout` makes the metadata that goes with it. It is written here rather than by Zarr because
a stage has to encode tiles in any order, in threads, and hand the finished object to its own storage.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import google_crc32c
import numpy as np
from numcodecs import blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from landseg.contracts.errors import DamagedObjectError, DataError
from landseg.contracts.probabilities import DtypeName

Probs = NDArray[np.float32]
Stored = NDArray[Any]
"""Probabilities as stored: unsigned integers in units of `Dtype.unit`, or floats."""

BLOSC_CNAME: Literal["zstd"] = "zstd"
BLOSC_CLEVEL = 5
BLOSC_BLOCK_BYTES = 1 << 20
"""Blosc's compressor, level and block size, with byte shuffle (docs/adr)."""
SUM_TOLERANCE = 0.01
"""How far the sum of a pixel's probabilities may be from 1: bfloat16 models stay well within it."""

_ABSENT = 2**64 - 1
_INDEX_ENTRY_BYTES = 16
_BLOSC_HEADER = struct.Struct("<4xI4xI")  # lengths of the plain and of the compressed bytes
_CRC_BYTES = 4

# Blosc's own threads write blocks in the order in which they finish, so the same tile would not give the same bytes.
blosc.use_threads = False

# Steps of `companded`, in units of 1/4096, from each probability (in 1/32) upwards. Where two models' sums may tie, at
# 3/16 to 5/8, they are finest; towards 0 and 1, where nearly all values lie and no tie is near, they are coarse.
_COMPANDED_UNITS = 4096
_COMPANDED_STEPS = ((0, 32), (1, 16), (2, 8), (3, 4), (4, 2), (6, 1), (20, 2), (22, 4), (24, 8), (28, 16))


@dataclass(frozen=True)
class Dtype:
    """A way to store a probability.

    Attributes:
        name: as `--dtype` takes it.
        stored: the NumPy type in the array.
        levels: the stored value of probability 1; 0 for floats, which are stored unscaled.
    """

    name: DtypeName
    stored: np.dtype[Any]
    levels: int

    @property
    def unit(self) -> float:
        """The probability of stored value 1: the array's `scale_factor`."""
        return 1 / self.levels if self.levels else 1.0

    @property
    def least(self) -> float:
        """The smallest probability above 0 that is stored, of integers; 0 for floats, which go far enough down."""
        return self.unit * (_COMPANDED_STEPS[0][1] if self.name == "companded" else 1) if self.levels else 0.0


DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("companded", np.dtype("<u2"), _COMPANDED_UNITS),
        Dtype("uint8", np.dtype("u1"), 255),
        Dtype("uint12", np.dtype("<u2"), 4095),
        Dtype("uint16", np.dtype("<u2"), 65535),
        Dtype("float16", np.dtype("<f2"), 0),
        Dtype("float32", np.dtype("<f4"), 0),
    )
}
FEW_CLASSES = 32
"""Up to so many classes, probabilities are companded; beyond, that changes too many labels (ADR 0018)."""


def default_dtype(num_classes: int) -> DtypeName:
    """How probabilities of so many classes are stored unless a user says otherwise: `--dtype auto`."""
    return "companded" if num_classes <= FEW_CLASSES else "uint16"


@functools.cache
def companded_table() -> NDArray[np.uint16]:
    """Table from a probability in units of 1/4096, rounded, to the nearest value that is stored."""
    values = np.arange(_COMPANDED_UNITS + 1)
    starts = np.array([start * _COMPANDED_UNITS // 32 for start, _ in _COMPANDED_STEPS])
    steps = np.array([step for _, step in _COMPANDED_STEPS])[np.searchsorted(starts, values, side="right") - 1]
    table: NDArray[np.uint16] = ((values + steps // 2) // steps * steps).astype(np.uint16)
    return table


def quantize(probs: Probs, dtype: Dtype) -> Stored:
    """Round probabilities to stored values. 0 stays 0, 1 stays 1, equal values stay equal, the order never reverses.

    Args:
        probs: (C, H, W) float32 in 0-1, sums to 1 over C.
        dtype: how to store them.

    Returns:
        (C, H, W) of `dtype.stored`.
    """
    if not dtype.levels:
        return probs.astype(dtype.stored)
    scaled = probs * np.float32(dtype.levels)
    rounded: Stored = np.rint(scaled, out=scaled).astype(dtype.stored)
    return np.take(companded_table(), rounded) if dtype.name == "companded" else rounded


def dequantize(stored: Stored, dtype: Dtype) -> Probs:
    """Probabilities of stored values, (C, H, W) float32."""
    probs: Probs = stored.astype(np.float32)
    probs *= np.float32(dtype.unit)
    return probs


@dataclass(frozen=True)
class Summary:
    """What says whether a tile's values are probabilities; NaN where they hold NaN.

    Attributes:
        low, high: the lowest and the highest.
        off: how far a pixel's sum over the classes is from 1 at most.
    """

    low: float
    high: float
    off: float


def check_probs(probs: Probs, num_classes: int, size: tuple[int, int], where: object) -> None:
    """Refuse an array that is not a map of probabilities.

    Raises:
        DataError: another shape or type is expected, or it holds NaN, values outside 0-1 or pixels that do not sum
            to 1.
    """
    expected = (num_classes, *size)
    if probs.shape != expected or probs.dtype != np.float32:
        raise DataError(where, f"expected {expected} float32 probabilities, found {probs.shape} {probs.dtype}")
    off = float(np.abs(probs.sum(axis=0) - 1).max())
    check_summary(Summary(float(probs.min()), float(probs.max()), off), where)


def check_summary(summary: Summary, where: object) -> None:
    """Refuse values that are not probabilities.

    Raises:
        DataError: they hold NaN, values outside 0-1 or pixels that do not sum to 1.
    """
    low, high = summary.low, summary.high
    # Also where NaN. Rounding may carry a mean of views past 1, but not so far that it would not be stored as 1.
    if not (low >= 0 and high <= 1 + 5e-6):
        raise DataError(where, f"expected probabilities from 0 to 1, found {low} to {high}", "the model has diverged")
    if summary.off > SUM_TOLERANCE:
        raise DataError(where, f"expected probabilities that sum to 1, found a sum that is off by {summary.off:.3g}")


def encode_tile(stored: Stored, canvas: tuple[int, int]) -> bytes:
    """Compress a tile.

    Args:
        stored: (C, H, W), as :func:`quantize` returns it.
        canvas: height and width of the array's chunk, at least (H, W); the rest is filled with 0.
    """
    padding = [(0, 0), *((0, room - side) for room, side in zip(canvas, stored.shape[1:], strict=True))]
    padded = np.ascontiguousarray(np.pad(stored, padding) if np.any(padding) else stored)
    return bytes(blosc.compress(padded, BLOSC_CNAME.encode(), BLOSC_CLEVEL, blosc.SHUFFLE, BLOSC_BLOCK_BYTES))


def decode_tile(
    chunk: bytes, dtype: Dtype, num_classes: int, canvas: tuple[int, int], size: tuple[int, int], where: object
) -> Stored:
    """Reverse :func:`encode_tile`.

    Returns:
        (C, H, W) of `dtype.stored`.

    Raises:
        DamagedObjectError: the chunk is not what was written.
    """
    shape = (num_classes, *canvas)
    num_bytes = int(np.prod(shape)) * dtype.stored.itemsize
    try:
        # A damaged header must not decide how much memory is allocated.
        if _BLOSC_HEADER.unpack_from(chunk) != (num_bytes, len(chunk)):
            raise ValueError("the lengths differ")
        data = blosc.decompress(chunk)
    except (ValueError, RuntimeError, struct.error) as err:
        raise DamagedObjectError(
            where, f"expected a Blosc chunk of {num_bytes} bytes in {len(chunk)}, found something else: {err}"
        ) from err
    stored = np.frombuffer(data, dtype.stored).reshape(shape)[:, : size[0], : size[1]]
    if dtype.levels and int(stored.max()) > dtype.levels:
        raise DamagedObjectError(where, f"expected stored values up to {dtype.levels}, found {stored.max()}")
    return stored


def pack_shard(chunks: Sequence[bytes], capacity: int) -> bytes:
    """Put tiles' chunks into one shard object.

    Args:
        chunks: in the order of the array's first axis.
        capacity: chunks in a full shard of the array; its last shard may hold fewer.
    """
    index = np.full((capacity, 2), _ABSENT, "<u8")
    offset = 0
    for position, chunk in enumerate(chunks):
        index[position] = offset, len(chunk)
        offset += len(chunk)
    tail = index.tobytes()
    return b"".join([*chunks, tail, google_crc32c.value(tail).to_bytes(_CRC_BYTES, "little")])


def index_bytes(capacity: int) -> int:
    """Length of the index at a shard's end."""
    return capacity * _INDEX_ENTRY_BYTES + _CRC_BYTES


def unpack_index(tail: bytes, num_tiles: int, capacity: int, size_bytes: int, where: object) -> list[tuple[int, int]]:
    """Read a shard's index.

    Args:
        tail: the last :func:`index_bytes` bytes of the shard.
        num_tiles: how many tiles the shard has to hold.
        capacity: as in :func:`pack_shard`.
        size_bytes: length of the shard.
        where: the shard, for the error message.

    Returns:
        (offset, length) of each tile's chunk.

    Raises:
        DamagedObjectError: the index is damaged or describes other chunks.
    """
    body, crc = tail[:-_CRC_BYTES], int.from_bytes(tail[-_CRC_BYTES:], "little")
    if len(tail) != index_bytes(capacity) or google_crc32c.value(body) != crc:
        raise DamagedObjectError(where, f"expected the index of {capacity} chunks, found damaged bytes")
    index = np.frombuffer(body, "<u8").reshape(capacity, 2).tolist()
    limit = size_bytes - len(tail)
    present = [(offset, length) for offset, length in index[:num_tiles] if offset + length <= limit]
    if len(present) != num_tiles or any(entry != [_ABSENT, _ABSENT] for entry in index[num_tiles:]):
        raise DamagedObjectError(where, f"expected {num_tiles} chunks within {limit} bytes, found another index")
    return present
