"""Records that are mostly numbers: arrays in a NumPy `.npz` file that carries its own checksum.

The comment of the ZIP archive, its last 64 bytes, is the SHA-256 of all bytes before it; `numpy.load` reads such a file
as any other. What is read is bounded before it is unpacked: nothing in it is pickled, and a header that promises more
than the file holds is refused.
"""

from __future__ import annotations

import io
import logging
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.documents import MAX_DOCUMENT_BYTES, sha256_hex
from landseg.contracts.errors import ContractError, ObjectNotFoundError
from landseg.storage.reading import get_bytes
from landseg.storage.writing import put_bytes

_DIGEST_BYTES = 64
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([|<][a-z]\d)', 'fortran_order': False, "
    rb"'shape': \(((?:\d{1,9}, ?)*(?:\d{1,9})?)\), \} *\n",
    re.DOTALL,
)
"""Of an array as NumPy writes it. NumPy reads it with Python's own parser, which in Python 3.11 fails in threads."""

_log = logging.getLogger(__name__)


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A record as bytes, for :func:`unpack_arrays`."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = bytes(_DIGEST_BYTES)
    content = file.getvalue()[:-_DIGEST_BYTES]
    return content + sha256_hex(content).encode()


def write_arrays(uri: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Write a record, over an earlier one; returns its bytes."""
    data = pack_arrays(arrays)
    put_bytes(uri, data)
    return data


def read_whole(uri: str) -> bytes | None:
    """The bytes of a record, for :func:`unpack_arrays`; None if there is none, or its checksum is wrong."""
    try:
        data = get_bytes(uri)
    except ObjectNotFoundError:
        return None
    if sha256_hex(data[:-_DIGEST_BYTES]).encode() == data[-_DIGEST_BYTES:]:
        return data
    _log.warning("%s is damaged: what it is a record of is done again", uri)
    return None


def unpack_arrays(data: bytes, dtypes: Mapping[str, str], where: object) -> dict[str, NDArray[Any]]:
    """The arrays of a record.

    Args:
        data: the record.
        dtypes: the arrays that it has to hold, and no others, with the type of each, such as `<i8`.
        where: the record, for the error line.

    Raises:
        ContractError: it is larger than 64 MiB, no `.npz` file, or holds other arrays.
    """
    try:
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"{len(data)} bytes")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            if len(archive.infolist()) != len(infos) or infos.keys() != {f"{name}.npy" for name in dtypes}:
                raise ValueError(f"{len(archive.infolist())} arrays, {', '.join(sorted(infos))[:60]!r}")
            if (unpacked := sum(info.file_size for info in infos.values())) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"{unpacked} bytes unpacked")
            found = {}
            for name, dtype in dtypes.items():
                info = infos[f"{name}.npy"]
                with archive.open(info) as member:
                    found[name] = _array(member.read(info.file_size), np.dtype(dtype), name)
            return found
    except ValueError as err:
        found_instead = str(err)
    except (EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):  # some quote the file
        found_instead = "no whole ZIP archive"
    expected = f"expected a NumPy file of at most {MAX_DOCUMENT_BYTES} bytes with the arrays {', '.join(dtypes)}"
    raise ContractError(where, f"{expected}, found {found_instead}")


def _array(data: bytes, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    header = _HEADER.match(data)
    if header is None or header[2].decode() != dtype.str:
        raise ValueError(f"{name}: {data[:80]!r}")
    values = memoryview(data)[10 + int.from_bytes(header[1], "little") :]
    shape = tuple(int(side) for side in header[3].replace(b",", b" ").split())
    if math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"{name}: shape {str(shape)[:60]} in {len(values)} bytes")
    return np.frombuffer(values, dtype).reshape(shape)
