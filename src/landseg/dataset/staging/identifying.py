"""The checksums of a source's files, where there is an earlier dataset whose tiles may be the same.

Several workers each read a share of the files and record the checksums, in batches of neighbouring tiles, beside the
records of ranges. Whoever is done with its share goes on with what the others have yet to record, from the end of
their shares, so nobody waits, and a worker that never comes keeps nobody.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.documents import Model
from landseg.dataset.places import shards_folder
from landseg.dataset.staging.checksums import Checksums, SplitChecksums
from landseg.dataset.staging.source_files import versions
from landseg.raw.labels.shared import SharedLabels
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.source import Source
from landseg.raw.tile_files import READS_AT_ONCE, identify_tile
from landseg.storage.records import read_record, write_record

_FORMAT = 1
"""Raise it where records of checksums mean something else."""
_BATCH_TILES = 64


class _Identified(Model):
    """The record of a batch: image and label of each tile."""

    checksums: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class _Batch:
    """Neighbouring tiles of a split, by their positions."""

    split: str
    positions: Sequence[int]


class Identifying:
    """Finds the checksums of all files that are not known yet.

    Args:
        source: where the files are.
        tiles: by split, sorted by id.
        found: takes the checksums, by split; files whose checksums it holds are not read.
        storage_uri: the folder or `s3://` prefix that datasets are published under.
        shared_labels: the labels of all images, if they are one file.
    """

    def __init__(
        self,
        source: Source,
        tiles: Mapping[str, Sequence[SourceTile]],
        found: Mapping[str, SplitChecksums],
        storage_uri: str,
        shared_labels: SharedLabels | None,
    ) -> None:
        self._source, self._tiles, self._found, self._shared_labels = source, tiles, found, shared_labels
        self._folder = shards_folder(storage_uri)
        self._batches = list(self._divided())
        self._records: list[str] = []

    def run(self, share: int, num_shares: int, num_threads: int) -> None:
        """Find them: in the records of other workers, or by reading.

        Args:
            share: whose batches are read first, counted from 1. They are recorded where there are several shares.
            num_shares: number of shares.
            num_threads: threads for a local source. Threads will do: reading and hashing release the interpreter's
                lock.
        """
        total, left = sum(map(len, self._tiles.values())), sum(len(batch.positions) for batch in self._batches)

        def identify(batch: _Batch) -> tuple[_Batch, str | None, Sequence[Checksums]]:
            tiles = [self._tiles[batch.split][position] for position in batch.positions]
            record = self._record(tiles)
            recorded = record and read_record(_Identified, record)
            if recorded and len(recorded.checksums) == len(tiles):
                return batch, record, recorded.checksums
            found = [self._identify(tile) for tile in tiles]
            if num_shares == 1 or not all(image for image, _ in found):  # what cannot be read, another worker may read
                return batch, None, found
            if record:
                write_record(record, _Identified(checksums=tuple(found)))
            return batch, record, found

        threads = READS_AT_ONCE if self._source.is_remote else num_threads
        with Progress("reading", total, "tiles", done=total - left) as progress:
            in_turn = _in_turn(self._batches, share, num_shares)
            for batch, record, checksums in storage.parallel(identify, in_turn, workers=threads):
                self._records += [record] if record else []
                for position, of_tile in zip(batch.positions, checksums, strict=True):
                    self._found[batch.split].put(self._tiles[batch.split][position].id, of_tile)
                progress.advance(len(checksums))

    def forget(self) -> None:
        """Remove the records, once the list of the source's files tells what they did."""
        storage.delete_many(self._records)

    def _divided(self) -> Iterator[_Batch]:
        for split, tiles in self._tiles.items():
            known = self._found[split]
            if len(known) == len(tiles):
                continue
            left = array("I", (number for number, tile in enumerate(tiles) if tile.id not in known))
            for start in range(0, len(left), _BATCH_TILES):
                yield _Batch(split, left[start : start + _BATCH_TILES])

    def _identify(self, tile: SourceTile) -> Checksums:
        found = identify_tile(self._source, tile)
        return (found[0], self._shared_labels.sha256) if tile.shares_label and self._shared_labels else found

    def _record(self, tiles: Iterable[SourceTile]) -> str | None:
        """Where the checksums of tiles are recorded; None where their files' versions are not known."""
        shared = self._shared_labels and self._shared_labels.sha256
        key = hashlib.sha256(json.dumps([_FORMAT, self._source.uri, shared]).encode())
        for tile in tiles:
            if not (known := versions(tile)):
                return None
            key.update(json.dumps([tile.split, tile.id, known], separators=(",", ":")).encode())
        return storage.join(self._folder, f"{key.hexdigest()}.json")


def _in_turn(batches: Sequence[_Batch], share: int, num_shares: int) -> Iterator[_Batch]:
    """A share's own batches; then those of the shares after it, the last batches of each first."""
    cuts = [number * len(batches) // num_shares for number in range(num_shares + 1)]
    yield from batches[cuts[share - 1] : cuts[share]]
    for other in (*range(share, num_shares), *range(share - 1)):
        yield from reversed(batches[cuts[other] : cuts[other + 1]])
