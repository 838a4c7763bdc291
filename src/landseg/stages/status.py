"""`landseg status`: how far a run has got, from object storage alone."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from landseg import storage
from landseg.contracts.dataset import DatasetManifest
from landseg.contracts.documents import Document
from landseg.contracts.errors import ContractError, DamagedObjectError, ObjectNotFoundError, printable
from landseg.contracts.labels import LabelsManifest, parse_summary
from landseg.contracts.model import ModelManifest
from landseg.contracts.names import check_run_id
from landseg.contracts.probabilities import ProbsManifest
from landseg.contracts.references import ARGUMENTS, Arguments
from landseg.dataset.places import datasets_folder, manifest_uri
from landseg.scoring.scores import METRICS
from landseg.stages.shared.options import storage_root
from landseg.stages.shared.siblings import differences, identity_of

HELP = "show how far a run has come, from object storage alone"
EXAMPLE = "landseg status --storage-uri s3://bucket/landseg --run-id first"

STAGES: dict[str, type[Document]] = {
    "train": ModelManifest,
    "export-probs": ProbsManifest,
    "average-probs": LabelsManifest,
}


@dataclass(frozen=True)
class StageState:
    """What one stage has left in object storage, for one set of inputs and parameters.

    Attributes:
        stage: the verb.
        name: the model's name; empty for stages that have none.
        uri: the stage's folder.
        state: finished, unfinished (running, or interrupted), damaged, or of a dataset removed, or elsewhere (in
            another storage, which is not read).
        modified_s: when something was last written there, seconds since 1970.
        dataset_uri: the dataset it worked on, if a document states it.
        facts: what is known about the result.
        arguments: what the stage was run with, so that it can be run again.
    """

    stage: str
    name: str
    uri: str
    state: str
    modified_s: float
    dataset_uri: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, str | int | float] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--storage-uri", required=True, metavar="URI", help="root in object storage")
    parser.add_argument("--run-id", required=True, metavar="ID", help="the run")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(args: argparse.Namespace) -> None:
    """Print the state of every stage of a run, the newest result of each last."""
    check_run_id("--run-id", args.run_id)
    root = storage_root(args.storage_uri)
    states = run_states(root, args.run_id)
    print(json.dumps([asdict(state) for state in states], indent=1) if args.json else _text(root, args.run_id, states))


def run_states(storage_uri: str, run_id: str) -> list[StageState]:
    """Every folder that a run's stages have written, in pipeline order, the oldest first.

    Raises:
        ObjectNotFoundError: nothing was ever written for this run.
    """
    root = storage.join(storage_uri, "runs", run_id)
    folders: dict[str, float] = {}
    objects = {info.uri: info for info in storage.list_objects(root)}
    for info in objects.values():
        parts = Path(info.uri.removeprefix(root).lstrip("/")).parts
        depth = 2 if parts[0] == "average-probs" else 3
        if parts[0] in STAGES and len(parts) > depth:
            folder = storage.join(root, *parts[:depth])
            folders[folder] = max(info.modified_s, folders.get(folder, 0.0))
    if not folders:
        raise ObjectNotFoundError(root, "expected what a run has written, found nothing", "check --run-id")
    sizes = {uri: info.size_bytes for uri, info in objects.items()}
    found = [_state(storage_uri, root, folder, modified, sizes) for folder, modified in folders.items()]
    found.sort(key=lambda state: (list(STAGES).index(state.stage), state.name, state.modified_s))
    datasets = {state.dataset_uri: state.modified_s for state in found if state.dataset_uri}
    return [*(_dataset_state(storage_uri, uri) for uri in datasets), *found]


def _state(storage_uri: str, root: str, folder: str, modified_s: float, sizes: Mapping[str, int]) -> StageState:
    stage, *name, _ = folder.removeprefix(root).strip("/").split("/")
    arguments = _arguments(folder)
    dataset_uri = str(arguments.get("dataset_uri", ""))
    state = StageState(stage, "".join(name), folder, "unfinished", modified_s, dataset_uri, arguments=arguments)
    try:
        document = storage.read_document(STAGES[stage], storage.join(folder, "manifest.json")).document
    except ObjectNotFoundError:
        return state
    except ContractError as err:
        return replace(state, state="damaged", facts={"problem": str(err)})
    try:
        for blob in storage.listed(document, folder):
            uri = storage.join(folder, blob.path)
            if sizes.get(uri) != blob.size_bytes:
                problem = f"expected {blob.size_bytes} bytes, found {sizes.get(uri, 'none')}"
                return replace(state, state="damaged", facts={"problem": f"{uri}: {problem}"})
        dataset_id, facts = _facts(document, folder)
    except (ContractError, DamagedObjectError) as err:
        return replace(state, state="damaged", facts={"problem": str(err)})
    own = manifest_uri(storage_uri, dataset_id)
    if f"/{dataset_id}/" not in dataset_uri or storage.stat(own) is not None:
        dataset_uri = own  # else it lies in another storage, as the arguments say
    return replace(state, state="finished", dataset_uri=dataset_uri, facts=facts)


def _arguments(folder: str) -> dict[str, str | int | float]:
    """What a stage was run with; empty if that was not recorded, or the record is damaged."""
    try:
        return storage.read_document(Arguments, storage.join(folder, ARGUMENTS)).document.values
    except (ObjectNotFoundError, ContractError):
        return {}


def _facts(document: Document, folder: str) -> tuple[str, dict[str, Any]]:
    """The id of the dataset that a stage worked on, and what is known about its result."""
    if isinstance(document, ModelManifest):
        scores = {"mIoU": document.metrics["mIoU"]} if "mIoU" in document.metrics else {}
        return document.dataset_id, scores
    if isinstance(document, ProbsManifest):
        tiles = {str(split): document.num_tiles(split) for split in document.splits}
        return document.spec.dataset_id, {"tta": document.spec.tta, "dtype": document.spec.dtype, **tiles}
    assert isinstance(document, LabelsManifest)
    where = storage.join(folder, document.summary.path)
    summary = parse_summary(storage.get_bytes(where, sha256=document.summary.sha256), where)
    weights = {member.model: member.weight for member in document.members}
    return document.dataset_id, {"weights": weights, "summary": summary}


def _dataset_state(storage_uri: str, uri: str) -> StageState:
    """The dataset that stages worked on. Documents are untrusted: what lies outside the storage's root is not read."""
    if not storage.is_below(uri, datasets_folder(storage_uri)):
        return StageState("stage-data", "", uri.rpartition("/")[0], "elsewhere", 0.0, dataset_uri=uri)
    state = StageState("stage-data", "", storage.parent(uri), "removed", 0.0, dataset_uri=uri)
    info = storage.stat(uri)
    if info is None:
        return state
    try:
        manifest = storage.read_document(DatasetManifest, uri).document
    except ContractError as err:
        return replace(state, state="damaged", modified_s=info.modified_s, facts={"problem": str(err)})
    tiles = {str(split): info.num_tiles for split, info in manifest.splits.items()}
    facts = {"name": manifest.name, **tiles}
    return replace(state, state="finished", modified_s=info.modified_s, facts=facts, arguments=_arguments(state.uri))


def _text(storage_uri: str, run_id: str, states: list[StageState]) -> str:
    lines = [f"run {run_id} in {storage_uri}", ""]
    for state in states:
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(state.modified_s)) if state.modified_s else "-"
        facts = {key: value for key, value in state.facts.items() if key != "summary"}
        shown = ", ".join(f"{key} {_shown(value)}" for key, value in facts.items())
        lines += [f"{f'{state.stage} {state.name}':24}{state.state:12}{when:21}{shown}".rstrip(), f"    {state.uri}"]
        lines += [f"    {differing}" for differing in _differing(state, states)]
    lines += [f"{f'{stage} {name}':24}not begun" for stage, name in _not_begun(states)]
    scored = [state for state in states if "summary" in state.facts]
    if scored:
        report = storage.join(scored[-1].uri, "report.html")
        lines += [*_scores(scored[-1].facts["summary"]), "", f"report: {report}"]
    return "\n".join(map(printable, lines))  # documents are untrusted: no text of theirs may begin a line


def _differing(state: StageState, states: list[StageState]) -> list[str]:
    """What a stage was run with that others of its name were not, and what tells it from one run with the same."""
    others = [
        other for other in states if (other.stage, other.name) == (state.stage, state.name) and other is not state
    ]
    if not others or not state.name:
        return []
    differing = [
        f"{key} {value}"
        for key, value in state.arguments.items()
        if any(other.arguments.get(key) != value for other in others)
    ]
    lines = [f"with {', '.join(differing)}"] if differing else []
    for twin in [other for other in others if other.arguments == state.arguments][-1:]:
        found = "; ".join(differences(identity_of(state.uri), identity_of(twin.uri)))
        lines.append(f"differs from {twin.uri.rpartition('/')[2]} (there) in {found}")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {number:.4g}" for key, number in value.items())
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _not_begun(states: list[StageState]) -> list[tuple[str, str]]:
    """Stages that follow from those that have begun, and have not written anything yet."""
    begun = {(state.stage, state.name) for state in states}
    exports = [("export-probs", state.name) for state in states if state.stage == "train"]
    return [where for where in dict.fromkeys([*exports, ("average-probs", "")]) if where not in begun]


def _scores(summary: dict[str, Any]) -> list[str]:
    """The newest ensemble's scores: one line per model and one for the ensemble."""
    rows = {**summary["models"], "ensemble": summary["ensemble"]}
    lines = ["", " " * 16 + "".join(f"{name:>10}" for name in METRICS)]
    split = summary["scored_split"]
    seen = summary["splits"].get(split, {}).get("trained_on_it", [])
    for model, scores in rows.items():
        numbers = "".join(f"{scores[name]:10.4f}" for name in METRICS if name in scores)
        has_seen = model in seen or (model == "ensemble" and seen)
        lines.append(f"{model:16}{numbers}" + (f"  trained on {split}" if has_seen else ""))
    return lines
