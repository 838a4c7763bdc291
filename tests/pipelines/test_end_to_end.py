"""The whole pipeline, as a cluster runs it, on a few tiles: every stage real, with object storage and kfp.local."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.images import ROOT
from pipelines import local
from pipelines.compile import package
from pipelines.embedded_s3 import EmbeddedS3
from pipelines.parameters import parse_parameters
from pipelines.rerun import find_step

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
        (run,) = [run for run in self.runs if run.name == step]
        return run.outputs[name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, s3_server: EmbeddedS3) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("e2e")
    counts = [f"--{split}={number}" for split, number in TILES.items()]
    subprocess.run(
        [sys.executable, "-m", "landseg", "make-sample-data", str(folder / "data"), "--size=64", *counts], check=True
    )
    storage_uri = f"s3://test/{folder.name}"
    given = [
        f"source={folder / 'data'}", f"storage_uri={storage_uri}", "run_id=tiny", "swin_config=swin_tiny",
        "resnest_config=resnest_tiny", "swin_pretrained=none", "resnest_pretrained=none", "gpus=0", "epochs=1",
        "batch_per_gpu=2", "tta=none",
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
    assert {run.name: sorted(run.outputs) for run in finished.runs} == {
        "stage-data": ["checks", "dataset", "report"],
        "train-swin": ["metrics", "model", "report"],
        "train-resnest": ["metrics", "model", "report"],
        "export-probs-swin": ["probs"],
        "export-probs-resnest": ["probs"],
        "average-probs": ["confusion_matrix", "labels", "metrics", "report", "summary"],
    }
    for run in finished.runs:
        for name, artifact in run.outputs.items():
            path = Path(artifact.path)
            assert path.is_file(), name
            assert path.stat().st_size < 5_000_000  # what the Kubeflow UI shows
            if name in ("dataset", "model", "probs", "labels"):
                reference = json.loads(path.read_text())
                assert reference["uri"].startswith(finished.storage_uri)
                assert artifact.metadata["uri"] == reference["uri"]
            if name == "report":
                assert path.read_text().lstrip().lower().startswith("<!doctype html>")


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
    assert {name for name, run in runs.items() if not run.cached} == {"average-probs"}


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


def test_one_step_is_run_again_and_earlier_results_stay(finished: Finished) -> None:
    step = find_step("average-probs", finished.storage_uri, "tiny", ["weights=0.9,0.1"])
    before = finished.output("average-probs", "labels").metadata["uri"]
    parameters = parse_parameters(package(step.pipeline), step.parameters)
    (run,) = local.run(package(step.pipeline), parameters, finished.root)
    after = run.outputs["labels"].metadata["uri"]
    assert after != before
    for uri in (before, after):
        done = subprocess.run([sys.executable, "-m", "landseg", "verify", uri], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_predict_takes_models_by_their_uris(finished: Finished) -> None:
    models = {model: finished.output(f"train-{model}", "model").metadata["uri"] for model in ("swin", "resnest")}
    given = [
        f"source={finished.parameters['source']}", f"storage_uri={finished.storage_uri}", "run_id=predicted",
        f"swin_model_uri={models['swin']}", f"resnest_model_uri={models['resnest']}", "tta=none",
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
