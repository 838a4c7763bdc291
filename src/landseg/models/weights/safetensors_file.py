"""Files of safetensors, as timm and the Hugging Face hub publish weights: a header of JSON, then the tensors' bytes.

https://github.com/huggingface/safetensors: eight bytes give the header's length; it lists each tensor's type, shape and
place. Nothing in such a file can be run. Read here, as other checkpoints are, without taking more than the file's size.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import IO, Any

import torch

from landseg.contracts.documents import short_repr
from landseg.contracts.errors import ContractError
from landseg.models.weights.pickle_values import RefusedFileError

MAX_HEADER_BYTES = 8 << 20
"""A tensor takes about a hundred bytes of it."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_METADATA = "__metadata__"
_DAMAGED = "a file that is damaged or breaks off"


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as one of safetensors."""
    try:
        if not path.is_file():  # opening a pipe would wait
            return False
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def read_safetensors(path: Path, name: object = None) -> dict[str, torch.Tensor]:
    """The tensors of a file, by name.

    Args:
        path: a local file.
        name: what messages call it: a URI where `path` is a copy.

    Raises:
        ContractError: it is damaged.
    """
    try:
        with path.open("rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, OSError) as err:
        is_odd = isinstance(err, RefusedFileError)
        raise ContractError(
            path if name is None else name,
            f"expected weights as safetensors writes them, found {err if is_odd else _DAMAGED}",
            "convert it to float32" if is_odd else "fetch it again",
        ) from err


def _read(file: IO[bytes], size: int) -> dict[str, torch.Tensor]:
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if length > MAX_HEADER_BYTES or start > size:
        raise ValueError("the header is longer than the file")
    header: dict[str, Any] = json.loads(file.read(length))
    header.pop(_METADATA, None)
    places = {name: _place(entry) for name, entry in header.items()}
    if sum(end - begin for _, _, begin, end in places.values()) > size - start:
        raise ValueError("the tensors are larger than the file")
    found = {}
    for name, (dtype, shape, begin, end) in places.items():
        data = bytearray(end - begin)
        file.seek(start + begin)
        if file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise ValueError("a tensor breaks off")
        found[name] = torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)
    return found


def _place(entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """A tensor's type, its shape, and where its bytes begin and end."""
    if entry["dtype"] not in _DTYPES:
        raise RefusedFileError(f"a tensor of the type {short_repr(entry['dtype'])}")
    dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if len(shape) > 64 or any(type(number) is not int or not 0 <= number < 1 << 40 for number in (*shape, begin, end)):
        raise ValueError("expected whole numbers")
    if math.prod(max(number, 1) for number in shape) >= 1 << 40:  # a side of 0 would hide how long the others are
        raise ValueError("the shape is larger than any tensor's")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError("the shape and the number of bytes do not match")
    return dtype, shape, begin, end
