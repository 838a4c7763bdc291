"""The lines that say what averaging found, and where its results lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landseg import storage
from landseg.cli.console import is_quiet
from landseg.contracts.labels import LabelsManifest, parse_summary
from landseg.scoring.scores import METRICS


def score_lines(summary: dict[str, Any]) -> list[str]:
    """The scores of each model and of the ensemble as a small table; nothing where nothing is labelled.

    Args:
        summary: `summary.json`.
    """
    split = summary["scored_split"]
    columns = {**summary["models"], "ensemble": summary["ensemble"]}
    if not split or not all(columns.values()):
        return []
    width = max(len(name) for name in (*columns, split))
    rows = [f"{split:{width}}" + "".join(f"{metric:>9}" for metric in METRICS)]
    for name, scores in columns.items():
        rows.append(f"{name:{width}}" + "".join(f"{100 * scores[metric]:9.2f}" for metric in METRICS))
    return rows


def tell(labels: storage.Loaded[LabelsManifest], maps: Path | None, outputs: Path | None) -> None:
    """Print scores, and where report and maps lie; nothing with `--quiet`.

    Args:
        labels: the manifest of the maps.
        maps: the local folder that they were written to, if any.
        outputs: the local folder that the report was written to, if any.
    """
    if is_quiet():
        return
    folder, document = storage.parent(labels.uri), labels.document
    where = storage.join(folder, document.summary.path)
    summary = parse_summary(storage.get_bytes(where, sha256=document.summary.sha256), where)
    for line in score_lines(summary):
        print(line)
    archives = [archive.path for split in document.splits for archive in document.archives(split)]
    held = storage.parent(archives[0]) if len(archives) > 1 else archives[0]
    print(f"maps: {maps or storage.join(folder, held)}")
    print(f"report: {outputs / 'report.html' if outputs else storage.join(folder, document.report.path)}")
