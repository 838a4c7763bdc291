"""What became of a range of tiles, and the records of it by which a killed staging resumes and workers join."""

from __future__ import annotations

import base64
import io
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.dataset import Shard
from landseg.contracts.documents import Model
from landseg.contracts.tile import GeoKeys, Tile
from landseg.dataset.places import shards_folder
from landseg.dataset.staging.checksums import Checksums
from landseg.dataset.staging.ranges.range_plan import TileRange
from landseg.dataset.staging.review.label_findings import LabelFacts
from landseg.raw.findings import Finding
from landseg.storage.records import read_record

_READ_AHEAD = 8
_TILES_AHEAD = 16_384
"""Of several records together: a row takes some 3 kB of memory, and a shard may hold 100,000 tiny tiles."""


class RangeResult(Model):
    """What became of a range of tiles.

    Attributes:
        shards: the shards that hold them.
        crs: the coordinate reference systems that the rows refer to by position.
        rows: the rows of the good ones. Shards are counted after those that the split keeps from an earlier dataset.
        scenes: checksums of the files of scenes that were cut, by id.
        findings: what there is to say about single tiles.
        labels: what their labels show only together with others.
        histogram, extremes: see :class:`landseg.dataset.statistics.SplitStatistics`; arrays as text (:func:`to_text`).
    """

    shards: tuple[Shard, ...]
    crs: tuple[GeoKeys, ...]
    rows: tuple[Tile, ...]
    scenes: dict[str, Checksums]
    findings: tuple[Finding, ...]
    labels: LabelFacts
    histogram: str | None
    extremes: str | None

    @property
    def has_errors(self) -> bool:
        """Whether a tile was bad."""
        return any(finding.severity == "error" for finding in self.findings)


class RangeRecords:
    """The results of finished ranges, each beside its shards.

    Args:
        storage_uri: the folder or `s3://` prefix that datasets are published under.
    """

    def __init__(self, storage_uri: str) -> None:
        self._folder = shards_folder(storage_uri)
        self._sizes: dict[str, int] = {}

    def look(self) -> None:
        """Find out what is there now."""
        self._sizes = storage.sizes_below(self._folder)

    def uri(self, key: str) -> str:
        """Where the record of a range lies."""
        return storage.join(self._folder, f"{key}.json")

    def has(self, one: TileRange) -> bool:
        """Whether there was a record of a range at the last look."""
        return one.key is not None and f"{one.key}.json" in self._sizes

    def read_all(self, ranges: Iterable[TileRange]) -> Iterator[RangeResult | None]:
        """What became of ranges, in order, a few read ahead; None if one is not recorded, or a shard of it has gone."""
        with ThreadPoolExecutor(_READ_AHEAD) as pool:
            coming: deque[tuple[int, Future[RangeResult | None]]] = deque()
            num_tiles = 0
            for one in ranges:
                while coming and (len(coming) > _READ_AHEAD or num_tiles + len(one.tiles) > _TILES_AHEAD):
                    num_earlier, earlier = coming.popleft()
                    num_tiles -= num_earlier
                    yield earlier.result()
                coming.append((len(one.tiles), pool.submit(self._read, one)))
                num_tiles += len(one.tiles)
            while coming:
                yield coming.popleft()[1].result()

    def _read(self, one: TileRange) -> RangeResult | None:
        if one.key is None or not self.has(one):
            return None
        result = read_record(RangeResult, self.uri(one.key))
        if result is None or any(self._sizes.get(f"{shard.sha256}.tar") != shard.size_bytes for shard in result.shards):
            return None
        return result

    def remove(self, ranges: Iterable[TileRange]) -> None:
        """Remove the records of ranges of a dataset that is published: its own index tells what they did."""
        storage.delete_many(self.uri(one.key) for one in ranges if one.key is not None and self.has(one))


def to_text(array: NDArray[Any] | None) -> str | None:
    """An array as text."""
    if array is None:
        return None
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(zlib.compress(file.getvalue(), 1)).decode()


def from_text(text: str | None) -> NDArray[Any] | None:
    """The array in a text."""
    if text is None:
        return None
    array: NDArray[Any] = np.load(io.BytesIO(zlib.decompress(base64.b64decode(text))), allow_pickle=False)
    return array
