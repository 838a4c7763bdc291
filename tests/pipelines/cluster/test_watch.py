"""Following a run: what people are told while they wait."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import kubernetes
import pytest
from kfp_server import Fault, KfpServer
from kfp_server_api import PipelineTaskDetailChildTask as Child
from kfp_server_api import V2beta1PipelineTaskDetail as Task

from pipelines.arguments import parse_parameters
from pipelines.cluster import submit, waiting, watch
from pipelines.dags.packages import package
from pipelines.errors import UserError


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise kubernetes.config.ConfigException

    monkeypatch.setattr(kubernetes.config, "load_config", none)


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer() as running:
        yield running


def started(server: KfpServer) -> str:
    text = package("stage-data").read_text()
    parameters = parse_parameters(package("stage-data"), ["source=s3://raw", "storage_uri=s3://landseg"])
    return submit.submit(submit.Target(server.endpoint), "stage-data", text, parameters, "first").run_id


def test_waiting_follows_the_steps(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    submission = started(server)
    capsys.readouterr()
    assert watch.wait(submit.Target(server.endpoint), submission, timeout_s=30, poll_s=0.01) == "SUCCEEDED"
    lines = capsys.readouterr().err.splitlines()
    notes = [line for line in lines if line.startswith("note: what steps wait for is not shown: ")]
    assert len(notes) == 1  # there is no kubeconfig
    lines.remove(notes[0])
    assert all(re.match(r"\d\d:\d\d:\d\dZ ", line) for line in lines)
    assert [line.partition(" ")[2] for line in lines] == [
        "stage-data: pending",
        "stage-data: running",
        "stage-data: succeeded",
    ]


def test_a_short_outage_while_waiting_is_sat_out(server: KfpServer) -> None:
    submission = started(server)
    server.faults["/" + submission] = Fault(status=503, times=3)
    assert watch.wait(submit.Target(server.endpoint), submission, timeout_s=30, poll_s=0.01) == "SUCCEEDED"


def test_waiting_ends_in_time(server: KfpServer) -> None:
    submission = started(server)
    with pytest.raises(UserError, match="has not ended after 0 s and continues"):
        watch.wait(submit.Target(server.endpoint), submission, timeout_s=0)


def node(pod: str, name: str, state: str, *children: str, parent: str = "") -> Task:
    below = [Child(pod_name=child) for child in children]
    return Task(
        task_id=f"id-{pod}", pod_name=pod, display_name=name, state=state, child_tasks=below, parent_task_id=parent
    )


def workflow(train: str, attempts: int = 1) -> list[Task]:
    """Nodes as Argo has them: a task's children are its containers, and the tasks that come after it."""
    retried = [f"r-e{number}" for number in range(attempts)]
    return [
        node("r", "landseg-x7f", "RUNNING", "r-1"),
        node("r-1", "root-driver", "SUCCEEDED", "r-2"),
        node("r-2", "root", "RUNNING", "r-3"),
        node("r-3", "stage-data-driver", "SUCCEEDED", "r-4"),
        node("r-4", "stage-data", "SUCCEEDED", "r-5", "r-6"),
        node("r-5", "executor", "SUCCEEDED"),
        node("r-6", "swin-driver", "SUCCEEDED", "r-7"),
        node("r-7", "swin", "RUNNING", "r-8"),
        node("r-8", "train-swin-driver", "SUCCEEDED", "r-9"),
        node("r-9", "train-swin", "RUNNING", "r-10"),
        node("r-10", "executor", "RUNNING", *retried),
        *(node(pod, f"executor({n})", "FAILED" if n + 1 < attempts else train) for n, pod in enumerate(retried)),
    ]


def test_steps_have_their_own_names_and_the_states_of_their_containers() -> None:
    assert watch.step_states(workflow("PENDING")) == {
        "stage-data": ("succeeded", "4"),
        "train-swin": ("pending", "e0"),
    }
    assert watch.step_states(workflow("RUNNING", attempts=2))["train-swin"] == ("running", "e1")


def test_steps_that_share_a_name_are_numbered() -> None:
    workers = [node(f"r-{n}", "export-probs-swin", "RUNNING", parent="id-r-0") for n in (1, 2)]
    states = watch.step_states([node("r-0", "workers-swin", "RUNNING"), *workers])
    assert states == {"export-probs-swin": ("running", "1"), "export-probs-swin #2": ("running", "2")}


def pod(name: str, phase: str, message: str = "", waiting: str = "", words: tuple[str, ...] = ()) -> Any:
    condition = SimpleNamespace(type="PodScheduled", status="False" if message else "True", message=message, reason="")
    state = SimpleNamespace(waiting=SimpleNamespace(reason=waiting, message="of r.example.org/x") if waiting else None)
    statuses = [SimpleNamespace(state=state)]
    status = SimpleNamespace(phase=phase, conditions=[condition], container_statuses=statuses)
    resources = SimpleNamespace(requests={"nvidia.com/gpu": "2", "cpu": "16", "memory": "64Gi"})
    main = SimpleNamespace(name="main", resources=resources, command=list(words), args=[])
    return SimpleNamespace(metadata=SimpleNamespace(name=name), status=status, spec=SimpleNamespace(containers=[main]))


QUOTA = (
    'pods "x" is forbidden: exceeded quota: landseg-gpus, requested: requests.nvidia.com/gpu=2, '
    "used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4"
)


class Namespace:
    """The pods and workflows of a namespace, in place of Kubernetes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pods: list[Any], messages: dict[str, str]) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refuses = False
        nodes = {key: {"id": key, "type": "Pod", "phase": "Pending", "message": text} for key, text in messages.items()}
        namespace = self

        class Pods:
            def __init__(self, _: Any) -> None:
                pass

            def list_namespaced_pod(self, name: str, label_selector: str, **_: Any) -> Any:
                namespace.asked.append((name, label_selector))
                if namespace.refuses:
                    raise kubernetes.client.ApiException(403, "Forbidden")
                return SimpleNamespace(items=pods)

        class Workflows:
            def __init__(self, _: Any) -> None:
                pass

            def list_namespaced_custom_object(self, *_: Any, **__: Any) -> Any:
                if namespace.refuses:
                    raise kubernetes.client.ApiException(403, "Forbidden")
                return {"items": [{"status": {"nodes": nodes}}, {}]}

        monkeypatch.setattr(kubernetes.config, "load_config", lambda: None)
        monkeypatch.setattr(kubernetes.client, "CoreV1Api", Pods)
        monkeypatch.setattr(kubernetes.client, "CustomObjectsApi", Workflows)


def test_what_a_step_waits_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient nvidia.com/gpu, "
        "1 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not "
        "helpful."
    )
    pods = [
        pod("run-system-container-impl-e0", "Pending", message),
        pod("run-system-container-impl-5", "Running"),
        pod("run-system-container-impl-6", "Pending", waiting="ImagePullBackOff"),
        pod("run-system-container-impl-7", "Pending", waiting="ContainerCreating"),
        pod("run-system-container-impl-8", "Pending", "no nodes available to schedule pods"),
    ]
    namespace = Namespace(monkeypatch, pods, {"run-9": QUOTA})
    reasons = watch._Reasons("team", "id")
    states = reasons.added_to(watch.step_states(workflow("PENDING")))
    assert states["train-swin"] == (
        "pending: 2 GPUs: insufficient nvidia.com/gpu on 2 of 3 nodes; 16 CPUs: insufficient cpu on 1 of 3 nodes; "
        "1 node(s) had untolerated taint(s)"
    )
    assert namespace.asked == [("team", "pipeline/runid=id")]
    found = waiting.reasons("team", "id")
    assert found["6"] == "ImagePullBackOff: of r.example.org/x"
    assert "7" not in found
    assert found["8"] == "no nodes available to schedule pods"
    assert found["9"] == "2 GPUs: quota landseg-gpus has 4 of 4 in use"
    reasons.added_to(watch.step_states(workflow("RUNNING")))
    assert len(namespace.asked) == 2  # the cluster is asked only while a step waits


def test_that_pods_cannot_be_read_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace = Namespace(monkeypatch, [], {})
    namespace.refuses = True
    reasons = watch._Reasons("team", "id")
    for _ in range(2):
        assert reasons.added_to({"stage-data": ("pending", "1")}) == {"stage-data": "pending"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "note: what steps wait for is not shown: pods in team cannot be read (the cluster answered 403 Forbidden)"
    )


def test_stages_that_wait_are_found_by_run_and_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(run_id: str, root: str, *words: str) -> Any:
        given = {"run_id": run_id, "storage_uri": root} if run_id else {"storage_uri": root}
        text = json.dumps({"inputs": {"parameterValues": given}})
        return pod("p-1", "Pending", "no nodes", words=("launch", "--executor_input", text, "--", "landseg", *words))

    pods = [
        stage("first", "s3://landseg", "train", "--name", "swin"),
        stage("second", "s3://landseg", "train", "--name", "resnest"),
        stage("first", "s3://other", "average-probs"),
        stage("", "s3://landseg/", "stage-data"),
        pod("p-2", "Pending", "no nodes"),
    ]
    Namespace(monkeypatch, pods, {})
    found = waiting.stages("team", "s3://landseg", "first")
    assert found == ["stage-data: pending: no nodes", "train swin: pending: no nodes"]
