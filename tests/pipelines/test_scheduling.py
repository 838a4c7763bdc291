"""What each step asks of the cluster, read back from the compiled YAML."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pipelines.compile import package

GPUS = {
    "train-swin": 2,
    "train-resnest": 2,
    "export-probs-swin": 1,
    "export-probs-resnest": 1,
    "stage-data": 0,
    "average-probs": 0,
}


class Step:
    """One task of a compiled pipeline with everything that decides where it runs."""

    def __init__(self, spec: Any, platform: Any, task: Any) -> None:
        component = spec["components"][task["componentRef"]["name"]]
        label = component["executorLabel"]
        self.task = task
        self.name = task["taskInfo"]["name"]
        self.container = spec["deploymentSpec"]["executors"][label]["container"]
        self.resources = self.container["resources"]
        self.pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]
        self.volumes = {mount["mountPath"]: mount for mount in self.pod["emptyDirMounts"]}


def steps(pipeline: str) -> dict[str, Step]:
    spec, platform = yaml.safe_load_all(package(pipeline).read_text())
    components = spec["components"]
    dags = [spec["root"]["dag"], *(component["dag"] for component in components.values() if "dag" in component)]
    tasks = [task for dag in dags for task in dag["tasks"].values()]
    found = [Step(spec, platform, task) for task in tasks if "dag" not in components[task["componentRef"]["name"]]]
    return {step.name: step for step in found}


TRAIN, PREDICT = steps("train-and-ensemble"), steps("predict")
ALL = [
    pytest.param(step, id=f"{name}-{step.name}")
    for name, group in (("t", TRAIN), ("p", PREDICT))
    for step in group.values()
]


def gibibytes(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


def test_the_steps() -> None:
    assert set(TRAIN) == set(GPUS)
    assert set(PREDICT) == {name for name in GPUS if not name.startswith("train-")}


@pytest.mark.parametrize("step", ALL)
def test_gpus(step: Step) -> None:
    accelerator = step.resources.get("accelerator", {})
    assert int(accelerator.get("resourceCount", 0)) == GPUS[step.name]
    assert accelerator.get("resourceType", "nvidia.com/gpu") == "nvidia.com/gpu"


@pytest.mark.parametrize("step", ALL)
def test_requests_and_limits(step: Step) -> None:
    assert int(step.resources["resourceCpuRequest"]) <= int(step.resources["resourceCpuLimit"])
    assert step.resources["resourceMemoryRequest"] == step.resources["resourceMemoryLimit"]
    assert "sizeLimit" in step.volumes["/tmp"]


@pytest.mark.parametrize("step", ALL)
def test_shared_memory_is_in_memory_and_leaves_room_for_the_processes(step: Step) -> None:
    assert ("/dev/shm" in step.volumes) == (GPUS[step.name] > 0)
    if shm := step.volumes.get("/dev/shm"):
        assert shm["medium"] == "Memory"
        assert gibibytes(shm["sizeLimit"]) * 2 <= gibibytes(step.resources["resourceMemoryLimit"])


@pytest.mark.parametrize("step", ALL)
def test_only_steps_with_gpus_are_bound_to_nodes(step: Step) -> None:
    bound = {"nodeSelector", "tolerations"} & set(step.pod)
    assert bound == ({"nodeSelector", "tolerations"} if GPUS[step.name] else set())
    if bound:
        assert step.pod["nodeSelector"]["nodeSelectorJson"] == {"componentInputParameter": "node_selector"}
        assert step.pod["tolerations"] == [{"tolerationJson": {"componentInputParameter": "tolerations"}}]


@pytest.mark.parametrize("step", ALL)
def test_timeouts_and_retries(step: Step) -> None:
    assert int(step.pod["activeDeadlineSeconds"]) > 0
    assert step.task["retryPolicy"]["maxRetryCount"] >= 2
    assert step.task["retryPolicy"]["backoffFactor"] == 2


@pytest.mark.parametrize("step", ALL)
def test_credentials_come_from_a_secret_and_never_from_parameters(step: Step) -> None:
    (secret,) = step.pod["secretAsEnv"]
    assert {item["envVar"] for item in secret["keyToEnv"]} >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert "env" not in step.container


def test_both_trainings_may_run_at_once() -> None:
    spec, _ = yaml.safe_load_all(package("train-and-ensemble").read_text())
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks["swin"]["dependentTasks"] == tasks["resnest"]["dependentTasks"] == ["stage-data"]
