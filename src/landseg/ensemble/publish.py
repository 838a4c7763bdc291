"""The last step of averaging: from parts to archives, summary, ranking, report and manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from landseg import storage
from landseg.data.manifest import Split
from landseg.documents import Blob, sha256_hex
from landseg.ensemble.manifest import LabelArchive, LabelsManifest
from landseg.ensemble.parts import Job, Part
from landseg.ensemble.summary import Scoring, SplitResult, combine, ranking, score, summarise, write_archive


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


def publish(job: Job, parts: Sequence[Part], report: Callable[[Outcome], str]) -> storage.Loaded[LabelsManifest]:
    """Write everything, the manifest last. Nothing in it depends on time, place or the number of workers.

    Args:
        job: the ensemble.
        parts: of all shards, in the order of `job.shards`.
        report: renders the HTML report.
    """
    by_split: dict[Split, list[Part]] = {}
    for (split, _), part in zip(job.shards, parts, strict=True):
        by_split.setdefault(split, []).append(part)
    names = [member.name for member in job.members]
    results = tuple(combine(split, members) for split, members in by_split.items())
    scorings = tuple(scoring for result in results if (scoring := score(result, names, job.dataset.schema.classes)))
    summary = json.dumps(summarise(job, results, scorings), indent=1, allow_nan=False) + "\n"
    html = report(Outcome(job, results, scorings))
    manifest = LabelsManifest(
        dataset_id=job.dataset.manifest.dataset_id,
        dataset_sha256=job.dataset.sha256,
        class_schema=job.dataset.schema,
        members=tuple(member.describe() for member in job.members),
        splits={split: _archive(job, split, members) for split, members in by_split.items()},
        summary=_put(job, "summary.json", summary.encode()),
        ranking=_put(job, "ranking.csv", ranking(results, names)),
        report=_put(job, "report.html", html.encode()),
    )
    return storage.write_document(storage.join(job.folder, "manifest.json"), manifest)


def _archive(job: Job, split: Split, parts: Sequence[Part]) -> LabelArchive:
    path = job.scratch / f"labels-{split}.tar"
    num_tiles = write_archive(job, parts, path)
    archive = LabelArchive(
        path=path.name, size_bytes=path.stat().st_size, sha256=storage.file_sha256(path), num_tiles=num_tiles
    )
    storage.put_file(storage.join(job.folder, path.name), path)
    path.unlink()
    return archive


def _put(job: Job, name: str, data: bytes) -> Blob:
    storage.put_bytes(storage.join(job.folder, name), data)
    return Blob(path=name, size_bytes=len(data), sha256=sha256_hex(data))
