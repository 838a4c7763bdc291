"""The C library's heap: freed memory that it keeps adds up over processes, and over the phases of a stage."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h


def return_large_blocks() -> None:
    """Let glibc return large blocks to the system as they are freed, here and in processes that begin from now on."""
    with contextlib.suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def return_freed_memory() -> None:
    """Return what has been freed to the system: once, after a phase whose threads have ended."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
