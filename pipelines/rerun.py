"""Run one stage of an earlier run again, from what the run left in object storage.

The other stages are not touched. A stage's folder is named by its inputs and parameters, so changed parameters write
beside the earlier results, and unchanged ones find them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.models import MODELS
from pipelines.errors import UserError
from pipelines.local import host_command

STEPS = (
    "stage-data",
    *(f"train-{name}" for name in MODELS),
    *(f"export-probs-{name}" for name in MODELS),
    "average-probs",
)

State = dict[str, Any]
"""One line of `landseg status --json`."""


@dataclass(frozen=True)
class Step:
    """A stage of an earlier run, ready to run again.

    Attributes:
        pipeline: the single-step pipeline (pipelines/steps.py).
        parameters: `NAME=VALUE` each: what the run left, and what was given.
    """

    pipeline: str
    parameters: list[str]


def find_step(
    name: str,
    storage_uri: str,
    run_id: str,
    given: list[str],
    status: Callable[[str, str], list[State]] | None = None,
) -> Step:
    """Find what a stage reads in what the run left.

    Args:
        name: one of `STEPS`.
        storage_uri: root in object storage.
        run_id: the run.
        given: parameters as `NAME=VALUE`; what is given is not looked for.
        status: tells the states of a run; `landseg status` by default.

    Raises:
        UserError: what the stage reads is not there and was not given, or object storage is out of reach.
    """
    if name not in STEPS:
        raise UserError(f"expected one of {', '.join(STEPS)}, found {name!r}")
    if name == "stage-data":
        return Step(name, [f"storage_uri={storage_uri}", *given])
    stage, _, model = (name, "", "") if name == "average-probs" else name.rpartition("-")
    inputs = {
        "train": ["dataset_uri"],
        "export-probs": ["dataset_uri", "model_uri"],
        "average-probs": ["dataset_uri", "probs_uris"],
    }
    parameters = [f"storage_uri={storage_uri}", f"run_id={run_id}", *given]
    missing = [key for key in inputs[stage] if not any(pair.startswith(f"{key}=") for pair in given)]
    if missing:
        found = _finished((status or _status)(storage_uri, run_id))
        for key in missing:
            uris = _uris(key, model, found)
            if not uris:
                raise UserError(f"run {run_id} has nothing finished that {name} could read as {key}: give {key}=URI")
            parameters.append(f"{key}={','.join(uris)}")
    return Step("export-probs" if stage == "export-probs" else name, parameters)


def _finished(states: list[State]) -> dict[tuple[str, str], State]:
    """The newest finished result of each stage and model; states come oldest first."""
    return {(state["stage"], state["name"]): state for state in states if state["state"] == "finished"}


def _uris(key: str, model: str, found: dict[tuple[str, str], State]) -> list[str]:
    if key == "dataset_uri":
        newest = sorted((state["modified_s"], state["dataset_uri"]) for state in found.values() if state["dataset_uri"])
        return [newest[-1][1]] if newest else []
    wanted = [("train", model)] if key == "model_uri" else [where for where in found if where[0] == "export-probs"]
    # Models are averaged in the order of the whole pipeline, which weights follow, then any others.
    order = {name: position for position, name in enumerate(MODELS)}
    wanted.sort(key=lambda where: (order.get(where[1], len(order)), where[1]))
    return [f"{found[where]['uri']}/manifest.json" for where in wanted if where in found]


def _status(storage_uri: str, run_id: str) -> list[State]:
    command = host_command("", ["landseg", "status", "--storage-uri", storage_uri, "--run-id", run_id, "--json"])
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("landseg status: error: "))
    states: list[State] = json.loads(done.stdout)
    return states
