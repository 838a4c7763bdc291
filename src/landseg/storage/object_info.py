"""What is known of an object without reading it."""

from __future__ import annotations

from dataclasses import dataclass, field

from landseg.contracts.errors import ContractError


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object in storage.

    Attributes:
        uri: where it is.
        size_bytes: its size.
        modified_s: when it was last written, seconds since 1970.
        etag: the ETag that S3 lists for it; empty for files.
    """

    uri: str
    size_bytes: int
    modified_s: float = field(default=0.0, compare=False)
    etag: str = field(default="", compare=False)


def check_size(uri: str, size_bytes: int, most: int | None) -> None:
    """Refuse an object before it is read.

    Raises:
        ContractError: it is larger than `most` bytes.
    """
    if most is not None and size_bytes > most:
        raise ContractError(uri, f"expected at most {most} bytes, found {size_bytes}")
