"""The last step of averaging: from the results of shards to archives, summary, ranking, report and manifest."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.labels import LabelsManifest, MapArchive
from landseg.ensemble.maps.files import write_tar
from landseg.ensemble.maps.stitched_scene import SceneResult
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.shard_results import LABELS, ShardResult
from landseg.ensemble.split_results import SplitResult, combine
from landseg.ensemble.split_scores import Scoring, score
from landseg.ensemble.summary import ranking, summarise


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a report is made from.

    Attributes:
        ensemble: the ensemble.
        results: one per split.
        scorings: one per labelled split.
        scenes: the results of the splits' scenes.
    """

    ensemble: Ensemble
    results: tuple[SplitResult, ...]
    scorings: tuple[Scoring, ...]
    scenes: Mapping[Split, Sequence[SceneResult]]


def publish(
    ensemble: Ensemble, scenes: Mapping[Split, Sequence[SceneResult]], report: Callable[[Outcome], str]
) -> storage.Loaded[LabelsManifest]:
    """Write everything, the manifest last.

    Only the times in the report depend on when, where and in how many shares the work was done.

    Args:
        ensemble: the ensemble; all its shards are averaged. Their results are read a few at a time, because those of
            many tiles would not fit into memory together.
        scenes: the results of the splits' scenes.
        report: renders the HTML report.
    """
    by_split: dict[Split, list[tuple[Split, int]]] = {}
    for shard in ensemble.shards:
        by_split.setdefault(shard[0], []).append(shard)

    def archives(kind: str) -> dict[Split, MapArchive]:
        return {split: _archive(ensemble, split, shards, kind) for split, shards in by_split.items()}

    def read(split: Split, number: int) -> ShardResult:
        return ensemble.result(by_split[split][number])

    names = [member.name for member in ensemble.members]
    results = tuple(
        combine(split, len(shards), functools.partial(read, split), scenes.get(split, ()))
        for split, shards in by_split.items()
    )
    scorings = tuple(
        scoring
        for result in results
        if (scoring := score(result, names, ensemble.dataset.schema.classes, ensemble.seen_by(result.split)))
    )
    summary = json.dumps(summarise(ensemble, results, scorings), indent=1, allow_nan=False) + "\n"
    html = report(Outcome(ensemble, results, scorings, scenes))
    manifest = LabelsManifest(
        dataset_id=ensemble.dataset.manifest.dataset_id,
        dataset_sha256=ensemble.dataset.sha256,
        class_schema=ensemble.dataset.schema,
        members=tuple(member.describe() for member in ensemble.members),
        splits=archives(LABELS),
        layers={layer: archives(layer) for layer in ensemble.layers},
        scenes={split: tuple(result.labels for result in found) for split, found in scenes.items()},
        scene_layers={
            layer: {split: tuple(result.layers[layer] for result in found) for split, found in scenes.items()}
            for layer in ensemble.layers
            if scenes
        },
        summary=storage.put_once(ensemble.folder, "summary.json", summary.encode()),
        ranking=storage.put_once(ensemble.folder, "ranking.csv", ranking(results, names)),
        report=storage.put_once(ensemble.folder, "report.html", html.encode()),
    )
    return storage.publish_manifest(storage.join(ensemble.folder, "manifest.json"), manifest)


def write_archive(ensemble: Ensemble, shards: Sequence[tuple[Split, int]], kind: str, path: Path) -> int:
    """Put the maps of a split's shards into one archive, sorted by tile id.

    Returns:
        The number of maps.
    """
    files = [path.with_name(f"{path.name}.{number}") for number in range(len(shards))]

    def fetch(number: int) -> tuple[list[str], NDArray[np.int64]]:
        result = ensemble.result(shards[number])
        blob = result.archives[kind]
        storage.get_file(storage.join(ensemble.folder, blob.path), files[number], sha256=blob.sha256)
        return [tile.id for tile in result.tiles], np.array([(number, *tile.spans[kind]) for tile in result.tiles])

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


def _archive(ensemble: Ensemble, split: Split, shards: Sequence[tuple[Split, int]], kind: str) -> MapArchive:
    path = ensemble.scratch / f"{kind}-{split}.tar"
    num_tiles = write_archive(ensemble, shards, kind, path)
    blob = storage.put_once(ensemble.folder, path.name, path)
    path.unlink()
    return MapArchive(**blob.model_dump(), num_tiles=num_tiles)
