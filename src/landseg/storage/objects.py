"""What is known of an object without reading it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ObjectInfo:
    """An object in storage: its URI, its size, and when it was last written (seconds since 1970)."""

    uri: str
    size_bytes: int
    modified_s: float = field(default=0.0, compare=False)
