"""Single steps of a finished run, run again."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.arguments import parse_parameters
from pipelines.dags.packages import package
from pipelines.errors import UserError
from pipelines.rerun import STEPS, find_step

ARGUMENTS = {
    "stage-data": {"source": "s3://raw/tiles"},
    "train": {"config": "swin_tiny", "epochs": 3, "lr": 6e-05},
    "export-probs": {"tta": "h", "splits": "test"},
}


def state(stage: str, name: str, modified_s: float, state: str = "finished", dataset: str = "d1") -> dict[str, Any]:
    return {
        "stage": stage,
        "name": name,
        "uri": f"s3://b/runs/r/{stage}/{name}/{modified_s:.0f}",
        "state": state,
        "modified_s": modified_s,
        "dataset_uri": f"s3://b/datasets/{dataset}/manifest.json" if state == "finished" else "",
        "facts": {},
        "arguments": ARGUMENTS.get(stage, {}),
    }


LEFT = [
    state("stage-data", "", 0),
    state("train", "resnest", 2),
    state("train", "swin", 1),
    state("train", "swin", 3),
    state("train", "swin", 9, "unfinished"),
    state("export-probs", "other", 4),
    state("export-probs", "resnest", 4),
    state("export-probs", "swin", 5),
]


def parameters(step: str, *given: str, left: list[dict[str, Any]] = LEFT) -> dict[str, str]:
    found = find_step(step, "s3://b", "r", list(given), lambda storage_uri, run_id: left)
    parse_parameters(package(found.pipeline), found.parameters)
    return dict(pair.split("=", 1) for pair in found.parameters)


def test_a_training_reads_the_runs_dataset() -> None:
    assert parameters("train-swin", "epochs=5") == {
        "storage_uri": "s3://b",
        "run_id": "r",
        "config": "swin_tiny",
        "epochs": "5",
        "lr": "6e-05",
        "dataset_uri": "s3://b/datasets/d1/manifest.json",
    }


def test_a_stopped_stage_goes_on_with_what_it_was_asked_for() -> None:
    stopped = state("train", "swin", 10, "unfinished")
    stopped["arguments"] = {"config": "swin", "seed": 7}
    assert parameters("train-swin", left=[*LEFT, stopped]).items() >= {"config": "swin", "seed": "7"}.items()
    alone = {**stopped, "arguments": {"dataset_uri": "s3://b/datasets/d3/manifest.json"}}
    assert parameters("train-swin", left=[alone])["dataset_uri"] == "s3://b/datasets/d3/manifest.json"


def test_staging_reads_the_source_it_read_before() -> None:
    assert parameters("stage-data") == {"storage_uri": "s3://b", "source": "s3://raw/tiles"}
    assert parameters("stage-data", "source=s3://raw/more")["source"] == "s3://raw/more"


def averaged(**arguments: str) -> dict[str, Any]:
    return {**state("average-probs", "", 6), "arguments": arguments}


def test_weights_follow_the_models() -> None:
    left = [item for item in LEFT if item["name"] != "other"]
    given = averaged(models="resnest,swin", weights="0.25,0.75")
    assert parameters("average-probs", left=[*left, given])["weights"] == "0.75,0.25"
    assert parameters("average-probs", "weights=equal", left=[*left, given])["weights"] == "equal"
    assert "weights" not in parameters("average-probs", left=[*LEFT, given])  # there is a third model now
    assert parameters("average-probs", left=[*LEFT, averaged(models="a,b", weights="auto")])["weights"] == "auto"


def test_an_export_reads_the_newest_finished_model_of_its_name() -> None:
    assert parameters("export-probs-swin")["model_uri"] == "s3://b/runs/r/train/swin/3/manifest.json"
    assert parameters("export-probs-resnest")["model_uri"] == "s3://b/runs/r/train/resnest/2/manifest.json"


def test_averaging_reads_every_model_in_the_order_that_weights_follow() -> None:
    probs = parameters("average-probs")["probs_uris"].split(",")
    assert [uri.split("/")[-3] for uri in probs] == ["swin", "resnest", "other"]


def test_the_newest_dataset_counts() -> None:
    left = [*LEFT, state("train", "resnest", 20, dataset="d2")]
    assert parameters("average-probs", left=left)["dataset_uri"].endswith("/d2/manifest.json")


def test_a_run_that_left_nothing_needs_everything_given() -> None:
    def nothing(*_: str) -> list[dict[str, Any]]:
        raise UserError("expected what a run has written, found nothing")

    given = ["dataset_uri=s3://mine/d", "model_uri=s3://mine/m"]
    found = find_step("export-probs-swin", "s3://b", "r", given, nothing)
    assert found.pipeline == "export-probs"
    assert set(given) <= set(found.parameters)
    assert find_step("stage-data", "s3://b", "r", ["source=x"], nothing).parameters == [
        "storage_uri=s3://b",
        "source=x",
    ]
    with pytest.raises(UserError, match="found nothing"):
        find_step("export-probs-swin", "s3://b", "r", given[:1], nothing)


def test_nothing_to_read_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"nothing finished .* read as model_uri: give model_uri=URI"):
        parameters("export-probs-swin", left=[state("train", "resnest", 1)])
    with pytest.raises(UserError, match="expected one of stage-data"):
        find_step("train", "s3://b", "r", [])


def test_out_of_reach_is_the_stages_own_line(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="expected what a run has written, found nothing"):
        find_step("average-probs", str(tmp_path), "r", [])


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_a_pipeline(step: str) -> None:
    assert package(find_step(step, "s3://b", "r", [], lambda *_: LEFT).pipeline).exists()
