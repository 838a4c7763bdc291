"""The whole pipeline, as a cluster runs it, on a few tiles: every stage real, with object storage and kfp.local."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ensembles import published_objects
from kfp_server import KfpServer

from components.images import ROOT
from landseg import storage
from pipelines.arguments import parse_parameters
from pipelines.dags.packages import package
from pipelines.local import runner as local
from pipelines.local.embedded_s3 import EmbeddedS3
from pipelines.rerun import STEPS, find_step

TILES = {"train": 4, "val": 2, "test": 2}
CLASSES = 9


@dataclass
class Finished:
    """A finished run of train-and-ensemble.

    Attributes:
        root: folder of KFP's artifacts.
        storage_uri: root in object storage.
        parameters: of the pipeline.
        runs: the steps as the first run ran them.
    """

    root: Path
    storage_uri: str
    parameters: dict[str, Any]
    runs: list[local.TaskRun]

    def again(self, **changed: Any) -> list[local.TaskRun]:
        return local.run(package("train-and-ensemble"), {**self.parameters, **changed}, self.root)

    def output(self, step: str, name: str) -> Any:
        """Of several workers, the last one's."""
        return [run for run in self.runs if run.name == step][-1].outputs[name]


def make_sample(folder: Path, seed: int = 0) -> None:
    counts = [f"--{split}={number}" for split, number in TILES.items()]
    command = ["make-sample-data", str(folder), "--size=64", f"--seed={seed}", *counts]
    subprocess.run([sys.executable, "-m", "landseg", *command], check=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, s3_server: EmbeddedS3) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("e2e")
    make_sample(folder / "data")
    storage_uri = f"s3://test/{folder.name}"
    given = [
        f"source={folder / 'data'}", f"storage_uri={storage_uri}", "run_id=tiny", "swin_config=swin_tiny",
        "resnest_config=resnest_tiny", "swin_pretrained=none", "resnest_pretrained=none", "gpus=0", "epochs=1",
        "batch_per_gpu=2", "tta=none", "swin_export_workers=2", "average_workers=2", "stage_workers=2",
    ]  # fmt: skip
    parameters = parse_parameters(package("train-and-ensemble"), given)
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        for name, value in s3_server.env.items():
            environment.setenv(name, value)
        runs = local.run(package("train-and-ensemble"), parameters, folder / "kfp")
        yield Finished(folder / "kfp", storage_uri, parameters, runs)


def test_every_step_ran_and_handed_over_its_artifacts(finished: Finished) -> None:
    assert Counter(run.name for run in finished.runs)["export-probs-swin"] == 2
    assert {run.name: sorted(run.outputs) for run in finished.runs} == {
        "stage-data": ["checks", "dataset", "report"],
        "train-swin": ["metrics", "model", "report"],
        "train-resnest": ["metrics", "model", "report"],
        "plan-export-swin": ["exports", "shares"],
        "plan-export-resnest": ["exports", "shares"],
        "export-probs-swin": ["probs"],
        "export-probs-resnest": ["probs"],
        "plan-stage": ["shares"],
        "stage-data-share": ["checks", "dataset", "report"],
        "plan-average": ["averages"],
        "average-probs": ["confusion_matrix", "labels", "metrics", "report", "summary"],
    }
    empty: Counter[tuple[str, str]] = Counter()
    for run in finished.runs:
        for name, artifact in run.outputs.items():
            if name in ("averages", "exports", "shares"):
                continue
            path = Path(artifact.path)
            assert path.is_file(), name
            assert path.stat().st_size < 5_000_000  # what the Kubeflow UI shows
            if name in ("dataset", "model", "probs", "labels", "report") and not path.stat().st_size:
                empty[run.name, name] += 1
                continue
            if name in ("dataset", "model", "probs", "labels"):
                reference = json.loads(path.read_text())
                assert reference["uri"].startswith(finished.storage_uri)
                assert artifact.metadata["uri"] == reference["uri"]
            if name == "report":
                assert path.read_text().lstrip().lower().startswith("<!doctype html>")
    # A worker of several leaves empty files, but for the last one; of a staging, all shares do.
    assert empty == {
        **{("stage-data-share", name): 2 for name in ("dataset", "report")},
        **{("average-probs", name): 1 for name in ("labels", "report")},
        ("export-probs-swin", "probs"): 1,
    }


def test_the_last_worker_leaves_the_reference_and_all_say_where(finished: Finished) -> None:
    left = [run.outputs["probs"] for run in finished.runs if run.name == "export-probs-swin"]
    assert [Path(probs.path).stat().st_size > 0 for probs in left] == [False, True]
    assert len({probs.metadata["uri"] for probs in left}) == 1
    assert [probs.metadata.get("worker") for probs in left] == ["1/2", None]


def test_any_number_of_workers_writes_the_same_bytes(finished: Finished, s3_server: EmbeddedS3) -> None:
    step = find_step("export-probs-swin", finished.storage_uri, "tiny", ["tta=none", "run_id=alone"])
    (run,) = local.run(package(step.pipeline), parse_parameters(package(step.pipeline), step.parameters), finished.root)
    folders = [
        s3_server.root / storage.parent(probs.metadata["uri"]).removeprefix("s3://")
        for probs in (run.outputs["probs"], finished.output("export-probs-swin", "probs"))
    ]
    alone, shared = map(results, folders)
    assert folders[0] != folders[1]
    assert len(alone) > 8
    assert alone == shared


def test_any_number_of_workers_averages_to_the_same_bytes(finished: Finished, s3_server: EmbeddedS3) -> None:
    shares = [run for run in finished.runs if run.name == "average-probs"]
    assert [Path(run.outputs["labels"].path).stat().st_size > 0 for run in shares] == [False, True]
    exports = [run.outputs["probs"].metadata for run in finished.runs if run.name.startswith("export-probs")]
    (plan,) = [run for run in finished.runs if run.name == "plan-average"]
    assert {uri for one in plan.outputs["averages"] for uri in one["probs_uris"].split(",")} == {
        probs["uri"] for probs in exports
    }
    step = find_step("average-probs", finished.storage_uri, "tiny", ["weights=equal", "run_id=alone"])
    (run,) = local.run(package(step.pipeline), parse_parameters(package(step.pipeline), step.parameters), finished.root)
    uris = [run.outputs["labels"].metadata["uri"], finished.output("average-probs", "labels").metadata["uri"]]
    alone, shared = (published_objects(s3_server.root / storage.parent(uri).removeprefix("s3://")) for uri in uris)
    assert uris[0] != uris[1]
    differing = {name for name in alone.keys() | shared.keys() if alone.get(name) != shared.get(name)}
    assert differing <= {"report.html", "parts/costs.json"}  # they name the run, and say how long it took
    assert len(alone) > 8


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def results(root: Path) -> dict[str, bytes]:
    """What a stage wrote, except the time that each attempt took."""
    return {str(path.relative_to(root)): path.read_bytes() for path in files(root) if path.parent.name != "costs"}


def test_the_report_says_what_every_step_took_and_how_models_were_trained(finished: Finished) -> None:
    report = Path(finished.output("average-probs", "report").path).read_text()
    seconds = dict(re.findall(r'data-metric="seconds\.([\w-]+)" data-value="([\d.]+)"', report))
    models = [f"{stage}-{model}" for stage in ("train", "export-probs") for model in ("swin", "resnest")]
    assert seconds.keys() == {"stage-data", *models, "average-probs"}
    taken = {run.name: run.seconds for run in finished.runs}
    assert all(0 < float(seconds[name]) <= taken[name] for name in ("stage-data", "train-swin", "average-probs"))
    assert report.count("EncoderDecoder") >= 2  # the resolved configs
    assert "torch version" in report


def test_scores_reach_the_ui(finished: Finished) -> None:
    summary = json.loads(Path(finished.output("average-probs", "summary").path).read_text())
    assert set(summary["models"]) == {"swin", "resnest"}
    assert summary["num_tiles"] == TILES
    metrics = finished.output("average-probs", "metrics").metadata
    assert metrics["ensemble.mIoU"] == pytest.approx(summary["ensemble"]["mIoU"])
    matrix = finished.output("average-probs", "confusion_matrix").metadata["confusionMatrix"]
    assert len(matrix["annotationSpecs"]) == len(matrix["rows"]) == CLASSES
    assert sum(sum(row["row"]) for row in matrix["rows"]) == TILES["val"] * 64 * 64
    for model in ("swin", "resnest"):
        scores = finished.output(f"train-{model}", "metrics").metadata
        assert scores["mIoU"] == pytest.approx(summary["models"][model]["mIoU"], abs=0.2)


def test_a_second_run_reuses_every_step(finished: Finished) -> None:
    assert all(run.cached for run in finished.again())


def test_a_changed_parameter_reruns_what_depends_on_it(finished: Finished) -> None:
    runs = {run.name: run for run in finished.again(weights="0.2,0.8")}
    assert {name for name, run in runs.items() if not run.cached} == {"plan-average", "average-probs"}


def test_a_submission_that_waits_ends_with_the_scores(finished: Finished) -> None:
    with KfpServer(states=[]) as server:
        command = [
            sys.executable, "-m", "pipelines", "submit", f"--endpoint={server.endpoint}", "--wait", "--run-id=tiny",
            f"--storage-uri={finished.storage_uri}", "--source=s3://raw/tiles", "--registry=registry.example.org/team",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (run_id,) = server.runs
        lines = done.stdout.splitlines()
        assert lines[0] == f"{server.endpoint}/#/runs/details/{run_id}"
        assert lines[1] == f"run tiny in {finished.storage_uri}"
        assert lines[-6].split() == ["mIoU", "mAcc", "aAcc"]
        assert [line.split()[0] for line in lines[-5:-2]] == ["resnest", "swin", "ensemble"]
        assert lines[-1].startswith(f"report: {finished.storage_uri}/runs/tiny/average-probs/")
        server.final_state = "FAILED"
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert "the run has failed" in done.stderr


def test_status_tells_what_is_there(finished: Finished) -> None:
    command = [sys.executable, "-m", "landseg", "status", "--storage-uri", finished.storage_uri, "--run-id", "tiny"]
    states = json.loads(subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=True).stdout)
    assert {(state["stage"], state["name"]) for state in states if state["state"] == "finished"} == {
        ("stage-data", ""),
        ("train", "swin"),
        ("train", "resnest"),
        ("export-probs", "swin"),
        ("export-probs", "resnest"),
        ("average-probs", ""),
    }
    text = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert "ensemble" in text
    assert "mIoU" in text


@pytest.mark.parametrize(
    "name", [pytest.param(step, marks=() if step == "average-probs" else pytest.mark.slow) for step in STEPS]
)
def test_a_step_run_again_with_nothing_changed_finds_its_result(finished: Finished, name: str) -> None:
    # Another test has averaged with other weights since, and a step keeps its last parameters unless others are given.
    step = find_step(name, finished.storage_uri, "tiny", ["weights=equal"] if name == "average-probs" else [])
    parameters = parse_parameters(package(step.pipeline), step.parameters)
    (run,) = local.run(package(step.pipeline), parameters, finished.root)
    (reference,) = [item for key, item in run.outputs.items() if key in ("dataset", "model", "probs", "labels")]
    assert reference.metadata == finished.output(name, reference.name).metadata


CHANGES = {
    "stage-data": "source={more}",
    "train-swin": "seed=1",
    "train-resnest": "class_weights=inverse-frequency",
    "export-probs-swin": "dtype=uint8",
    "export-probs-resnest": "splits=val",
    "average-probs": "weights=0.9,0.1",
}
QUICK = ("export-probs-swin", "average-probs")


@pytest.mark.parametrize(
    # The last step first: each takes the newest results of those before it.
    "name",
    [pytest.param(step, marks=() if step in QUICK else pytest.mark.slow) for step in reversed(STEPS)],
)
def test_a_step_is_run_again_beside_its_earlier_results(
    finished: Finished, s3_server: EmbeddedS3, tmp_path: Path, name: str
) -> None:
    """One parameter changes, the others keep the run's values; no other stage writes or loses anything."""
    make_sample(tmp_path / "more", seed=7)
    step = find_step(name, finished.storage_uri, "tiny", [CHANGES[name].format(more=tmp_path / "more")])
    root = s3_server.root / finished.storage_uri.removeprefix("s3://")
    before = {path: path.stat().st_mtime_ns for path in files(root)}
    parameters = parse_parameters(package(step.pipeline), step.parameters)
    (run,) = local.run(package(step.pipeline), parameters, finished.root)
    after = {path: path.stat().st_mtime_ns for path in files(root)}
    (reference,) = [item for key, item in run.outputs.items() if key in ("dataset", "model", "probs", "labels")]
    uri = reference.metadata["uri"]
    assert uri != finished.output(name, reference.name).metadata["uri"]
    changed = [path for path, modified in before.items() if after[path] != modified]
    assert all(path.parent.name == "by-name" for path in changed)  # which dataset of a name is the newest
    folder = root / "datasets" if name == "stage-data" else (s3_server.root / uri.removeprefix("s3://")).parent
    assert after.keys() - before.keys()
    assert all(path.is_relative_to(folder) for path in after.keys() - before.keys())
    done = subprocess.run([sys.executable, "-m", "landseg", "verify", uri], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_predict_takes_models_by_their_uris(finished: Finished) -> None:
    models = {model: finished.output(f"train-{model}", "model").metadata["uri"] for model in ("swin", "resnest")}
    given = [
        f"source={finished.parameters['source']}", f"storage_uri={finished.storage_uri}", "run_id=predicted",
        f"model_uris={models['swin']},{models['resnest']}", "tta=none", "export_workers=2",
    ]  # fmt: skip
    runs = local.run(package("predict"), parse_parameters(package("predict"), given), finished.root)
    labels = json.loads(Path(runs[-1].outputs["labels"].path).read_text())
    assert labels["facts"]["num_tiles.test"] == TILES["test"]


def test_the_command_line_says_the_same(finished: Finished) -> None:
    given = [f"--param={name}={value}" for name, value in finished.parameters.items()]
    command = [sys.executable, "-m", "pipelines", "run", "train-and-ensemble", f"--root={finished.root}", *given]
    # The source's version is left empty as in the fixture; the command would fill it in.
    done = subprocess.run([*command, "--param=source_version="], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "average-probs: reused"
    told = done.stdout.splitlines()
    summary = json.loads(Path(finished.output("average-probs", "summary").path).read_text())
    assert told[0].split() == ["val", "resnest", "swin", "ensemble"]
    assert told[1].split() == [
        "mIoU",
        *(f"{scores['mIoU']:.4f}" for scores in (*summary["models"].values(), summary["ensemble"])),
    ]
    labels = finished.output("average-probs", "labels").metadata["uri"]
    assert told[4] == f"maps: {labels.removesuffix('/manifest.json')}"
    reports = [Path(line.partition(": ")[2]) for line in told[5:]]
    assert {line.partition(":")[0] for line in told[5:]} == {  # kfp.local takes the models in any order
        f"report of {step}" for step in ("stage-data", "train-resnest", "train-swin", "average-probs")
    }
    assert all(path.suffix == ".html" and path.read_text().startswith("<!doctype html>") for path in reports)
