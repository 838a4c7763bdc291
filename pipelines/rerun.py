"""Run one stage of an earlier run again, from what the run left in object storage.

The other stages are not touched. Parameters that are not given keep their earlier values. A stage's folder is named
after its inputs and parameters, so changed parameters write next to the earlier results; unchanged ones find these, or
resume where the stage stopped.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.models import MODELS
from pipelines.errors import UserError
from pipelines.local.processes import host_command

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
        pipeline: the single-step pipeline (pipelines/dags/steps.py).
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
    """Find a stage's earlier parameters and its inputs in what the run left.

    Args:
        name: one of `STEPS`.
        storage_uri: root in object storage.
        run_id: the run.
        given: parameters as `NAME=VALUE`, which replace the earlier ones.
        status: returns the states of a run; `landseg status` by default.

    Raises:
        UserError: an input of the stage does not exist and was not given, or object storage is out of reach.
    """
    if name not in STEPS:
        raise UserError(f"expected one of {', '.join(STEPS)}, found {name!r}")
    single = name in ("stage-data", "average-probs")
    stage, _, model = (name, "", "") if single else name.rpartition("-")
    needed = (*_INPUTS[stage], *(("source",) if stage == "stage-data" else ()))
    asked = dict(pair.partition("=")[::2] for pair in given)
    try:
        states = (status or _status)(storage_uri, run_id)
    except UserError:
        if not all(asked.get(key) for key in needed):
            raise
        states = []  # the run left nothing, but everything needed is given
    earlier = [state for state in states if (state["stage"], state["name"]) == (stage, model)]
    found = _finished(states)
    parameters = {"storage_uri": storage_uri, "run_id": run_id, **(earlier[-1]["arguments"] if earlier else {})}
    newest = {key: ",".join(_uris(key, model, found)) for key in _INPUTS[stage]}
    parameters |= {key: uris for key, uris in newest.items() if uris}
    if stage == "average-probs":
        parameters |= _weights(parameters, [state["name"] for state in _exports(found)])
    if stage == "stage-data":
        del parameters["run_id"]
    parameters |= asked
    for key in needed:
        if not parameters.get(key):
            raise UserError(f"run {run_id} has nothing finished that {name} could read as {key}: give {key}=URI")
    return Step(
        "export-probs" if stage == "export-probs" else name, [f"{key}={value}" for key, value in parameters.items()]
    )


_INPUTS = {
    "stage-data": (),
    "train": ("dataset_uri",),
    "export-probs": ("dataset_uri", "model_uri"),
    "average-probs": ("dataset_uri", "probs_uris"),
}


def _finished(states: list[State]) -> dict[tuple[str, str], State]:
    """The newest finished result of each stage and model; states come oldest first."""
    return {(state["stage"], state["name"]): state for state in states if state["state"] == "finished"}


def _uris(key: str, model: str, found: dict[tuple[str, str], State]) -> list[str]:
    if key == "dataset_uri":
        newest = sorted((state["modified_s"], state["dataset_uri"]) for state in found.values() if state["dataset_uri"])
        return [newest[-1][1]] if newest else []
    models = [found[where] for where in [("train", model)] if where in found]
    return [f"{state['uri']}/manifest.json" for state in (models if key == "model_uri" else _exports(found))]


def _exports(found: dict[tuple[str, str], State]) -> list[State]:
    """The newest probabilities of each model, in the order of the whole pipeline, then any others."""
    order = {name: position for position, name in enumerate(MODELS)}
    exports = [state for (stage, _), state in found.items() if stage == "export-probs"]
    return sorted(exports, key=lambda state: (order.get(state["name"], len(order)), state["name"]))


def _weights(earlier: dict[str, Any], models: list[str]) -> dict[str, str]:
    """The earlier weights in the order of the models; none where the models have changed."""
    names, weights = (str(earlier.pop(key, "")).split(",") for key in ("models", "weights"))
    if len(weights) == 1:  # equal, auto, or one model
        return {"weights": weights[0]} if weights[0] else {}
    by_model = dict(zip(names, weights, strict=False))
    return {"weights": ",".join(by_model[model] for model in models)} if set(models) == set(by_model) else {}


def _status(storage_uri: str, run_id: str) -> list[State]:
    command = host_command("", ["landseg", "status", "--storage-uri", storage_uri, "--run-id", run_id, "--json"])
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("landseg status: error: "))
    states: list[State] = json.loads(done.stdout)
    return states
