"""On a real control plane: Pod Security, scheduling, server-side apply, rights. Without one, nothing of it runs.

`LANDSEG_TEST_KUBECONFIG` names the kubeconfig of its administrator. Namespaces, nodes and CRDs are made there and
removed again, so it must be none that anybody works with: KUBECONFIG is not taken for that reason.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from kfp_pods import pods
from kubectl_stand_in import KUBECTL

from pipelines.cluster import deploy, waiting
from pipelines.dags import sizes
from pipelines.dags.compile import PIPELINES
from pipelines.dags.packages import package
from pipelines.dags.resizing import resize
from pipelines.errors import UserError

KUBECONFIG = os.environ.get("LANDSEG_TEST_KUBECONFIG", "")
pytestmark = pytest.mark.skipif(not KUBECONFIG, reason="LANDSEG_TEST_KUBECONFIG names no control plane")

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


@pytest.fixture(autouse=True)
def kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", KUBECONFIG)
    # The client has read the variable when it was imported.
    for module in (kubernetes.config, kubernetes.config.kube_config):
        monkeypatch.setattr(module, "KUBE_CONFIG_DEFAULT_LOCATION", KUBECONFIG)


def kubectl(*arguments: str, given: Any = None, fails: bool = False) -> str:
    """What kubectl prints; with `fails`, what it says when it is refused."""
    text = None if given is None else json.dumps(given)
    environment = {**os.environ, "KUBECONFIG": KUBECONFIG}
    done = subprocess.run([KUBECTL, *arguments], input=text, capture_output=True, text=True, env=environment)
    assert bool(done.returncode) == fails, done.stderr
    return done.stderr if fails else done.stdout


def make_namespace(labels: dict[str, str]) -> str:
    name = f"landseg-test-{uuid.uuid4().hex[:8]}"
    kubectl(
        "apply",
        "-f",
        "-",
        given={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
    )
    return name


@pytest.fixture
def restricted() -> Iterator[str]:
    """A namespace where Pod Security `restricted` is enforced, with the account of the stages."""
    name = make_namespace(RESTRICTED)
    kubectl("create", "serviceaccount", "landseg", "-n", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def node() -> Iterator[Any]:
    """Makes ready nodes with 64 CPUs, 256 GiB and a number of a resource for GPUs."""
    made = []

    def make(gpus: int, resource: str = "nvidia.com/gpu") -> str:
        name = f"node-{uuid.uuid4().hex[:8]}"
        kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        made.append(name)
        size = {"cpu": "64", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti", resource: str(gpus)}
        now = time.strftime("%FT%TZ", time.gmtime())
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Given",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        status = {"capacity": size, "allocatable": size, "conditions": [ready]}
        kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        kubectl("patch", "node", name, "--type=merge", "-p", '{"spec": {"taints": null}}')
        return name

    yield make
    for name in made:
        kubectl("delete", "node", name)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("given", ["", "all.scratch_class=default", "gpu.gpu_resource=nvidia.com/mig-3g.40gb"])
def test_the_pods_of_each_step_are_admitted_under_restricted(restricted: str, pipeline: str, given: str) -> None:
    text = resize(package(pipeline).read_text(), sizes.read("single-node" if given else "", [given] if given else []))
    steps = pods(text, tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}], node_selector={"pool": "gpu"})
    assert steps
    listed = {"apiVersion": "v1", "kind": "List", "items": list(steps.values())}
    said = kubectl("apply", "-n", restricted, "--dry-run=server", "-f", "-", given=listed)
    assert said.count("created (server dry run)") == len(steps)


def test_what_restricted_refuses_is_refused(restricted: str) -> None:
    """Else the test above could not fail."""
    pod = pods(package("stage-data").read_text())["exec-stage-data"]
    (main,) = [one for one in pod["spec"]["containers"] if one["name"] == "main"]
    del main["securityContext"]["runAsNonRoot"]
    said = kubectl("apply", "-n", restricted, "--dry-run=server", "-f", "-", given=pod, fails=True)
    assert 'violates PodSecurity "restricted' in said
    assert 'container "main" must set securityContext.runAsNonRoot=true' in said.replace("pod or ", "")


def reason_of(namespace: str, pod: dict[str, Any]) -> str:
    """What a pod of a run waits for, as `make submit WAIT=1` says it; empty where it was placed."""
    run_id = pod["metadata"]["labels"]["pipeline/runid"]
    kubectl("apply", "-n", namespace, "-f", "-", given=pod)
    for _ in range(100):
        state = json.loads(kubectl("get", "pod", pod["metadata"]["name"], "-n", namespace, "-o", "json"))
        if state["spec"].get("nodeName") or state["status"].get("conditions"):
            break
        time.sleep(0.1)
    return waiting.reasons(namespace, run_id).get(pod["metadata"]["name"].rpartition("-")[2], "")


def training(name: str, **parameters: Any) -> dict[str, Any]:
    """The pod of a training, labelled as KFP labels those of a run."""
    pod = pods(package("train-swin").read_text(), **parameters)["exec-train-swin"]
    pod["metadata"]["name"] = f"run-system-container-impl-{name}"
    pod["metadata"]["labels"]["pipeline/runid"] = f"run-{name}"
    return pod


def wait_until_placed(namespace: str, run_id: str) -> None:
    deadline = time.monotonic() + 60
    while waiting.reasons(namespace, run_id):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_trainings_wait_for_the_gpus_that_they_ask_for(restricted: str, node: Any) -> None:
    node(0)
    node(1)
    assert "2 GPUs: insufficient nvidia.com/gpu on 2 of 2 nodes" in reason_of(restricted, training("1"))
    assert reason_of(restricted, training("2", gpus="1")) == ""
    assert reason_of(restricted, training("3", gpus="0")) == ""
    node(2)
    wait_until_placed(restricted, "run-1")
    assert "2 GPUs: insufficient nvidia.com/gpu on 3 of 3 nodes" in reason_of(restricted, training("4"))


def test_a_training_waits_for_a_node_by_selector_and_taint(restricted: str, node: Any) -> None:
    name = node(2)
    kubectl("taint", "node", name, "nvidia.com/gpu=:NoSchedule")
    assert "untolerated taint" in reason_of(restricted, training("1"))
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    selected = training("2", tolerations=tolerations, node_selector={"pool": "gpu"})
    assert "node affinity/selector" in reason_of(restricted, selected)
    kubectl("label", "node", name, "pool=gpu")
    wait_until_placed(restricted, "run-2")


OVERLAYS = ("external-s3", "in-cluster-storage", "single-node", "kueue", "profile", "profile-storage")
KUEUE = ("ResourceFlavor", "ClusterQueue", "LocalQueue")


def walk(names: tuple[str, ...]) -> list[str]:
    """A way that goes from each name to each other exactly once (Hierholzer)."""
    left = {name: [other for other in names if other != name] for name in names}
    stack, found = [names[0]], []
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            found.append(stack.pop())
    return found[::-1]


@pytest.fixture
def kueue() -> Iterator[None]:
    """Kueue's resources by name, in the smallest form that Kubernetes takes."""
    made = []
    for kind in KUEUE:
        plural = f"{kind.lower()}s"
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1beta2", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        spec = {
            "group": "kueue.x-k8s.io",
            "names": {"kind": kind, "plural": plural},
            "scope": "Namespaced" if kind == "LocalQueue" else "Cluster",
            "versions": [version],
        }
        item = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": spec}
        kubectl("apply", "-f", "-", given={**item, "metadata": {"name": f"{plural}.kueue.x-k8s.io"}})
        made.append(f"{plural}.kueue.x-k8s.io")
    for name in made:
        kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
    yield
    for name in made:
        kubectl("delete", "crd", name)


@pytest.fixture
def ready() -> Iterator[str]:
    """A restricted namespace with the secret, and without landseg's objects."""
    name = make_namespace(RESTRICTED)
    values = {
        "AWS_ENDPOINT_URL": "https://minio.example.org:9000",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    literals = [f"--from-literal={key}={value}" for key, value in {**values, "AWS_REGION": "r"}.items()]
    kubectl("create", "secret", "generic", "landseg-storage", "-n", name, *literals)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def names(namespace: str, kind: str) -> set[str]:
    return {one.partition("/")[2] for one in kubectl("get", kind, "-n", namespace, "-o", "name").split()}


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("kueue")
def test_each_overlay_follows_each_other_and_data_stay(ready: str) -> None:
    way = walk(OVERLAYS)
    assert len(set(itertools.pairwise(way))) == len(OVERLAYS) * (len(OVERLAYS) - 1)
    storage = ""
    for overlay in way:
        deploy.run(overlay, ready)
        assert "landseg-stages" in names(ready, "networkpolicy")
        assert ("landseg-gpus" in names(ready, "resourcequota")) == (overlay in OVERLAYS[:3])
        assert ("kfp-launcher" in names(ready, "configmap")) == ("profile" not in overlay)
        found = json.loads(kubectl("get", "statefulset", "-n", ready, "-o", "json"))["items"]
        storage = storage or (found[0]["metadata"]["uid"] if found else "")
        assert [one["metadata"]["uid"] for one in found] == ([storage] if storage else [])
        assert ("landseg-storage" in names(ready, "networkpolicy")) == bool(storage)
    deploy.run("external-s3", ready, policy="none")
    assert not names(ready, "networkpolicy")


def test_what_others_have_set_is_not_overwritten(ready: str, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl("create", "configmap", "kfp-launcher", "-n", ready, "--from-literal=defaultPipelineRoot=s3://theirs")
    deploy.run("external-s3", ready)
    assert "kfp-launcher is not landseg's" in capsys.readouterr().err
    theirs = json.loads(kubectl("get", "configmap", "kfp-launcher", "-n", ready, "-o", "json"))
    assert theirs["data"] == {"defaultPipelineRoot": "s3://theirs"}
    more = '{"spec": {"hard": {"requests.nvidia.com/gpu": "8"}}}'
    for manager in ("kubectl-edit", "argocd-controller", "helm"):
        kubectl(
            "patch",
            "resourcequota",
            "landseg-gpus",
            "-n",
            ready,
            f"--field-manager={manager}",
            "--type=merge",
            "-p",
            more,
        )
        said = f'ResourceQuota landseg-gpus: conflict with "{manager}".*: .spec.hard.requests.nvidia.com/gpu: .*FORCE=1'
        with pytest.raises(UserError, match=said):
            deploy.run("external-s3", ready)
        deploy.run("external-s3", ready, force=True)
        quota = json.loads(kubectl("get", "resourcequota", "landseg-gpus", "-n", ready, "-o", "json"))
        assert quota["spec"]["hard"] == {"requests.nvidia.com/gpu": "4"}


def test_a_profiles_owner_deploys_with_their_own_rights(
    ready: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl("create", "rolebinding", "owner", "-n", ready, "--clusterrole=admin", "--user=ann")
    config = yaml.safe_load(Path(KUBECONFIG).read_text(encoding="utf-8"))
    config["users"][0]["user"]["as"] = "ann"
    (tmp_path / "ann").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "ann"))
    for overlay in ("profile", "profile-storage", "profile"):
        deploy.run(overlay, ready)
    assert names(ready, "statefulset") == {"landseg-storage"}
    with pytest.raises(UserError, match=r"resourcequotas.*forbidden.*nothing was changed"):
        deploy.run("external-s3", ready)
    assert not names(ready, "resourcequota")


def test_the_account_may_what_argo_and_kfp_do_in_a_pod_and_nothing_else(ready: str) -> None:
    deploy.run("external-s3", ready)
    account = f"--as=system:serviceaccount:{ready}:landseg"
    listed = kubectl("auth", "can-i", "--list", "-n", ready, account)
    own = {line.split()[0] for line in listed.splitlines()[1:]}
    # What everybody has: looking at oneself, and URLs such as /version.
    assert {name for name in own if "selfsubject" not in name and name[0] not in "/["} == {
        "workflowtaskresults.argoproj.io",
        "configmaps",
        "secrets",
        "runs.pipelines.kubeflow.org",
        "artifacts.pipelines.kubeflow.org",
    }
    for answer, *question in (
        ("yes", "get", "secrets/landseg-storage"),
        ("yes", "get", "configmaps/kfp-launcher"),
        ("no", "get", "secrets/other"),
        ("no", "list", "secrets"),
        ("no", "get", "pods"),
        ("no", "create", "pods"),
    ):
        kubectl("auth", "can-i", *question, "-n", ready, account, fails=answer == "no")
