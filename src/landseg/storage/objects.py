"""What is known of an object without reading it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectInfo:
    """An object in storage: its URI and size."""

    uri: str
    size_bytes: int
