"""Maps as files: PNGs of labels and of values, and the tar archives that hold a split's."""

from __future__ import annotations

import json
import os
import struct
import tarfile
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.documents import parse_json
from landseg.contracts.errors import ConfigError, ContractError
from landseg.ensemble.averaging import Labels
from landseg.probabilities.codec import Probs

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LISTED = "maps.json"
"""In a folder of maps: the paths of those that averaging wrote."""

_GREY, _PALETTE = 0, 3
_FILTER_UP = 2
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)


def encode_png(stored: Labels, schema: ClassSchema, nodata: int | None = None) -> bytes:
    """Write a label map as the dataset's own labels are written: class id plus `label_offset`, with the palette.

    Label maps are runs of equal values: stored as differences from the row above, with zlib's run-length strategy, they
    are smaller than what Pillow writes and take a tenth of the time.

    Args:
        stored: (H, W) uint8, such values.
        schema: what they mean.
        nodata: the value of pixels without data, which are transparent; None where all have data.
    """
    colours = [(0, 0, 0)] * schema.label_offset + list(schema.palette)
    alpha = b""
    if nodata is not None:
        colours += [(0, 0, 0)] * (nodata + 1 - len(colours))
        alpha = _png_chunk(b"tRNS", b"\xff" * nodata + b"\0")
    palette = _png_chunk(b"PLTE", bytes(channel for colour in colours for channel in colour)) + alpha
    return _png(stored, _PALETTE, palette, zlib.compressobj(strategy=zlib.Z_RLE))


def encode_grey(values: Probs) -> bytes:
    """Write a map of values from 0 to 1 as 8-bit grey: 255 times the value, rounded."""
    return _png(np.rint(values * np.float32(255)).astype(np.uint8), _GREY, b"", zlib.compressobj(3))


def _png(values: NDArray[np.uint8], colour_type: int, palette: bytes, deflate: zlib._Compress) -> bytes:
    height, width = values.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = values[0]
    np.subtract(values[1:], values[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    data = deflate.compress(rows.data) + deflate.flush()
    chunks = [_png_chunk(b"IHDR", header), palette, _png_chunk(b"IDAT", data), _png_chunk(b"IEND", b"")]
    return _PNG_SIGNATURE + b"".join(chunks)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tar_member(name: str, content: bytes) -> bytes:
    """A file in a tar archive: header, content, padding. Its bytes depend on nothing else."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.PAX_FORMAT) + content + padding


def write_tar(path: Path, members: Iterable[bytes]) -> None:
    """Write an archive of :func:`tar_member` blocks."""
    with path.open("wb") as file:
        for member in members:
            file.write(member)
        file.write(_TAR_END)


def list_maps(folder: Path, paths: Iterable[str]) -> None:
    """Note which maps a folder is about to hold, so that :func:`remove_maps` knows them from files of others."""
    (folder / LISTED).write_text(json.dumps(sorted(paths), indent=0))


def check_unclaimed(folder: Path, paths: Iterable[str]) -> None:
    """Refuse to write maps over files of others: labels that somebody drew have the names of their images, too.

    Args:
        folder: where the maps go.
        paths: of the maps in it.

    Raises:
        ConfigError: there is a file where a map goes; those of an earlier averaging are to be removed before.
    """
    if others := sorted({path for path in paths if os.path.lexists(folder / path)}):  # a link may lead nowhere as yet
        problem = f"expected nothing where a map goes, found a file that landseg did not write, one of {len(others)}"
        raise ConfigError(folder / others[0], problem, "give another folder, or move it")


def remove_maps(folder: Path) -> None:
    """Remove the maps of an earlier averaging from a folder; files of others stay.

    Raises:
        ContractError: the list of maps is damaged.
    """
    listed = folder / LISTED
    if not listed.is_file():
        return
    paths = parse_json(listed.read_bytes(), listed)
    if not isinstance(paths, list):
        raise ContractError(listed, "expected a list of paths, found something else", "remove it, and the old maps")
    for path in paths:
        inner = PurePosixPath(str(path))
        is_inside = (folder / inner).parent.resolve().is_relative_to(folder.resolve())  # no link leads elsewhere
        if inner.suffix not in {".png", ".tif", ".xml", ".vrt", ".gpkg"} or ".." in inner.parts or not is_inside:
            raise ContractError(listed, f"expected paths of maps, found {path!r}", "remove it, and the old maps")
        (folder / inner).unlink(missing_ok=True)
    listed.unlink()


def extract_maps(
    archive: BinaryIO, where: object, names: Collection[str], folder: Path, skip: Collection[str] = ()
) -> set[str]:
    """Copy maps out of an archive that landseg wrote.

    Args:
        archive: the open archive.
        where: the archive, for the error line.
        names: the files it may hold, each once; nothing else is written.
        folder: where they go.
        skip: tiles whose maps are not wanted.

    Returns:
        The files that it holds.

    Raises:
        ContractError: it holds another file, or one twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: set[str] = set()
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        for info in tar:
            content = tar.extractfile(info)
            if info.name not in names or info.name in found or content is None:
                problem = f"expected one map of each tile, found {info.name!r} that is none, or not the first"
                raise ContractError(where, problem, "run the stage again")
            found.add(info.name)
            if PurePosixPath(info.name).stem not in skip:
                (folder / info.name).write_bytes(content.read())
    return found
