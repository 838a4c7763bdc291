"""Results of a pool's processes in shared memory: through a pipe, the bytes of tiles are copied several times."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from multiprocessing import reduction
from typing import Any

SLOT_BYTES = 16 << 20
"""What a slot holds: the files of a job and a few of its arrays. Memory is only taken by what is written."""
_LARGE_BYTES = 16 << 10
"""From here on, bytes and arrays lie in the slot."""


class SharedResults:
    """Memory in slots, each for one result from the start of its job until it is taken.

    It is handed to the pool's processes as they start. The kernel frees it with the last of them.

    Args:
        num_slots: how many.
    """

    def __init__(self, num_slots: int) -> None:
        self._free = list(range(num_slots))
        descriptor = os.memfd_create("landseg-results")
        os.ftruncate(descriptor, num_slots * SLOT_BYTES)
        self._open(descriptor)

    def _open(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 0)

    def __reduce__(self) -> tuple[Callable[..., SharedResults], tuple[Any]]:
        return _received, (reduction.DupFd(self._descriptor),)

    def close(self) -> None:
        """Give the memory back, once no process writes to it."""
        self._memory.close()
        os.close(self._descriptor)

    def reserve(self) -> int | None:
        """A free slot, None where all are in use: then the result takes the pipe."""
        return self._free.pop() if self._free else None

    def release(self, slot: int | None) -> None:
        """Let a slot be used again."""
        if slot is not None:
            self._free.append(slot)

    def release_after(self, slot: int | None, job: Future[Any]) -> None:
        """Let a slot be used again once no process writes to it any more."""
        job.add_done_callback(lambda _: self.release(slot))

    def put(self, slot: int | None, result: Any) -> bytes:
        """Write a result's large parts to a slot; what does not fit stays with the rest.

        Returns:
            The rest, for :meth:`take`.
        """
        if slot is None:
            return pickle.dumps(result, protocol=5)
        rest = io.BytesIO()
        with self._slot(slot) as memory:
            pickler = _Pickler(rest, memory)
            pickler.dump(result)
        return pickle.dumps((rest.getvalue(), pickler.arrays))

    def take(self, slot: int | None, packed: bytes) -> Any:
        """A result, copied out of its slot, which may then be released."""
        if slot is None:
            return pickle.loads(packed)
        rest, arrays = pickle.loads(packed)
        with self._slot(slot) as memory:
            return _Unpickler(io.BytesIO(rest), memory, arrays).load()

    @contextlib.contextmanager
    def _slot(self, slot: int) -> Iterator[memoryview]:
        with memoryview(self._memory) as memory, memory[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES] as own:
            yield own


def _received(descriptor: Any) -> SharedResults:
    results = SharedResults.__new__(SharedResults)
    results._free = []
    results._open(descriptor.detach())
    return results


class _Pickler(pickle.Pickler):
    """Writes large bytes and the memory of arrays to a slot.

    Attributes:
        arrays: (start, end) of each array's memory.
    """

    def __init__(self, rest: io.BytesIO, slot: memoryview) -> None:
        super().__init__(rest, protocol=5, buffer_callback=self._put_array)
        self.arrays: list[tuple[int, int]] = []
        self._slot, self._end = slot, 0

    def persistent_id(self, value: Any) -> tuple[int, int] | None:
        return self._put(value) if type(value) is bytes and len(value) >= _LARGE_BYTES else None

    def _put_array(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether it stays with the rest."""
        with buffer.raw() as content:
            span = self._put(content) if len(content) >= _LARGE_BYTES else None
        if span is not None:
            self.arrays.append(span)
        return span is None

    def _put(self, content: bytes | memoryview) -> tuple[int, int] | None:
        start, end = self._end, self._end + len(content)
        if end > len(self._slot):
            return None
        self._slot[start:end] = content
        self._end = end
        return start, end


class _Unpickler(pickle.Unpickler):
    """Reads what :class:`_Pickler` wrote."""

    def __init__(self, rest: io.BytesIO, slot: memoryview, arrays: Iterable[tuple[int, int]]) -> None:
        super().__init__(rest, buffers=(bytearray(slot[start:end]) for start, end in arrays))
        self._slot = slot

    def persistent_load(self, span: Any) -> bytes:
        start, end = span
        return bytes(self._slot[start:end])
