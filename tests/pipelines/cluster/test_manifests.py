"""The manifests, built by kustomize and validated strictly against the schemas of Kubernetes, offline."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from components.images import ROOT
from pipelines.cluster import deploy
from pipelines.dags.compile import package
from pipelines.dags.scheduling import STORAGE_ENV, STORAGE_SECRET
from pipelines.errors import UserError

MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
KUBECTL = str(Path(sysconfig.get_path("scripts")) / "kubectl")
CLUSTER_SCOPED = {"Namespace", "ClusterQueue", "ResourceFlavor"}

NAME = {
    "type": "string",
    "maxLength": 253,
    "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
QUANTITY = {"type": ["integer", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"}


def strict(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    properties = {**required, **optional}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def several(items: Any, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def kueue_object(kind: str, **spec: Any) -> dict[str, Any]:
    version = {"const": "kueue.x-k8s.io/v1beta2"}  # of Kueue 0.15 and newer; 0.20 serves no other
    return strict({"apiVersion": version, "kind": {"const": kind}, "metadata": {"type": "object"}, **spec})


SELECTOR = strict({}, matchLabels={"type": "object", "additionalProperties": {"type": "string"}})
GROUP = strict(
    {
        "coveredResources": several({"type": "string"}, 64),
        "flavors": several(
            strict(
                {"name": NAME, "resources": several(strict({"name": {"type": "string"}, "nominalQuota": QUANTITY}), 64)}
            ),
            64,
        ),
    }
)
KUEUE = {  # Kueue's custom resources, as far as the manifests use them: Kubernetes has no schemas for them
    "ResourceFlavor": kueue_object("ResourceFlavor"),
    "LocalQueue": kueue_object("LocalQueue", spec=strict({"clusterQueue": NAME})),
    "ClusterQueue": kueue_object(
        "ClusterQueue",
        spec=strict(
            {"resourceGroups": several(GROUP, 16)},
            namespaceSelector=SELECTOR,
            queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
        ),
    ),
}


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
        if item["kind"] in KUEUE:
            jsonschema.validate(item, KUEUE[item["kind"]])
        else:
            kubernetes_validate.validate(item, version, strict=True)
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


KUBECTL_STAND_IN = """#!{python}
import json, os, sys
with open("{log}", "a") as file:
    file.write(json.dumps([sys.argv[1:], sys.stdin.read() if "-" in sys.argv else ""]) + chr(10))
if sys.argv[1] == "kustomize":
    os.execv("{real}", ["kubectl", *sys.argv[1:]])
if "secret" in sys.argv and "{secret}" == "":
    sys.exit('Error from server (NotFound): secrets "landseg-storage" not found')
if "apply" in sys.argv and "{refuses}" and "--dry-run=server" in sys.argv:
    sys.exit("{refuses}")
if "kfp-launcher" in sys.argv:
    print(json.dumps({launcher}) if {launcher} else "")
if "statefulset" in sys.argv:
    print(json.dumps({storage}) if {storage} else "")
if "endpointslices" in sys.argv:
    print(json.dumps({slices}))
"""


class Cluster:
    """A kubectl that builds as the real one does, answers for a cluster, and keeps what it is asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, secret: str = "there", **answers: Any) -> None:
        self.log = folder / "log"
        slices = {
            "items": [
                {"endpoints": [{"addresses": ["10.1.0.1"]}, {"addresses": ["10.1.0.2"]}], "ports": [{"port": 443}]}
            ]
        }
        program = folder / "kubectl"
        program.write_text(
            KUBECTL_STAND_IN.format(
                python=sys.executable,
                log=self.log,
                real=KUBECTL,
                secret=secret,
                slices=slices,
                **{"refuses": "", "launcher": None, "storage": None, **answers},
            )
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def applied(self) -> list[Any]:
        calls = [json.loads(line) for line in self.log.read_text().splitlines()]
        (tried, text), (done, same) = [(arguments, text) for arguments, text in calls if arguments[0] == "apply"]
        assert tried == [*done, "--dry-run=server"]
        assert "--field-manager=landseg" in done
        assert text == same
        return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_deploying_fits_an_overlay_to_the_namespace_and_the_control_plane(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path, monkeypatch)
    deploy.run(overlay, "team")
    applied = {(item["kind"], item["metadata"]["name"]): item for item in cluster.applied()}
    assert len(applied) == len(BUILT[overlay]) - 1
    for item in applied.values():
        assert item["metadata"].get("namespace", "team") == "team"
        if item["kind"] in KUEUE:
            jsonschema.validate(item, KUEUE[item["kind"]])
        else:
            kubernetes_validate.validate(item, "1.30.0", strict=True)
    assert ("Namespace", "team") not in applied  # its labels are its administrator's
    assert applied["RoleBinding", "landseg"]["subjects"][0]["namespace"] == "team"
    assert ".kubeflow.svc" not in applied["ConfigMap", "kfp-launcher"]["data"]["providers"]
    egress = applied["NetworkPolicy", "landseg-stages"]["spec"]["egress"]
    blocks = [
        rule for rule in egress if rule["ports"] == [{"protocol": "TCP", "port": 443}] and "except" not in str(rule)
    ]
    assert [rule["to"][0]["ipBlock"]["cidr"] for rule in blocks] == ["10.1.0.1/32", "10.1.0.2/32"]
    assert "6443" not in str(egress)
    assert "kubeflow" in str(egress)  # where KFP is, wherever the pods are


def test_what_the_cluster_refuses_is_shown_whole_and_nothing_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = "Error from server (Forbidden): " + "namespaces is forbidden " * 40 + "at the end"
    cluster = Cluster(tmp_path, monkeypatch, refuses=refusal)
    with pytest.raises(UserError, match=r"at the end \(nothing was changed\)"):
        deploy.run("external-s3", "team")
    calls = [json.loads(line)[0] for line in cluster.log.read_text().splitlines()]
    assert [call[-1] for call in calls if call[0] == "apply"] == ["--dry-run=server"]


def test_settings_of_kfp_that_are_not_landsegs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(tmp_path, monkeypatch, launcher={"metadata": {"name": "kfp-launcher"}, "data": {}})
    deploy.run("external-s3", "team")
    assert "kfp-launcher" not in {item["metadata"]["name"] for item in cluster.applied()}
    assert "the ConfigMap kfp-launcher is not landseg's and stays as it is" in capsys.readouterr().err


def test_settings_of_kfp_that_are_landsegs_follow_the_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"app.kubernetes.io/part-of": "landseg"}
    cluster = Cluster(tmp_path, monkeypatch, launcher={"metadata": {"name": "kfp-launcher", "labels": labels}})
    deploy.run("external-s3", "team")
    assert "kfp-launcher" in {item["metadata"]["name"] for item in cluster.applied()}


def test_storage_keeps_its_volume_under_another_overlay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    existing = find("in-cluster-storage", "StatefulSet", "landseg-storage")
    cluster = Cluster(tmp_path, monkeypatch, storage=existing)
    deploy.run("single-node", "team")
    (storage,) = [item for item in cluster.applied() if item["kind"] == "StatefulSet"]
    assert storage["spec"]["volumeClaimTemplates"] == existing["spec"]["volumeClaimTemplates"]
    assert "storage keeps its volume of 500Gi, not 100Gi" in capsys.readouterr().err


def test_deploying_needs_the_secret_and_a_known_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path, monkeypatch, secret="")
    with pytest.raises(UserError, match="namespace team has no secret landseg-storage: create it first"):
        deploy.run("external-s3", "team")
    with pytest.raises(
        UserError, match="expected one of external-s3, in-cluster-storage, kueue, single-node, found 'x'"
    ):
        deploy.run("x", "team")
    assert "apply" not in cluster.log.read_text()


def test_deploying_dry_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(tmp_path, monkeypatch)
    deploy.run("external-s3", "", dry_run=True)
    assert {item["metadata"].get("namespace", "kubeflow") for item in yaml.safe_load_all(capsys.readouterr().out)} == {
        "kubeflow"
    }
    assert "apply" not in cluster.log.read_text()
