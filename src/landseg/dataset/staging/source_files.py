"""What is known of a source's files: the checksums of those that have not changed since they were read last.

Beside the pointer to the dataset that was staged last lies a list of the source's tiles: by split and id, what tells a
file's versions apart without reading it, and the checksums of its bytes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from landseg import storage
from landseg.contracts.documents import Sha256
from landseg.contracts.errors import DamagedObjectError, ObjectNotFoundError
from landseg.dataset.staging.checksums import Checksums, SplitChecksums
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.source_file import files_of

_FORMAT = 2
"""Raise it where the same files have other checksums (:func:`landseg.raw.tile_files.identify_tile`)."""


def read_known(
    uri: str,
    sha256: Sha256,
    tiles: Mapping[str, Sequence[SourceTile]],
    found: Mapping[str, SplitChecksums],
    shared_label: Sha256 | None,
    scratch: Path,
) -> None:
    """Find the checksums of tiles whose files have not changed since the list was written.

    Args:
        uri: the list.
        sha256: its checksum; another list, or none, tells nothing.
        tiles: the source's tiles, by split, sorted by id.
        found: takes the checksums, by split.
        shared_label: checksum of the labels of all images, where they are one file.
        scratch: local folder.
    """
    path = scratch / "files.jsonl"
    try:
        storage.get_file(uri, path, sha256=sha256)
    except (ObjectNotFoundError, DamagedObjectError):
        return
    with path.open("rb") as file:
        rows = map(json.loads, file)
        row: list[Any] | None = next(rows, None)
        for split in sorted(tiles):
            for tile in tiles[split]:
                while row is not None and (row[0], row[1]) < (split, tile.id):
                    row = next(rows, None)
                if row is not None and row[:3] == [split, tile.id, versions(tile)]:
                    label = shared_label if tile.shares_label else row[4]
                    found[split].put(tile.id, (row[3], label), is_as_listed=label == row[4])
    path.unlink()


def write_list(
    uri: str,
    tiles: Mapping[str, Sequence[SourceTile]],
    checksums: Mapping[str, Iterable[tuple[str, Checksums]]],
    scratch: Path,
) -> Sha256:
    """Write the list of a source's tiles; those whose files have no known version, or no checksum, are left out.

    Args:
        uri: the list.
        tiles: the source's tiles, by split, sorted by id.
        checksums: by split, of tiles sorted by id; ids that are no tile of the source are passed over.
        scratch: local folder.

    Returns:
        The list's checksum.
    """
    path = scratch / "files.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for split in sorted(tiles):
            for tile, (image, label) in _joined(tiles[split], checksums.get(split, ())):
                if image and (known := versions(tile)):
                    file.write(json.dumps([split, tile.id, known, image, label], separators=(",", ":")) + "\n")
    storage.put_file(uri, path)
    sha256 = storage.file_sha256(path)
    path.unlink()
    return sha256


def _joined(
    tiles: Iterable[SourceTile], checksums: Iterable[tuple[str, Checksums]]
) -> Iterator[tuple[SourceTile, Checksums]]:
    """Tiles with their checksums; both are sorted by id."""
    rows = iter(checksums)
    row = next(rows, None)
    for tile in tiles:
        while row is not None and row[0] < tile.id:
            row = next(rows, None)
        if row is not None and row[0] == tile.id:
            yield tile, row[1]


def versions(tile: SourceTile) -> list[str]:
    """What tells the versions of a tile's files apart; empty where that is not known of all of them.

    A virtual image consists of files that only it refers to, so nothing is known of it without reading it. The labels
    of all images are read by each staging, and their checksum is known.
    """
    if tile.image.path.lower().endswith(".vrt"):
        return []
    own = (tile.image, tile.label) if tile.label and not tile.shares_label else (tile.image,)
    files = (*itertools.chain.from_iterable(map(files_of, own)), *tile.sidecars, *tile.label_sidecars)
    found = [f"{_FORMAT} {file.path} {file.size_bytes} {file.version:x}" for file in files]
    return found if all(file.version for file in files) else []
