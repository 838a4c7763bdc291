"""What a checkpoint's pickle describes: tensors, plain values, and what is made of neither."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SCALARS: dict[str, str] = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i"}
"""numpy's scalars that stock training hooks store (scores, iterations), by dtype, as `struct` reads them."""
_PLAIN = (str, int, float, bool, type(None))


class RefusedFileError(ValueError):
    """Why a file is not read as a checkpoint, in words of landseg's own; of the file, at most a name is quoted."""


@dataclass(frozen=True)
class Skipped:
    """An object that was not made because it is no plain value.

    Attributes:
        kind: the class or function that the pickle names.
    """

    kind: str


@dataclass(frozen=True)
class StorageRef:
    """The bytes of one or more tensors.

    Attributes:
        key: names them in the file.
        kind: torch's name for the type, e.g. `FloatStorage`.
        size: number of elements.
    """

    key: str
    kind: str
    size: int


@dataclass(frozen=True)
class TensorRef:
    """A tensor, described: elements of a storage, in units of elements."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Global:
    """What a pickle names, a class or a function; it is never looked up."""

    name: str


@dataclass(frozen=True)
class DType:
    """The dtype of a numpy scalar, by its code."""

    code: str


def is_key(key: Any) -> bool:
    """Whether it may be the key of a dictionary: nothing else is hashed."""
    return isinstance(key, _PLAIN) or (isinstance(key, tuple) and all(isinstance(part, _PLAIN) for part in key))


def name_of(value: Any) -> str:
    """What the pickle called it."""
    return value.name if isinstance(value, Global) else value.kind if isinstance(value, Skipped) else "an object"


def make(function: Any, args: Any) -> Any:
    """What a call would make, for the few that describe tensors and plain values."""
    name = name_of(function)
    call = _CALLS.get(name)
    if call is None or not isinstance(args, tuple):
        return Skipped(name)
    made = call(args)
    return Skipped(name) if made is NotImplemented else made


def _tensor(args: tuple[Any, ...]) -> Any:
    storage, offset, size, stride = args[:4]
    numbers = (offset, *size, *stride)
    if not isinstance(storage, StorageRef) or any(type(number) is not int or number < 0 for number in numbers):
        return NotImplemented
    if len(size) != len(stride) or len(size) > 64:
        raise RefusedFileError("it describes a tensor whose shape and strides do not match")
    return TensorRef(storage, offset, tuple(size), tuple(stride))


def _scalar(args: tuple[Any, ...]) -> Any:
    dtype, data = args if len(args) == 2 else (None, None)
    if not isinstance(dtype, DType) or not isinstance(data, bytes) or dtype.code not in _SCALARS:
        return NotImplemented
    if len(data) != struct.calcsize(_SCALARS[dtype.code]):
        return NotImplemented
    return struct.unpack(_SCALARS[dtype.code], data)[0]


def _ordered(args: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = args[0] if args else []
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and is_key(pair[0])}


def _encoded(args: tuple[Any, ...]) -> Any:
    return args[0].encode("latin1") if isinstance(args[0], str) and args[1:] == ("latin1",) else NotImplemented


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda args: args[0],
    "torch.Size": lambda args: args[0],
    "numpy.dtype": lambda args: DType(args[0]) if args[0] in _SCALARS else NotImplemented,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encoded,
}
