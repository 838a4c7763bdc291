"""Components may not import landseg, so this ties the two: each component's command is parsed by the real CLI."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.local import placeholder_utils

from components.images import ROOT, version
from components.models import MODELS
from landseg import __version__
from landseg.cli.main import stage_parser
from landseg.contracts.errors import ContractError
from landseg.stages.shared.context import stage_context
from pipelines.dags import packages
from pipelines.dags.compile import COMPONENTS, PIPELINES, compile_text, targets
from pipelines.dags.packages import with_images


def spec_of(path: Path) -> Any:
    return next(yaml.safe_load_all(path.read_text()))


def container(name: str) -> tuple[Any, Any]:
    spec = spec_of(ROOT / "components" / name / "component.yaml")
    (component,) = spec["components"].values()
    (executor,) = spec["deploymentSpec"]["executors"].values()
    return component, executor["container"]


def filled(name: str, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The component's argv with its placeholders filled by KFP's own code, and the parameters it was filled with."""
    component, box = container(name)
    examples = {"STRING": "s3://some/where", "NUMBER_INTEGER": 3, "NUMBER_DOUBLE": 0.25}
    inputs, outputs = component.get("inputDefinitions", {}), component["outputDefinitions"].get("artifacts", {})
    parameters = {}
    for key, declared in inputs.get("parameters", {}).items():
        default = declared.get("defaultValue")
        parameters[key] = default or examples.get(declared["parameterType"], default)
        if declared["parameterType"] == "NUMBER_INTEGER":
            parameters[key] = int(parameters[key])
    executor_input = {
        "inputs": {"parameterValues": parameters},
        "outputs": {
            "artifacts": {key: {"artifacts": [{"name": key, "uri": str(folder / key)}]} for key in outputs},
            "outputFile": str(folder / "executor_output.json"),
        },
    }
    argv = placeholder_utils.replace_placeholders(
        full_command=[*box["command"], *box["args"]],
        executor_input_dict=executor_input,
        pipeline_resource_name="pipeline",
        task_resource_name="task",
        pipeline_root=str(folder),
        unique_pipeline_id="1",
    )
    return argv, parameters


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_cli_understands_every_component(name: str, tmp_path: Path) -> None:
    argv, parameters = filled(name, tmp_path)
    assert argv[0] == "landseg"
    args = stage_parser(argv[1]).parse_args(argv[2:])
    assert args.storage_uri == parameters["storage_uri"]
    assert json.loads(args.executor_input)["outputs"]["outputFile"] == str(tmp_path / "executor_output.json")


@pytest.mark.parametrize("name", COMPONENTS)
def test_inputs_and_outputs_are_described(name: str) -> None:
    component, _ = container(name)
    for kind in component["inputDefinitions"].values():
        assert all(declared.get("description") for declared in kind.values())
    readme = (ROOT / "components" / name / "README.md").read_text()
    for kind in ("artifacts", "parameters"):
        for side in ("inputDefinitions", "outputDefinitions"):
            for key in component.get(side, {}).get(kind, {}):
                assert f"`{key}`" in readme, f"{key} is missing in components/{name}/README.md"


@pytest.mark.parametrize("name", COMPONENTS)
def test_images_have_an_immutable_tag_and_commands_are_given(name: str) -> None:
    _, box = container(name)
    image = {"plan_stage": "stage_data", "plan_export": "stage_data", "plan_average": "average_probs"}.get(
        name, name
    )  # a step that needs no image of its own
    assert box["image"] == f"landseg-{image.replace('_', '-')}:{version()}"
    assert version() == __version__
    assert box["command"]


@pytest.mark.parametrize("path", targets(), ids=lambda path: str(path.relative_to(ROOT)))
def test_committed_yaml_is_what_the_code_compiles_to(path: Path) -> None:
    assert path.read_text() == compile_text(targets()[path]), "run `make compile`"


def test_every_package_is_one_of_the_pipelines() -> None:
    assert packages.names() == sorted(PIPELINES)


@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline_parameters_are_described(name: str) -> None:
    spec = spec_of(ROOT / "pipelines" / "compiled" / f"{name}.yaml")
    assert all(declared.get("description") for declared in spec["root"]["inputDefinitions"]["parameters"].values())


def test_registry_and_tag_change_the_images_and_nothing_else() -> None:
    stock = compile_text(PIPELINES["train-and-ensemble"])
    moved = with_images(stock, "registry.example.org/team/", "7")
    assert "image: registry.example.org/team/landseg-train-swin:7\n" in moved
    different = [(a, b) for a, b in zip(stock.splitlines(), moved.splitlines(), strict=True) if a != b]
    assert all(a.strip().startswith("image: landseg-") for a, _ in different)
    assert len(different) == 11
    assert with_images(moved, "", "") == stock


def context_arguments(executor_input: str) -> argparse.Namespace:
    return argparse.Namespace(
        executor_input=executor_input, storage_uri="/storage", run_id="run", output_dir=None, scratch=None
    )


def test_input_artifacts_stand_in_for_uris(tmp_path: Path) -> None:
    probs = {f"probs_{i}": {"artifacts": [{"uri": f"/kfp/{i}"}]} for i in (2, 1)}
    inputs = {"artifacts": {**probs, "dataset": {"artifacts": [{"uri": "s3://bucket/dataset"}]}}}
    text = json.dumps({"inputs": inputs, "outputs": {"outputFile": str(tmp_path / "out.json")}})
    with stage_context("average-probs", context_arguments(text)) as context:
        assert context.reference("dataset", "") == "/s3/bucket/dataset"
        assert context.reference("dataset", "/given") == "/given"
        assert context.references("probs", [""]) == ["/kfp/1", "/kfp/2"]
        assert context.references("probs", ["a,b", "c"]) == ["a", "b", "c"]
        uris = [f"s3://test/runs/{name}/manifest.json" for name in "ab"]
        assert context.references("probs", [",".join(uris)]) == uris


def worker_left(path: Path, uri: str, content: str = "") -> dict[str, Any]:
    path.write_text(content)
    return {"uri": str(path), "metadata": {"uri": uri}}


def references(tmp_path: Path, artifacts: list[dict[str, Any]]) -> list[str]:
    text = json.dumps({"inputs": {"artifacts": {"probs_1": {"artifacts": artifacts}}}, "outputs": {}})
    with stage_context("average-probs", context_arguments(text)) as context:
        return context.references("probs", [""])


def test_of_several_workers_the_one_with_the_reference_counts(tmp_path: Path) -> None:
    paths = [tmp_path / str(i) for i in range(3)]
    left = [worker_left(path, "s3://b/probs", "{}" if path is paths[1] else "") for path in paths]
    assert references(tmp_path, left) == [str(paths[1])]


def test_workers_that_left_shards_out_are_refused(tmp_path: Path) -> None:
    left = [worker_left(tmp_path / str(i), "s3://b/probs") for i in range(2)]
    with pytest.raises(ContractError, match="expected the last of 2 workers to publish it, found that none did"):
        references(tmp_path, left)


def test_each_result_among_what_workers_left_counts(tmp_path: Path) -> None:
    paths = [tmp_path / str(i) for i in range(6)]
    uris = [f"s3://b/{name}" for name in "aabbcc"]
    left = [worker_left(path, uri, "{}" * (i % 2)) for i, (path, uri) in enumerate(zip(paths, uris, strict=True))]
    assert references(tmp_path, left) == [str(path) for path in paths[1::2]]


def test_workers_on_different_results_are_refused(tmp_path: Path) -> None:
    left = [worker_left(tmp_path / str(i), f"s3://b/probs/{i}", "{}" * i) for i in range(2)]
    with pytest.raises(ContractError, match=r"s3://b/probs/0: .*found that none did.*on GPUs of one kind"):
        references(tmp_path, left)


def dag_names(spec: Any, dag: Any) -> dict[str, Any]:
    """What the DAG view shows: the steps by their display names, groups with what is in them."""
    shown = {}
    for task in dag["tasks"].values():
        component = spec["components"][task["componentRef"]["name"]]
        shown[task["taskInfo"]["name"]] = dag_names(spec, component["dag"]) if "dag" in component else None
    return shown


def test_the_dag_view_is_grouped_by_model() -> None:
    def group(name: str, *steps: str) -> dict[str, Any]:
        return {**dict.fromkeys(steps), f"workers-{name}": {f"export-probs-{name}": None}}

    groups = {name: group(name, f"train-{name}", f"plan-export-{name}") for name in MODELS}
    loop = {"plan-export": None, "workers": {"export-probs": None}}
    for pipeline, between in (("train-and-ensemble", groups), ("predict", loop)):
        spec = spec_of(ROOT / "pipelines" / "compiled" / f"{pipeline}.yaml")
        shares = {"plan-stage": None, "shares": {"stage-data-share": None}}
        staging = {"stage-workers": {"several-workers": shares}, "stage-data": None}
        averaging = {"plan-average": None, "average-workers": {"average-probs": None}}
        assert dag_names(spec, spec["root"]["dag"]) == {**staging, **between, **averaging}
        assert spec["pipelineInfo"]["displayName"].startswith("landseg: ")
        assert spec["pipelineInfo"]["description"]
