"""What a run on this machine ends with: scores, and where maps and reports lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kfp import dsl

from pipelines.local.runner import TaskRun, html_file


def lines(runs: Sequence[TaskRun]) -> list[str]:
    """What to print.

    Args:
        runs: the run's steps, in order.
    """
    said = []
    for run in runs:
        outputs = run.outputs
        if "labels" in outputs and "summary" in outputs:
            said += _scores(Path(outputs["summary"].path))
            if manifest := str(outputs["labels"].metadata.get("uri", "")):
                said.append(f"maps: {manifest.rpartition('/')[0]}")
    artifacts = [(run.name, value) for run in runs for value in run.outputs.values()]
    reports = [(name, one) for name, one in artifacts if isinstance(one, dsl.HTML) and Path(one.path).stat().st_size]
    return [*said, *(f"report of {name}: {html_file(report)}" for name, report in reports)]


def _scores(path: Path) -> list[str]:
    """The scores of each model and the ensemble, where something was labelled."""
    if not path.is_file() or not (text := path.read_text()):  # of a worker that was not the last
        return []
    summary = json.loads(text)
    split = summary["scored_split"]
    if not split:
        return []
    columns = {**summary["models"], "ensemble": summary["ensemble"]}
    width = max(len(name) for name in (*columns, split)) + 2
    rows = [f"{split:{width}}" + "".join(f"{name:>10}" for name in columns)]
    for metric in ("mIoU", "mAcc", "aAcc"):
        rows.append(f"{metric:{width}}" + "".join(f"{scores[metric]:10.4f}" for scores in columns.values()))
    return rows
