"""Files that `torch.save` wrote, read without running anything in them and without taking more than their own size.

Checkpoints come from anywhere. `torch.load` bounds neither memory nor time, with `weights_only` either: a deflated
tensor of a megabyte may be a gigabyte. Here the pickle is read as data (:mod:`landseg.models.weights.torch_pickle`),
members of the archive must be stored as torch stores them, and a tensor has no more elements than its bytes in the
file.
"""

from __future__ import annotations

import io
import math
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from landseg.contracts.documents import short_repr
from landseg.contracts.errors import ContractError
from landseg.models.weights.archive import MAX_PICKLE_BYTES, START, open_archive
from landseg.models.weights.pickle_values import RefusedFileError, Skipped, StorageRef, TensorRef
from landseg.models.weights.torch_pickle import read_pickle

MAX_FILE_BYTES = 16 << 30
_BLOCK = 1 << 24
MAX_DEPTH = 32
"""Of containers in containers."""

_MAGIC = 0x1950A86A20F9469CFC6C
"""torch's, the first of the pickles in files that were written before it used zip archives (1.6)."""
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

_OTHERS = {
    rb"$": "an empty file",
    rb"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with git lfs pull",
    rb"\s*<(!|html|HTML|\?xml)": "a web page: the address leads to one instead of the file",
    rb"\x89HDF": "HDF5, as Keras writes it",
}
"""Files of other kinds that people give, by how they begin."""

Tensors = Callable[[TensorRef], torch.Tensor]


class TorchFile:
    """An open file that `torch.save` wrote.

    Attributes:
        content: what was saved: dictionaries, lists and plain values, with
            :class:`~landseg.models.weights.pickle_values.TensorRef` for tensors (see :meth:`tensors`) and
            :class:`~landseg.models.weights.pickle_values.Skipped` for objects of other kinds.

    Args:
        path: a regular file.
        name: what messages call it: a URI where `path` is a copy.

    Raises:
        ContractError: it is not such a file, or is larger than it may be.
    """

    def __init__(self, path: Path, name: object = None) -> None:
        self.name = path if name is None else name
        self._storages: dict[str, torch.Tensor] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._archive: zipfile.ZipFile | None = None
        try:
            info = path.stat()
        except OSError as err:
            raise ContractError(
                self.name, f"expected a checkpoint, found none that can be read: {err.strerror}"
            ) from err
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_FILE_BYTES:
            found = f"one of {info.st_size >> 30} GiB" if stat.S_ISREG(info.st_mode) else "something else"
            raise ContractError(
                self.name, f"expected a checkpoint, a regular file of at most {MAX_FILE_BYTES >> 30} GiB, found {found}"
            )
        self._size = info.st_size
        self._file = path.open("rb")
        try:
            self.content: Any = self._open()
        except Exception as err:
            self.close()
            raise self._refused(err) from err

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; tensors that were read stay."""
        self._file.close()

    def tensors(self, node: Any) -> Any:
        """A part of the content with its tensors read; tensors that share their storage still do.

        Raises:
            ContractError: the file is damaged, or the part is nested too deeply.
        """
        try:
            return self._filled(node, {}, 0)
        except Exception as err:
            raise self._refused(err) from err

    def _refused(self, err: Exception) -> ContractError:
        # Of our own reasons alone: those of libraries quote the file's bytes.
        reason = str(err) if isinstance(err, RefusedFileError) else ""
        return ContractError(
            self.name,
            "expected a checkpoint of tensors and plain values, as torch.save writes it, found something else: "
            + (reason or "the file is damaged or of another kind"),
        )

    def _open(self) -> Any:
        head = self._file.read(64)
        self._file.seek(0)
        if head.startswith(START):
            return self._open_archive()
        if found := next((found for pattern, found in _OTHERS.items() if re.match(pattern, head, re.DOTALL)), ""):
            raise RefusedFileError(found)
        return self._open_legacy()

    def _open_archive(self) -> Any:
        self._archive, self._folder = archive, folder = open_archive(self._file, self._size)
        order = f"{folder}byteorder"
        names = archive.namelist()
        if order in names and archive.getinfo(order).file_size < 16 and archive.read(order).strip() != b"little":
            raise RefusedFileError("tensors of another byte order")
        return read_pickle(io.BytesIO(archive.read(f"{folder}data.pkl")))

    def _open_legacy(self) -> Any:
        """The format before zip archives: five pickles, then each storage as its size and its bytes."""
        head = io.BytesIO(self._file.read(MAX_PICKLE_BYTES))
        if read_pickle(head) != _MAGIC:
            raise RefusedFileError("a pickle that torch did not write")
        read_pickle(head)  # the format's version
        system = read_pickle(head)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise RefusedFileError("tensors of another byte order")
        content = read_pickle(head)
        keys = read_pickle(head)
        sizes = _storages(content)
        place = head.tell()
        for key in keys:
            storage = sizes[key]
            self._file.seek(place)
            if int.from_bytes(self._file.read(8), "little") != storage.size:
                raise RefusedFileError("the sizes of its tensors contradict each other")
            num_bytes = storage.size * _dtype(storage).itemsize
            self._places[key] = (place + 8, num_bytes)
            place += 8 + num_bytes
        if place > self._size:
            raise RefusedFileError("it breaks off")
        return content

    def _filled(self, node: Any, done: dict[int, Any], depth: int) -> Any:
        if isinstance(node, TensorRef):
            return self._tensor(node)
        if not isinstance(node, dict | list | tuple):
            return node
        if depth == MAX_DEPTH:
            raise RefusedFileError(f"values nested more than {MAX_DEPTH} deep")
        if id(node) not in done:  # a part that occurs many times is filled once
            if isinstance(node, dict):
                filled: Any = {key: self._filled(value, done, depth + 1) for key, value in node.items()}
            else:
                filled = type(node)(self._filled(item, done, depth + 1) for item in node)
            done[id(node)] = filled
        return done[id(node)]

    def _tensor(self, ref: TensorRef) -> torch.Tensor:
        count = math.prod(ref.size)
        last = ref.offset + sum((size - 1) * stride for size, stride in zip(ref.size, ref.stride, strict=True))
        if count and (count > ref.storage.size or last >= ref.storage.size):
            raise RefusedFileError("a tensor that is larger than its bytes")
        if not count:
            return torch.empty(ref.size, dtype=_dtype(ref.storage))
        return self._storage(ref.storage).as_strided(ref.size, ref.stride, ref.offset)

    def _storage(self, ref: StorageRef) -> torch.Tensor:
        if ref.key not in self._storages:
            num_bytes = ref.size * _dtype(ref).itemsize
            data = bytearray(min(num_bytes, self._size + 1))
            with self._bytes(ref.key, num_bytes) as reader:
                filled, view = 0, memoryview(data)
                while count := reader.readinto(view[filled : filled + _BLOCK]):  # type: ignore[attr-defined]
                    filled += count
                if filled != num_bytes:
                    raise RefusedFileError("a tensor that breaks off")
            self._storages[ref.key] = torch.frombuffer(data, dtype=_dtype(ref))
        found = self._storages[ref.key]
        if found.dtype != _dtype(ref) or len(found) != ref.size:
            raise RefusedFileError("the sizes of its tensors contradict each other")
        return found

    def _bytes(self, key: str, num_bytes: int) -> IO[bytes]:
        if self._archive is not None:
            member = self._archive.getinfo(f"{self._folder}data/{key}")
            if member.file_size != num_bytes:
                raise RefusedFileError("the sizes of its tensors contradict each other")
            return self._archive.open(member)
        place, there = self._places[key]
        if there != num_bytes:
            raise RefusedFileError("the sizes of its tensors contradict each other")
        reader = open(self._file.fileno(), "rb", closefd=False)  # noqa: SIM115 - the caller closes it
        reader.seek(place)
        return reader


def _dtype(storage: StorageRef) -> torch.dtype:
    if storage.kind not in _DTYPES:
        raise RefusedFileError(f"a tensor of the type {short_repr(storage.kind)}")
    return _DTYPES[storage.kind]


def _storages(content: Any) -> dict[str, StorageRef]:
    """Every storage that a content refers to, by key."""
    found: dict[str, StorageRef] = {}
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, TensorRef):
            found.setdefault(node.storage.key, node.storage)
        elif isinstance(node, dict | list | tuple) and id(node) not in seen:
            seen.add(id(node))
            waiting.extend(node.values() if isinstance(node, dict) else node)
    return found


def kind_of(value: Any) -> str:
    """What a part of a file's content is, for messages."""
    return value.kind if isinstance(value, Skipped) else type(value).__name__
