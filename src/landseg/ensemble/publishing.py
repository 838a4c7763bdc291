"""The last step of averaging: from parts to archives, summary, ranking, report and manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.documents import Blob, sha256_hex
from landseg.contracts.labels import LabelsManifest, MapArchive
from landseg.ensemble.maps import write_tar
from landseg.ensemble.scene_maps import write_scenes
from landseg.ensemble.shard_results import LABELS, Job
from landseg.ensemble.summary import Scoring, SplitResult, combine, ranking, score, summarise


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a report is made of.

    Attributes:
        job: the ensemble.
        results: of each split.
        scorings: of each labelled split.
    """

    job: Job
    results: tuple[SplitResult, ...]
    scorings: tuple[Scoring, ...]


def publish(job: Job, report: Callable[[Outcome], str]) -> storage.Loaded[LabelsManifest]:
    """Write everything, the manifest last. Nothing but the times in the report depends on time, place or workers.

    Args:
        job: the ensemble; all its parts are finished. They are read one after the other: of many tiles, all that was
            found would not fit into memory.
        report: renders the HTML report.
    """
    by_split: dict[Split, list[tuple[Split, int]]] = {}
    for shard in job.shards:
        by_split.setdefault(shard[0], []).append(shard)

    def archives(kind: str) -> dict[Split, MapArchive]:
        return {split: _archive(job, split, shards, kind) for split, shards in by_split.items()}

    names = [member.name for member in job.members]
    results = tuple(
        combine(split, len(shards), lambda number, shards=shards: job.part(shards[number]))  # type: ignore[misc]
        for split, shards in by_split.items()
    )
    scorings = tuple(scoring for result in results if (scoring := score(result, names, job.dataset.schema.classes)))
    summary = json.dumps(summarise(job, results, scorings), indent=1, allow_nan=False) + "\n"
    html = report(Outcome(job, results, scorings))
    manifest = LabelsManifest(
        dataset_id=job.dataset.manifest.dataset_id,
        dataset_sha256=job.dataset.sha256,
        class_schema=job.dataset.schema,
        members=tuple(member.describe() for member in job.members),
        splits=archives(LABELS),
        layers={layer: archives(layer) for layer in job.layers},
        scenes=write_scenes(job),
        summary=_put(job, "summary.json", summary.encode()),
        ranking=_put(job, "ranking.csv", ranking(results, names)),
        report=_put(job, "report.html", html.encode()),
    )
    return storage.write_document(storage.join(job.folder, "manifest.json"), manifest)


def write_archive(job: Job, shards: Sequence[tuple[Split, int]], kind: str, path: Path) -> int:
    """Put the maps of a split's parts into one archive, sorted by tile id.

    Returns:
        The number of maps.
    """
    files = [path.with_name(f"{path.name}.{number}") for number in range(len(shards))]

    def fetch(number: int) -> tuple[list[str], NDArray[np.int64]]:
        part = job.part(shards[number])
        blob = part.archives[kind]
        storage.get_file(storage.join(job.folder, blob.path), files[number], sha256=blob.sha256)
        return [tile.id for tile in part.tiles], np.array([(number, *tile.spans[kind]) for tile in part.tiles])

    found = list(storage.parallel(fetch, range(len(shards))))
    ids = [tile_id for names, _ in found for tile_id in names]
    places = np.concatenate([spans for _, spans in found])

    def members() -> Iterator[bytes]:
        for i in sorted(range(len(ids)), key=ids.__getitem__):
            number, offset, length = places[i].tolist()
            with files[number].open("rb") as file:
                file.seek(offset)
                yield file.read(length)

    write_tar(path, members())
    for file in files:
        file.unlink()
    return len(ids)


def _archive(job: Job, split: Split, shards: Sequence[tuple[Split, int]], kind: str) -> MapArchive:
    path = job.scratch / f"{kind}-{split}.tar"
    num_tiles = write_archive(job, shards, kind, path)
    archive = MapArchive(
        path=path.name, size_bytes=path.stat().st_size, sha256=storage.file_sha256(path), num_tiles=num_tiles
    )
    storage.put_file(storage.join(job.folder, path.name), path)
    path.unlink()
    return archive


def _put(job: Job, name: str, data: bytes) -> Blob:
    storage.put_bytes(storage.join(job.folder, name), data)
    return Blob(path=name, size_bytes=len(data), sha256=sha256_hex(data))
