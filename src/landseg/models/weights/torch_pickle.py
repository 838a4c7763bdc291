"""The pickle inside a checkpoint, read as data: no class is looked up, no function is called.

Pickle is a small stack language. Checkpoints use it for dictionaries, lists, plain values and descriptions of tensors;
this machine understands these alone. Whatever else a pickle names becomes a :class:`Skipped`, which says what it would
have been. What it costs is bounded by the number of operations, and nothing is hashed but plain keys.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any

from landseg.models.weights.pickle_values import (
    DType,
    Global,
    RefusedFileError,
    Skipped,
    StorageRef,
    is_key,
    make,
    name_of,
)

MAX_OPERATIONS = 4_000_000
"""Of one pickle; a weight takes about forty, with its optimizer's state three times as many."""
_MARK = object()


def read_pickle(stream: IO[bytes]) -> Any:
    """Read one pickle, up to its end.

    Returns:
        Dictionaries, lists, tuples and plain values, with :class:`TensorRef` for tensors and :class:`Skipped` for
        all that is neither. Lists and dictionaries may contain themselves.

    Raises:
        RefusedFileError: it is not a pickle, or has too many operations.
        Exception: of other kinds, where it is malformed.
    """
    machine = _Machine()
    for number, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        if number >= MAX_OPERATIONS:
            raise RefusedFileError(f"its pickle has more than {MAX_OPERATIONS} operations")
        if opcode.name == "STOP":
            return machine.pop()
        machine.step(opcode.name, arg)
    raise RefusedFileError("its pickle breaks off")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise RefusedFileError("its pickle is malformed")
        return value

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise RefusedFileError("its pickle is malformed")

    def step(self, name: str, arg: Any) -> None:
        if name in _VALUES:
            self.stack.append(arg)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in {"BINGET", "GET", "LONG_BINGET"}:
            self.stack.append(self.memo[int(arg)])
        elif name in {"BINPUT", "PUT", "LONG_BINPUT"}:
            self.memo[int(arg)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name not in {"PROTO", "FRAME"}:
            operation = getattr(self, f"op_{name.lower()}", None)
            if operation is None:
                raise RefusedFileError(f"its pickle has the operation {name}")
            operation(arg)

    def op_mark(self, arg: Any) -> None:
        self.stack.append(_MARK)

    def op_pop(self, arg: Any) -> None:
        self.stack.pop()

    def op_pop_mark(self, arg: Any) -> None:
        self.pop_to_mark()

    def op_dup(self, arg: Any) -> None:
        self.stack.append(self.stack[-1])

    def op_tuple(self, arg: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def op_tuple1(self, arg: Any) -> None:
        self._tuple(1)

    def op_tuple2(self, arg: Any) -> None:
        self._tuple(2)

    def op_tuple3(self, arg: Any) -> None:
        self._tuple(3)

    def _tuple(self, length: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(length)])))

    def op_list(self, arg: Any) -> None:
        self.stack.append(self.pop_to_mark())

    op_frozenset = op_list  # a list serves as well, and hashes nothing

    def op_dict(self, arg: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self._set(items)

    def op_append(self, arg: Any) -> None:
        self._extend([self.pop()])

    def op_appends(self, arg: Any) -> None:
        self._extend(self.pop_to_mark())

    op_additems = op_appends

    def op_setitem(self, arg: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def op_setitems(self, arg: Any) -> None:
        self._set(self.pop_to_mark())

    def op_global(self, arg: Any) -> None:
        self.stack.append(Global(str(arg).replace(" ", ".")))

    def op_stack_global(self, arg: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise RefusedFileError("its pickle is malformed")
        self.stack.append(Global(f"{module}.{name}"))

    def op_reduce(self, arg: Any) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(make(function, args))

    def op_newobj(self, arg: Any) -> None:
        self.op_reduce(arg)

    def op_newobj_ex(self, arg: Any) -> None:
        self.pop()
        self.op_reduce(arg)

    def op_inst(self, arg: Any) -> None:
        self.pop_to_mark()
        self.stack.append(Skipped(str(arg).replace(" ", ".")))

    def op_obj(self, arg: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append(Skipped(name_of(items[0])))

    def op_build(self, arg: Any) -> None:
        state = self.pop()
        # A dtype's state begins with a version and its byte order.
        if isinstance(self.stack[-1], DType) and not (isinstance(state, tuple) and state[1:2] in {("<",), ("=",)}):
            self.stack[-1] = Skipped("numpy.dtype")

    def op_binpersid(self, arg: Any) -> None:
        described = self.pop()
        tag, kind, key, _, size, *view = described
        if tag != "storage" or not isinstance(kind, Global) or any(part is not None for part in view):
            raise RefusedFileError("its pickle describes a tensor in a way that is not known")
        if not isinstance(key, str) or type(size) is not int or size < 0:
            raise RefusedFileError("its pickle describes a tensor in a way that is not known")
        self.stack.append(StorageRef(key, kind.name.rpartition(".")[2], size))

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Skipped):
            raise RefusedFileError("its pickle is malformed")

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            # Hashing nested tuples that share their parts takes exponential time: other keys are left out.
            target.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if is_key(key))
        elif not isinstance(target, Skipped):
            raise RefusedFileError("its pickle is malformed")


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
