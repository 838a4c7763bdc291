"""Maps of tiles, as archives: which there are, which are finished, and how the maps of shards are put into one.

<folder>/maps/<kind>-<split>-<archive>.tar   label maps, or a layer, of neighbouring shards
<folder>/parts/maps-<split>-<archive>.json   the record of an archive of every kind, written last
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import Split
from landseg.contracts.documents import Model
from landseg.contracts.labels import MapArchive
from landseg.ensemble.maps.files import write_tar
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.shard_results import LABELS, ShardResult
from landseg.storage.records import finished_record, read_record, write_record

ARCHIVE_SHARDS = 32
"""Neighbouring shards whose maps lie in one archive: of 9 classes, 896 tiles of 512 px."""

_PARTS_AHEAD = 4
"""Maps of so many shards are fetched while those before them are put into an archive."""

ArchivePlace = tuple[Split, int]
"""An archive: split and number."""


class ArchiveResult(Model):
    """What an archive's record holds.

    Attributes:
        archives: of the same tiles, by kind: the label maps (:data:`LABELS`) and the layers.
    """

    archives: dict[str, MapArchive]


class Archives:
    """The archives of an ensemble's maps. Which shards an archive holds depends on the shards alone, not on workers.

    Args:
        ensemble: the ensemble.

    Attributes:
        places: every archive, by split and number.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._shards: dict[ArchivePlace, list[tuple[Split, int]]] = {}
        for split, number in ensemble.shards:
            self._shards.setdefault((split, number // ARCHIVE_SHARDS), []).append((split, number))
        self.places = list(self._shards)

    def ready(self, shards: Iterable[tuple[Split, int]], parts: Mapping[str, int]) -> list[ArchivePlace]:
        """The archives that hold any of these shards and none that has yet to be averaged.

        Of the workers that share an archive's shards, the last one to finish finds it ready.

        Args:
            shards: a worker's own.
            parts: see :meth:`Ensemble.parts`.
        """

        def is_ready(place: ArchivePlace) -> bool:
            own = self._shards[place]
            # Records are read only where all are there: what another worker left damaged is not this one's to report.
            return all(self._ensemble.is_recorded(shard, parts) for shard in own) and all(
                self._ensemble.is_finished(shard, parts) for shard in own
            )

        touched = dict.fromkeys((split, number // ARCHIVE_SHARDS) for split, number in shards)
        return [place for place in touched if is_ready(place)]

    def write(self, places: Sequence[ArchivePlace], parts: Mapping[str, int]) -> None:
        """Write archives, apart from those that are finished.

        Args:
            places: the archives; all their shards are averaged.
            parts: see :meth:`Ensemble.parts`.
        """
        found = dict(storage.parallel(lambda place: (place, self.is_finished(place, parts)), places))
        wanted = [place for place in places if not found[place]]
        if not wanted:
            return
        with Progress("archiving", len(wanted), "archives") as progress:
            for place in wanted:
                kinds = (LABELS, *self._ensemble.layers)
                result = ArchiveResult(archives={kind: self._archive(place, kind) for kind in kinds})
                write_record(storage.join(self._ensemble.folder, _record(place)), result)
                progress.advance()

    def is_finished(self, place: ArchivePlace, parts: Mapping[str, int]) -> bool:
        """Whether an archive's record is among `parts` (:meth:`Ensemble.parts`), and so is what it lists."""
        if _record(place) not in parts:
            return False
        result = read_record(ArchiveResult, storage.join(self._ensemble.folder, _record(place)))
        return result is not None and all(parts.get(one.path) == one.size_bytes for one in result.archives.values())

    def results(self) -> dict[str, dict[Split, tuple[MapArchive, ...]]]:
        """All archives, which are known to be finished, by kind and split.

        Raises:
            DamagedObjectError: one is gone, or not what was written.
        """

        def read(place: ArchivePlace) -> tuple[ArchivePlace, ArchiveResult]:
            return place, finished_record(ArchiveResult, storage.join(self._ensemble.folder, _record(place)))

        found = dict(storage.parallel(read, self.places))
        by_split: dict[Split, list[ArchiveResult]] = {}
        for place in self.places:
            by_split.setdefault(place[0], []).append(found[place])
        return {
            kind: {split: tuple(result.archives[kind] for result in results) for split, results in by_split.items()}
            for kind in (LABELS, *self._ensemble.layers)
        }

    def _archive(self, place: ArchivePlace, kind: str) -> MapArchive:
        path = self._ensemble.scratch / f"{kind}-{place[0]}-{place[1]:06d}.tar"
        try:
            num_tiles = write_archive(self._ensemble, self._shards[place], kind, path)
            blob = storage.put_once(self._ensemble.folder, f"maps/{path.name}", path)
        finally:
            path.unlink(missing_ok=True)
        return MapArchive(**blob.model_dump(), num_tiles=num_tiles)


def write_archive(ensemble: Ensemble, shards: Sequence[tuple[Split, int]], kind: str, path: Path) -> int:
    """Put the maps of shards into one archive, sorted by tile id.

    Returns:
        The number of maps.
    """
    files = [path.with_name(f"{path.name}.{number}") for number in range(len(shards))]

    def read(number: int) -> tuple[int, ShardResult]:
        return number, ensemble.result(shards[number])

    found = dict(storage.parallel(read, range(len(shards))))
    blobs = [found[number].archives[kind] for number in range(len(shards))]
    members = [
        (tile_id, number, *span)
        for number, result in found.items()
        for tile_id, span in zip(result.ids, result.spans[list(result.archives).index(kind)].tolist(), strict=True)
    ]
    members.sort()
    left = Counter(number for _, number, _, _ in members)

    def fetch(number: int) -> None:
        uri = storage.join(ensemble.folder, blobs[number].path)
        storage.get_file(uri, files[number], sha256=blobs[number].sha256)

    def contents(pool: ThreadPoolExecutor) -> Iterator[bytes]:
        wanted = iter(dict.fromkeys(number for _, number, _, _ in members))
        coming = {number: pool.submit(fetch, number) for number in itertools.islice(wanted, _PARTS_AHEAD)}
        for _, number, offset, length in members:
            if number in coming:
                coming.pop(number).result()
                coming |= {after: pool.submit(fetch, after) for after in itertools.islice(wanted, 1)}
            with files[number].open("rb") as file:
                file.seek(offset)
                yield file.read(length)
            left[number] -= 1
            if not left[number]:  # neighbouring shards hold neighbouring tiles: few parts are on disk at once
                files[number].unlink()

    try:
        with ThreadPoolExecutor(_PARTS_AHEAD, "parts") as pool:
            write_tar(path, contents(pool))
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    return len(members)


def _record(place: ArchivePlace) -> str:
    return f"parts/maps-{place[0]}-{place[1]:06d}.json"
