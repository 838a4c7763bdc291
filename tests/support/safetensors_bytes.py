"""Files of safetensors, written by the letter of its format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8"}


def safetensors_bytes(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """A file of arrays by name, with metadata as the hub's files have it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in tensors.items():
        data = array.tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": _NAMES[str(array.dtype)], "shape": [*array.shape], "data_offsets": offsets}
        body += data
    return with_header(json.dumps(header).encode(), body)


def with_header(header: bytes, body: bytes) -> bytes:
    """A file of this header and these bytes; the header is padded to a multiple of eight bytes."""
    padded = header + b" " * (-len(header) % 8)
    return len(padded).to_bytes(8, "little") + padded + body
