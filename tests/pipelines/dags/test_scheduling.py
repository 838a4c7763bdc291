"""What each step requests of the cluster, read back from the compiled YAML; the table of docs/kubeflow.md."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from compiled_pipeline import Compiled

from components.images import ROOT
from pipelines.dags.packages import package
from pipelines.dags.scheduling import POD_LABELS, SETTINGS, STORAGE_ENV, STORAGE_SECRET
from pipelines.dags.step_limits import LIMITS_VARIABLE, SCRATCH_VARIABLE

GPUS = {
    "stage-data": 0,
    "train-swin": 2,  # the default of the parameter gpus
    "train-resnest": 2,
    "plan-export-swin": 0,
    "plan-export-resnest": 0,
    "export-probs-swin": 1,
    "export-probs-resnest": 1,
    "plan-stage": 0,
    "stage-data-share": 0,
    "plan-average": 0,
    "average-probs": 0,
    "plan-export": 0,
    "export-probs": 1,
}
"""By step; the last two are those of `predict`, for all models."""
OF_PREDICT = {
    "plan-stage",
    "stage-data-share",
    "stage-data",
    "plan-export",
    "export-probs",
    "plan-average",
    "average-probs",
}


class Gpus:
    """How many GPUs a task gets, where a parameter says so: `parameter` is empty where a number is fixed."""

    def __init__(self, compiled: Compiled, dag_name: str, task: Any, count: str) -> None:
        match = re.fullmatch(r"\{\{\$\.inputs\.parameters\['([\w-]+)'\]\}\}", count)
        self.parameter, self.default, self.type = "", "", ""
        if match:
            source = task.inputs.parameters[match[1]].component_input_parameter
            (self.parameter,) = compiled.origins(dag_name, source)
            declared = compiled.spec.root.input_definitions.parameters[self.parameter]
            self.default = declared.default_value.string_value
            self.type = (
                type(declared)
                .DESCRIPTOR.fields_by_name["parameter_type"]
                .enum_type.values_by_number[declared.parameter_type]
                .name
            )


class Step:
    """One task of a compiled pipeline with everything that decides where it runs."""

    def __init__(self, compiled: Compiled, dag_name: str, task: Any, component: Any) -> None:
        self.name, self.task = task.task_info.name, task
        self.container = compiled.executors[component.executor_label].container
        self.resources = self.container.resources
        self.pod = compiled.pods[component.executor_label]
        self.volumes = {mount.mount_path: mount for mount in self.pod.empty_dir_mounts}
        node_selector = self.pod.node_selector.node_selector_json.component_input_parameter
        tolerations = [item.toleration_json.component_input_parameter for item in self.pod.tolerations]
        given = [name for name in (node_selector, *tolerations) if name]
        self.gpus = Gpus(compiled, dag_name, task, self.resources.accelerator.resource_count)
        self.placed_by = [name for key in given for name in compiled.origins(dag_name, key)]


def steps(pipeline: str) -> dict[str, Step]:
    compiled = Compiled.parse(package(pipeline).read_text())
    tasks = [item for item in compiled.tasks() if item[-1].HasField("executor_label")]
    return {step.name: step for step in (Step(compiled, dag, task, component) for dag, _, _, task, component in tasks)}


TRAIN, PREDICT = steps("train-and-ensemble"), steps("predict")
ALONE = {name: steps(name) for name in ("stage-data", "train-swin", "train-resnest", "export-probs", "average-probs")}
ALL = [
    pytest.param(step, id=f"{name}-{step.name}")
    for name, group in (("t", TRAIN), ("p", PREDICT))
    for step in group.values()
]


def gibibytes(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


def test_the_steps() -> None:
    assert set(TRAIN) == set(GPUS) - {"plan-export", "export-probs"}
    assert set(PREDICT) == OF_PREDICT


@pytest.mark.parametrize("step", ALL)
def test_gpus(step: Step) -> None:
    accelerator = step.resources.accelerator
    if step.name.startswith("train-"):
        found = (step.gpus.parameter, step.gpus.type, step.gpus.default)
        assert found == ("gpus", "STRING", str(GPUS[step.name]))  # KFP resolves a number here from text alone
    else:
        assert int(accelerator.resource_count or 0) == GPUS[step.name]
    assert accelerator.resource_type == ("nvidia.com/gpu" if GPUS[step.name] else "")


@pytest.mark.parametrize("step", ALL)
def test_requests_and_limits(step: Step) -> None:
    assert 0 < int(step.resources.resource_cpu_request) <= int(step.resources.resource_cpu_limit)
    assert gibibytes(step.resources.resource_memory_request) == gibibytes(step.resources.resource_memory_limit)
    assert gibibytes(step.volumes["/tmp"].size_limit) > 0
    assert step.volumes["/tmp"].medium == ""


@pytest.mark.parametrize("step", ALL)
def test_shared_memory_is_in_memory_and_leaves_room_for_the_processes(step: Step) -> None:
    assert ("/dev/shm" in step.volumes) == (GPUS[step.name] > 0)
    if shm := step.volumes.get("/dev/shm"):
        assert shm.medium == "Memory"
        assert gibibytes(shm.size_limit) * 2 <= gibibytes(step.resources.resource_memory_limit)


@pytest.mark.parametrize("step", ALL)
def test_only_steps_with_gpus_are_bound_to_nodes_and_by_the_pipelines_parameters(step: Step) -> None:
    assert step.placed_by == (["node_selector", "tolerations"] if GPUS[step.name] else [])


@pytest.mark.parametrize("step", ALL)
def test_a_retry_may_start_and_end_however_late_the_attempts_before_it_ended(step: Step) -> None:
    assert step.pod.active_deadline_seconds >= 3600
    policy = step.task.retry_policy
    assert policy.max_retry_count >= 2
    assert policy.backoff_duration.seconds == 60
    assert policy.backoff_factor == 2
    # Argo counts it from the start of the first attempt. Pods that are Pending have no running deadline of their own.
    attempts_s = (policy.max_retry_count + 1) * step.pod.active_deadline_seconds
    assert policy.backoff_max_duration.seconds >= attempts_s + 7 * 24 * 3600


@pytest.mark.parametrize("step", ALL)
def test_containers_are_not_root(step: Step) -> None:
    assert step.pod.security_context.run_as_non_root is True
    assert not step.pod.security_context.HasField("run_as_user")  # OpenShift assigns one


@pytest.mark.parametrize("step", ALL)
def test_credentials_come_from_a_secret_and_never_from_parameters(step: Step) -> None:
    secret, temporary = step.pod.secret_as_env
    assert secret.secret_name == temporary.secret_name == STORAGE_SECRET
    assert [item.env_var for item in secret.key_to_env] == list(STORAGE_ENV)
    assert [item.env_var for item in temporary.key_to_env] == ["AWS_SESSION_TOKEN"]
    assert (secret.optional, temporary.optional) == (False, True)
    size = step.volumes["/tmp"].size_limit.removesuffix("Gi")
    others = {item.name: item.value for item in step.container.env if item.name != LIMITS_VARIABLE}
    assert others == {SCRATCH_VARIABLE: str(int(size) << 30)}


@pytest.mark.parametrize("step", ALL)
def test_settings_and_certificates_come_from_what_need_not_exist(step: Step) -> None:
    (settings,), (ca,) = step.pod.config_map_as_env, step.pod.config_map_as_volume
    assert settings.optional
    assert ca.optional
    template, certificates = yaml.safe_load_all((ROOT / "manifests" / "settings.yaml").read_text())
    assert settings.config_map_name == template["metadata"]["name"] == SETTINGS
    assert {item.env_var for item in settings.key_to_env} == {*template["data"], "SSL_CERT_FILE"}
    assert all(item.env_var == item.config_map_key for item in settings.key_to_env)
    assert ca.config_map_name == certificates["metadata"]["name"]
    assert f"{ca.mount_path}/{next(iter(certificates['data']))}" in (ROOT / "manifests" / "settings.yaml").read_text()


@pytest.mark.parametrize("step", ALL)
def test_pods_carry_the_labels_of_the_network_policy(step: Step) -> None:
    assert dict(step.pod.pod_metadata.labels) == POD_LABELS


@pytest.mark.parametrize("name", ALONE)
def test_a_step_by_itself_asks_for_the_same(name: str) -> None:
    (step,) = ALONE[name].values()
    whole = TRAIN[name if name in TRAIN else f"{name}-swin"]
    assert step.resources == whole.resources
    assert step.pod.empty_dir_mounts == whole.pod.empty_dir_mounts
    assert step.pod.active_deadline_seconds == whole.pod.active_deadline_seconds
    assert step.task.retry_policy == whole.task.retry_policy
    assert step.placed_by == whole.placed_by


def test_both_trainings_may_run_at_once() -> None:
    tasks = Compiled.parse(package("train-and-ensemble").read_text()).spec.root.dag.tasks
    assert list(tasks["swin"].dependent_tasks) == list(tasks["resnest"].dependent_tasks) == ["stage-data"]


def row(step: Step) -> str:
    """What the documentation says of a step, from what is compiled."""
    gpus, shm = GPUS[step.name], step.volumes.get("/dev/shm")
    base = step.name.removesuffix("-swin").removesuffix("-resnest")  # both models request the same
    cells = [
        "train-swin, train-resnest" if base == "train" else base,
        f"{gpus} on one node" if gpus > 1 else str(gpus),
        f"{step.resources.resource_cpu_request} ({step.resources.resource_cpu_limit})",
        f"{gibibytes(step.resources.resource_memory_limit)} GiB",
        f"{gibibytes(shm.size_limit)} GiB" if shm else "",
        f"{gibibytes(step.volumes['/tmp'].size_limit)} GiB",
        f"{step.pod.active_deadline_seconds // 3600} h",
        str(step.task.retry_policy.max_retry_count),
    ]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def test_the_table_in_the_documentation() -> None:
    text = (ROOT / "docs" / "kubeflow.md").read_text()
    section = text.partition("## What each step requests")[2].partition("\n##")[0]
    documented = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert sorted(documented) == sorted({row(step) for step in TRAIN.values()})
