"""The manifests, built by kustomize and validated strictly against the schemas of Kubernetes, offline."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.images import ROOT
from pipelines.compile import package
from pipelines.scheduling import STORAGE_ENV, STORAGE_SECRET

MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
KUBECTL = str(Path(sysconfig.get_path("scripts")) / "kubectl")
CLUSTER_SCOPED = {"Namespace", "ClusterQueue", "ResourceFlavor"}
KUEUE = {"ClusterQueue", "LocalQueue", "ResourceFlavor"}  # custom resources: kubernetes has no schema for them


def build(overlay: str) -> list[Any]:
    folder = MANIFESTS / "overlays" / overlay
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


BUILT = {overlay: build(overlay) for overlay in OVERLAYS}


def find(overlay: str, kind: str, name: str) -> Any:
    (found,) = [item for item in BUILT[overlay] if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def test_the_overlays() -> None:
    assert OVERLAYS == ["external-s3", "in-cluster-storage", "kueue", "single-node"]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", ["1.30.0", kubernetes_validate.latest_version()])
def test_every_object_is_valid(overlay: str, version: str) -> None:
    for item in BUILT[overlay]:
        if item["kind"] not in KUEUE:
            kubernetes_validate.validate(item, version, strict=True)
        assert ("namespace" in item["metadata"]) == (item["kind"] not in CLUSTER_SCOPED)


def test_the_validation_is_strict() -> None:
    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dta": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.30.0", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_deployed(overlay: str) -> None:
    assert not [item for item in BUILT[overlay] if item["kind"] == "Secret"]


def test_the_secret_is_a_template_without_values() -> None:
    secret = yaml.safe_load((MANIFESTS / "storage-secret.yaml").read_text())
    kubernetes_validate.validate(secret, "1.30.0", strict=True)
    assert secret["metadata"]["name"] == STORAGE_SECRET
    assert set(secret["stringData"]) == set(STORAGE_ENV)
    assert not any(value for key, value in secret["stringData"].items() if key != "AWS_REGION")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_policy_holds_the_pods_of_the_pipelines(overlay: str) -> None:
    policy = find(overlay, "NetworkPolicy", "landseg-stages")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    assert all(rule.get("to") and rule.get("ports") for rule in policy["egress"])
    _, platform = yaml.safe_load_all(package("train-and-ensemble").read_text())
    for pod in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert policy["podSelector"]["matchLabels"].items() <= pod["podMetadata"]["labels"].items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kfp_finds_its_store_with_the_stages_secret(overlay: str) -> None:
    launcher = find(overlay, "ConfigMap", "kfp-launcher")["data"]
    assert launcher["defaultPipelineRoot"].startswith("s3://")
    provider = yaml.safe_load(launcher["providers"])["s3"]["default"]
    assert provider["credentials"]["secretRef"] == {
        "secretName": STORAGE_SECRET,
        "accessKeyKey": "AWS_ACCESS_KEY_ID",
        "secretKeyKey": "AWS_SECRET_ACCESS_KEY",
    }
    assert "://" not in provider["endpoint"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_account_may_read_its_secret_and_no_other(overlay: str) -> None:
    rules = find(overlay, "Role", "landseg")["rules"]
    (secrets,) = [rule for rule in rules if "secrets" in rule["resources"]]
    assert STORAGE_SECRET in secrets["resourceNames"]
    assert secrets["verbs"] == ["get"]
    assert not any("*" in rule["verbs"] or "*" in rule["resources"] for rule in rules)
    (subject,) = find(overlay, "RoleBinding", "landseg")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "landseg", "namespace": "kubeflow"}


@pytest.mark.parametrize(("overlay", "gpus"), [("external-s3", 4), ("in-cluster-storage", 4), ("single-node", 2)])
def test_gpus_for_two_trainings_or_one(overlay: str, gpus: int) -> None:
    quota = find(overlay, "ResourceQuota", "landseg-gpus")["spec"]["hard"]
    assert quota == {"requests.nvidia.com/gpu": str(gpus)}


def test_kueue_counts_the_gpus_in_place_of_the_quota() -> None:
    assert not [item for item in BUILT["kueue"] if item["kind"] == "ResourceQuota"]
    queue = find("kueue", "LocalQueue", "landseg")
    assert queue["spec"]["clusterQueue"] == find("kueue", "ClusterQueue", "landseg")["metadata"]["name"]
    (group,) = find("kueue", "ClusterQueue", "landseg")["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    assert flavor["name"] == find("kueue", "ResourceFlavor", "landseg-gpu")["metadata"]["name"]
    assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]


@pytest.mark.parametrize("overlay", ["in-cluster-storage", "single-node"])
def test_the_storage_runs_without_privileges(overlay: str) -> None:
    pod = find(overlay, "StatefulSet", "landseg-storage")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]
