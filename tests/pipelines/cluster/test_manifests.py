"""The manifests, built by kustomize and validated strictly against the schemas of Kubernetes, offline."""

from __future__ import annotations

import copy

import jsonschema
import kubernetes_validate
import pytest
import yaml
from built_manifests import BUILT, CLUSTER_SCOPED, KUEUE, MANIFESTS, OVERLAYS, find, validate

from pipelines.dags.packages import package
from pipelines.dags.scheduling import STORAGE_ENV, STORAGE_SECRET

WHOLE = [overlay for overlay in OVERLAYS if not overlay.startswith("profile")]
"""Overlays for a namespace of KFP's own; a profile brings its account, its quota and KFP's settings."""
INSIDE = ["in-cluster-storage", "profile-storage", "single-node"]


def test_the_overlays() -> None:
    assert OVERLAYS == ["external-s3", "in-cluster-storage", "kueue", "profile", "profile-storage", "single-node"]


@pytest.mark.parametrize("overlay", ["profile", "profile-storage"])
def test_a_profile_gets_what_its_owner_may_make(overlay: str) -> None:
    assert {item["kind"] for item in BUILT[overlay]} <= {"NetworkPolicy", "Service", "StatefulSet"}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", ["1.30.0", kubernetes_validate.latest_version()])
def test_every_object_is_valid(overlay: str, version: str) -> None:
    for item in BUILT[overlay]:
        validate(item, version)
        assert ("namespace" in item["metadata"]) == (item["kind"] not in CLUSTER_SCOPED)


def test_the_validation_is_strict() -> None:
    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dta": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.30.0", strict=True)
    for field, value in (("cohort", "x"), ("queueingStrategy", "LIFO"), ("resourceGroups", [])):
        queue = copy.deepcopy(find("kueue", "ClusterQueue", "landseg"))
        queue["spec"][field] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(queue, KUEUE["ClusterQueue"])


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


@pytest.mark.parametrize("overlay", WHOLE)
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


@pytest.mark.parametrize("overlay", WHOLE)
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


@pytest.mark.parametrize("overlay", INSIDE)
def test_the_storage_runs_without_privileges(overlay: str) -> None:
    pod = find(overlay, "StatefulSet", "landseg-storage")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["image"].startswith("docker.io/")  # Podman and CRI-O guess no registry
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]
    assert pod["containers"][0]["livenessProbe"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
