"""The last step of averaging: from the results of shards to summary, ranking, report and manifest."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from landseg import storage
from landseg.contracts.dataset import Split
from landseg.contracts.documents import Blob
from landseg.contracts.labels import LabelsManifest, MapArchive
from landseg.ensemble.maps.stitched_scene import SceneResult
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.shard_results import LABELS, ShardResult
from landseg.ensemble.split_results import SplitResult, combine
from landseg.ensemble.split_scores import Scoring, score
from landseg.ensemble.summary import summarise, write_ranking


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a report is made from.

    Attributes:
        ensemble: the ensemble.
        results: one per split.
        scorings: one per labelled split.
        archives: the archives of maps, by kind and split.
        scenes: the results of the splits' scenes.
    """

    ensemble: Ensemble
    results: tuple[SplitResult, ...]
    scorings: tuple[Scoring, ...]
    archives: Mapping[str, Mapping[Split, tuple[MapArchive, ...]]]
    scenes: Mapping[Split, Sequence[SceneResult]]


def publish(
    ensemble: Ensemble,
    archives: Mapping[str, Mapping[Split, tuple[MapArchive, ...]]],
    scenes: Mapping[Split, Sequence[SceneResult]],
    report: Callable[[Outcome], str],
) -> storage.Loaded[LabelsManifest]:
    """Write everything, the manifest last.

    Only the times in the report depend on when, where and in how many shares the work was done.

    Args:
        ensemble: the ensemble; all its shards are averaged. Their results are read a few at a time, because those of
            many tiles would not fit into memory together.
        archives: the archives of maps, by kind and split.
        scenes: the results of the splits' scenes.
        report: renders the HTML report.
    """
    by_split: dict[Split, list[tuple[Split, int]]] = {}
    for shard in ensemble.shards:
        by_split.setdefault(shard[0], []).append(shard)

    def read(split: Split, number: int) -> ShardResult:
        return ensemble.result(by_split[split][number])

    names = [member.name for member in ensemble.members]
    results = tuple(
        combine(split, ensemble.tiles[split].table, len(shards), functools.partial(read, split), scenes.get(split, ()))
        for split, shards in by_split.items()
    )
    scorings = tuple(
        scoring
        for result in results
        if (scoring := score(result, names, ensemble.dataset.schema.classes, ensemble.seen_by(result.split)))
    )
    summary = json.dumps(summarise(ensemble, results, scorings), indent=1, allow_nan=False) + "\n"
    html = report(Outcome(ensemble, results, scorings, archives, scenes))
    manifest = LabelsManifest(
        dataset_id=ensemble.dataset.manifest.dataset_id,
        dataset_sha256=ensemble.dataset.sha256,
        class_schema=ensemble.dataset.schema,
        members=tuple(member.describe() for member in ensemble.members),
        splits=dict(archives[LABELS]),
        layers={layer: dict(archives[layer]) for layer in ensemble.layers},
        scenes={split: tuple(result.labels for result in found) for split, found in scenes.items()},
        scene_layers={
            layer: {split: tuple(result.layers[layer] for result in found) for split, found in scenes.items()}
            for layer in ensemble.layers
            if scenes
        },
        summary=storage.put_once(ensemble.folder, "summary.json", summary.encode()),
        ranking=_put_ranking(ensemble, results, names),
        report=storage.put_once(ensemble.folder, "report.html", html.encode()),
    )
    return storage.publish_manifest(storage.join(ensemble.folder, "manifest.json"), manifest)


def _put_ranking(ensemble: Ensemble, results: Sequence[SplitResult], names: Sequence[str]) -> Blob:
    path = ensemble.scratch / "ranking.csv"
    write_ranking(path, results, names)
    blob = storage.put_once(ensemble.folder, path.name, path)
    path.unlink()
    return blob
