"""Sizes given when compiling or submitting, read back from the YAML by KFP's own messages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from compiled_pipeline import Compiled

from pipelines.dags import sizes
from pipelines.dags.packages import package
from pipelines.dags.resizing import resize
from pipelines.dags.scheduling import QUEUEING_S
from pipelines.errors import UserError

TEXT = package("stage-data").read_text()


class Sized:
    """The steps of a pipeline with settings, by their display names."""

    def __init__(self, pipeline: str, source: str, *given: str) -> None:
        compiled = Compiled.parse(resize(package(pipeline).read_text(), sizes.read(source, list(given))))
        found = [item for item in compiled.tasks() if item[-1].HasField("executor_label")]
        self.tasks = {task.task_info.name: task for _, _, _, task, _ in found}
        labels = {task.task_info.name: component.executor_label for _, _, _, task, component in found}
        self.containers = {name: compiled.executors[label].container for name, label in labels.items()}
        self.pods = {name: compiled.pods[label] for name, label in labels.items()}


@pytest.fixture(scope="module")
def single_node() -> Sized:
    return Sized(
        "train-and-ensemble", "single-node",
        "cpu.node_selector={\"pool\":\"cpu\"}", 'all.tolerations=[{"key":"a","operator":"Exists"}]',
        "gpu.gpu_resource=nvidia.com/mig-3g.40gb", "train.timeout=90m", "train.retries=1",
        "train.attempts=5", "train.memory=48Gi",
        "average-probs.scratch_class=default", "stage-data.scratch_class=fast", "stage-data.scratch=2Ti",
        'all.labels={"kueue.x-k8s.io/priority-class":"high"}', "all.pull_secret=registry", "plan-export.cpu=500m",
    )  # fmt: skip


def test_steps_on_the_cpu_fit_one_node(single_node: Sized) -> None:
    for name in ("stage-data", "average-probs", "plan-export-swin"):
        resources = single_node.containers[name].resources
        small = name.startswith("plan")
        assert resources.resource_cpu_request == ("500m" if small else "2")
        assert resources.resource_memory_request == resources.resource_memory_limit == ("2Gi" if small else "8Gi")
        assert not resources.memory_limit  # the older field would say something else
        pod = single_node.pods[name]
        assert dict(pod.node_selector.labels) == {"pool": "cpu"}
        assert [(one.key, one.operator) for one in pod.tolerations] == [("a", "Exists")]


def test_steps_with_gpus(single_node: Sized) -> None:
    for name in ("train-swin", "export-probs-resnest"):
        resources = single_node.containers[name].resources
        assert resources.accelerator.resource_type == "nvidia.com/mig-3g.40gb"
        assert resources.resource_memory_limit == ("48Gi" if name == "train-swin" else "32Gi")
        pod = single_node.pods[name]
        assert {one.mount_path: one.size_limit for one in pod.empty_dir_mounts} == {"/dev/shm": "8Gi", "/tmp": "100Gi"}
        # Those are parameters of the run.
        assert pod.node_selector.node_selector_json.component_input_parameter.endswith("node_selector")
        (toleration,) = pod.tolerations
        assert toleration.toleration_json.component_input_parameter.endswith("tolerations")


def test_every_pod_has_labels_and_a_pull_secret(single_node: Sized) -> None:
    for pod in single_node.pods.values():
        assert pod.pod_metadata.labels["kueue.x-k8s.io/priority-class"] == "high"
        assert pod.pod_metadata.labels["app.kubernetes.io/part-of"] == "landseg"
        assert [one.secret_name for one in pod.image_pull_secret] == ["registry"]


def test_scratch_as_a_volume_of_its_own(single_node: Sized) -> None:
    (default,) = single_node.pods["average-probs"].generic_ephemeral_volume
    assert (default.mount_path, default.size, default.default_storage_class) == ("/tmp", "50Gi", True)
    (fast,) = single_node.pods["stage-data"].generic_ephemeral_volume
    assert (fast.size, fast.storage_class_name, list(fast.access_modes)) == ("2Ti", "fast", ["ReadWriteOnce"])
    assert not single_node.pods["stage-data"].empty_dir_mounts
    (told,) = [one.value for one in single_node.containers["stage-data"].env if one.name == "LANDSEG_SCRATCH_BYTES"]
    assert int(told) == 2 << 40


def test_retries_have_the_time_that_they_need(single_node: Sized) -> None:
    assert single_node.pods["train-swin"].active_deadline_seconds == 90 * 60
    policy = single_node.tasks["train-swin"].retry_policy
    assert policy.max_retry_count == 1
    assert policy.backoff_max_duration.seconds == 2 * 90 * 60 + QUEUEING_S
    other = single_node.tasks["average-probs"].retry_policy
    assert other.backoff_max_duration.seconds == 3 * 12 * 3600 + QUEUEING_S


def test_attempts_are_those_of_the_step(single_node: Sized) -> None:
    for name, number in (("train-swin", "5"), ("stage-data", "3")):
        arguments = list(single_node.containers[name].args)
        assert arguments[arguments.index("--attempts") + 1] == number
    with pytest.raises(UserError, match="expected a whole number from 1 to 20, found '0'"):
        sizes.read("", ["train.attempts=0"])


def test_without_settings_the_text_stays() -> None:
    assert resize(TEXT, sizes.read("", [])) == TEXT


def test_a_limit_is_never_below_its_request() -> None:
    assert Sized("stage-data", "", "cpu.cpu=16").containers["stage-data"].resources.resource_cpu_limit == "16"
    assert Sized("stage-data", "", "cpu.cpu_limit=1").containers["stage-data"].resources.resource_cpu_request == "1"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("train.memory=48", "train.memory: expected a size such as 8Gi, found '48'"),
        ("train.memory=48GB", "expected a size such as 8Gi"),
        ("train.cpu=0", "expected a number of CPUs"),
        ("train.timeout=90", "train.timeout: expected a time such as 90m or 12h, found '90'"),
        ("train.retries=-1", "expected a whole number up to 100"),
        ("train.memry=1Gi", "train has no 'memry', expected one of cpu, "),
        ("trian.memory=1Gi", "expected one of all, cpu, gpu, plan-stage, stage-data, train, plan-export"),
        ("memory=1Gi", "SET: expected STEP.NAME=VALUE, found 'memory=1Gi'"),
        ("train.memory", "SET: expected STEP.NAME=VALUE"),
        ("cpu.node_selector=pool", "expected labels such as"),
        ('cpu.tolerations={"key":"a"}', "expected a list such as"),
        ('cpu.tolerations=[{"kye":"a"}]', "expected a list such as"),
        ('cpu.tolerations=[{"effect":"noschedule","operator":"Exists"}]', "expected a list such as"),
        ('cpu.node_selector={"pool":1}', "expected labels such as"),
        ('cpu.node_selector={"a pool":"x"}', "expected labels such as"),
        ("gpu.node_selector={}", "steps with GPUs have it as a parameter: PARAMS='node_selector=…'"),
        ("gpu.gpu_resource=gpu", "expected a resource such as nvidia.com/mig-3g.40gb"),
    ],
)
def test_wrong_settings(given: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        sizes.read("", [given])
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [None, "[train", "train = 1", "[trian]\n"])
def test_wrong_files(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "sizes.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="SIZES: expected"):
        sizes.read(str(path), [])


@pytest.mark.timeout(20)
def test_files_without_an_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long.toml").write_text(f"# {'x' * (1 << 20)}\n")
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path / "long.toml"):
        with pytest.raises(UserError, match=r"SIZES: expected .*: it is (no regular file|longer than)"):
            sizes.read(str(path), [])
