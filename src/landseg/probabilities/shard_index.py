"""The index of a split's shards: which tile lies in which object. Written in parts, and read a part at a time.

Two million tiles of 512 px make 71,000 shards a model. The manifest lists the parts of their index, about a
hundred; whoever reads a range of shards reads the parts that hold it.
"""

from __future__ import annotations

import functools
import json
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import accumulate

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.documents import validate
from landseg.contracts.errors import ContractError
from landseg.contracts.probabilities import IndexPart, ProbsManifest, ProbsShard, ProbsSplit, StoredTile, tiles_digest

_PART_TILES = 16_384
"""A part ends with the shard that brings it to this many tiles: a megabyte or less, unless ids are long."""
_PARTS_HELD = 4
_SHARDS_HELD = 32


def write_index(folder: str, split: Split, shards: Iterable[ProbsShard]) -> ProbsSplit:
    """Write the index of a split.

    Args:
        folder: URI of the probabilities' folder.
        split: its name.
        shards: in order; read once.
    """
    parts: list[IndexPart] = []
    size_bytes, largest = 0, (1, 1)

    def tiles() -> Iterator[StoredTile]:
        nonlocal size_bytes, largest
        waiting: list[ProbsShard] = []
        for shard in shards:
            waiting.append(shard)
            size_bytes += sum(blob.size_bytes for blob in (shard, *shard.views))
            largest = max(largest, shard.canvas, key=lambda canvas: canvas[0] * canvas[1])
            yield from shard.tiles
            if sum(len(one.tiles) for one in waiting) >= _PART_TILES:
                parts.append(_write_part(folder, split, len(parts), waiting))
                waiting = []
        if waiting:
            parts.append(_write_part(folder, split, len(parts), waiting))

    digest = tiles_digest(tiles())
    return ProbsSplit(size_bytes=size_bytes, largest=largest, tiles_sha256=digest, index=tuple(parts))


def _write_part(folder: str, split: Split, number: int, shards: list[ProbsShard]) -> IndexPart:
    rows = (json.dumps(shard.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False) for shard in shards)
    data = "".join(f"{row}\n" for row in rows).encode()
    blob = storage.put_once(folder, f"index/{split}-{number:06d}.jsonl", data)
    num_tiles = sum(len(shard.tiles) for shard in shards)
    return IndexPart(**blob.model_dump(), num_shards=len(shards), num_tiles=num_tiles)


class ShardIndex:
    """The shards of a split, by number; several threads may read at once. Memory holds a few parts, not all of them.

    Args:
        manifest: the probabilities' manifest, of any version.
        split: the split.
        folder: URI of the probabilities' folder.

    Raises:
        DamagedObjectError: a part is not what was written, when it is read.
        ContractError: its rows do not fit the manifest, when they are read.
    """

    def __init__(self, manifest: ProbsManifest, split: Split, folder: str) -> None:
        self._manifest, self._split, self._folder = manifest, split, folder
        found = manifest.splits[split]
        self._shards = () if isinstance(found, ProbsSplit) else found
        self._parts = found.index if isinstance(found, ProbsSplit) else ()
        self._ends = list(accumulate(part.num_shards for part in self._parts))
        self._read_parts: OrderedDict[int, _Part] = OrderedDict()
        self._lock = threading.Lock()
        self._parsed = functools.lru_cache(_SHARDS_HELD)(self._parse)

    def __len__(self) -> int:
        return len(self._shards) or self._ends[-1]

    def __getitem__(self, number: int) -> ProbsShard:
        return self._shards[number] if self._shards else self._parsed(number)

    def __iter__(self) -> Iterator[ProbsShard]:
        return map(self._shards.__getitem__ if self._shards else self._parse, range(len(self)))

    @functools.cached_property
    def tiles_sha256(self) -> str:
        """See :func:`~landseg.contracts.probabilities.tiles_digest`."""
        found = self._manifest.splits[self._split]
        return found.tiles_sha256 if isinstance(found, ProbsSplit) else tiles_digest(self.tiles())

    def tiles(self) -> Iterator[StoredTile]:
        """All tiles, in stored order."""
        for shard in self:
            yield from shard.tiles

    def place(self, tile_id: str) -> tuple[int, int] | None:
        """The number of the shard that holds a tile, and the tile's position in it; None where there is none."""
        for first_ids, numbers in self._arrays.values():
            place = bisect_right(first_ids, tile_id) - 1
            if place >= 0:
                for position, tile in enumerate(self[numbers[place]].tiles):
                    if tile.id == tile_id:
                        return numbers[place], position
        return None

    @functools.cached_property
    def _arrays(self) -> dict[str, tuple[list[str], list[int]]]:
        """Of each array, in which tiles are sorted by id: the first id of every shard, and the shards' numbers."""
        found: dict[str, tuple[list[str], list[int]]] = {}
        for number, shard in enumerate(self):
            array, _, _ = shard.path.partition("/c/")
            first_ids, numbers = found.setdefault(array, ([], []))
            first_ids.append(shard.tiles[0].id)
            numbers.append(number)
        return found

    def _parse(self, number: int) -> ProbsShard:
        part = bisect_right(self._ends, number)
        read, where = self._read(part), storage.join(self._folder, self._parts[part].path)
        shard = validate(ProbsShard, read.row(number - self._ends[part] + len(read)), where)
        if len(shard.views) != len(self._manifest.spec.views):
            raise ContractError(where, f"a shard of split {self._split} has other views than the manifest's")
        return shard

    def _read(self, number: int) -> _Part:
        with self._lock:  # held while it is read: other threads mostly want the same part
            if number not in self._read_parts:
                part = self._parts[number]
                where = storage.join(self._folder, part.path)
                read = _Part(storage.get_bytes(where, sha256=part.sha256))
                if len(read) != part.num_shards:
                    raise ContractError(where, f"expected {part.num_shards} shards, found {len(read)}")
                self._read_parts[number] = read
                if len(self._read_parts) > _PARTS_HELD:
                    self._read_parts.popitem(last=False)
            self._read_parts.move_to_end(number)
            return self._read_parts[number]


class _Part:
    """A part's rows, in one block of memory: thousands of small ones, freed part by part, would leave holes.

    Args:
        data: the rows, each of which ends with a newline; the last one need not.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._starts = array("q", [0])
        while (end := data.find(b"\n", self._starts[-1])) >= 0:
            self._starts.append(end + 1)
        if self._starts[-1] < len(data):
            self._starts.append(len(data))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def row(self, position: int) -> bytes:
        """A row."""
        return self._data[self._starts[position] : self._starts[position + 1]]
