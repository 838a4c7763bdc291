"""Deploying an overlay: what is applied, what is left alone, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from built_manifests import BUILT, OVERLAYS, find, validate
from kubectl_stand_in import Cluster

from pipelines.cluster import deploy, kubectl
from pipelines.errors import UserError

LABELS = {"app.kubernetes.io/part-of": "landseg"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_deploying_fits_an_overlay_to_the_namespace_and_the_control_plane(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch)
    deploy.run(overlay, "team")
    applied = {(item["kind"], item["metadata"]["name"]): item for item in cluster.applied()}
    assert len(applied) == len([item for item in BUILT[overlay] if item["kind"] != "Namespace"])
    for item in applied.values():
        assert item["metadata"].get("namespace", "team") == "team"
        validate(item, "1.30.0")
    assert ("Namespace", "team") not in applied  # its labels are its administrator's
    if "profile" not in overlay:
        assert applied["RoleBinding", "landseg"]["subjects"][0]["namespace"] == "team"
        assert ".kubeflow.svc" not in applied["ConfigMap", "kfp-launcher"]["data"]["providers"]
    egress = applied["NetworkPolicy", "landseg-stages"]["spec"]["egress"]
    blocks = [
        rule for rule in egress if rule["ports"] == [{"protocol": "TCP", "port": 443}] and "except" not in str(rule)
    ]
    assert [rule["to"][0]["ipBlock"]["cidr"] for rule in blocks] == ["10.1.0.1/32", "10.1.0.2/32"]
    assert "6443" not in str(egress)
    assert "kubeflow" in str(egress)  # where KFP is, wherever the pods are


def test_what_the_cluster_refuses_is_shown_whole_and_nothing_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "Error from server (Forbidden): " + "namespaces is forbidden " * 40 + "at the end"
    cluster = Cluster(monkeypatch, refuses=refusal)
    with pytest.raises(UserError, match=r"at the end \(nothing was changed\)"):
        deploy.run("external-s3", "team")
    assert [call[-1] for call in cluster.arguments("apply")] == ["--dry-run=server"]


def test_settings_of_kfp_that_are_not_landsegs_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(
        monkeypatch,
        objects={"configmap team/kfp-launcher": {"metadata": {"name": "kfp-launcher"}, "data": {}}},
    )
    deploy.run("external-s3", "team")
    assert "kfp-launcher" not in {item["metadata"]["name"] for item in cluster.applied()}
    assert "the ConfigMap kfp-launcher is not landseg's and stays as it is" in capsys.readouterr().err


def test_settings_of_kfp_that_are_landsegs_follow_the_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    existing = {"metadata": {"name": "kfp-launcher", "labels": LABELS}}
    cluster = Cluster(monkeypatch, objects={"configmap team/kfp-launcher": existing})
    deploy.run("external-s3", "team")
    assert "kfp-launcher" in {item["metadata"]["name"] for item in cluster.applied()}


def test_storage_keeps_its_volume_under_another_overlay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    existing = find("in-cluster-storage", "StatefulSet", "landseg-storage")
    cluster = Cluster(monkeypatch, objects={"statefulset team/landseg-storage": existing})
    deploy.run("single-node", "team")
    (storage,) = [item for item in cluster.applied() if item["kind"] == "StatefulSet"]
    assert storage["spec"]["volumeClaimTemplates"] == existing["spec"]["volumeClaimTemplates"]
    assert "storage keeps its volume of 500Gi, not 100Gi" in capsys.readouterr().err


def test_deploying_needs_the_secret_and_a_known_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, None)
    with pytest.raises(UserError, match="namespace team has no secret landseg-storage: create it first"):
        deploy.run("external-s3", "team")
    with pytest.raises(UserError, match=rf"expected one of {', '.join(OVERLAYS)}, found 'x'"):
        deploy.run("x", "team")
    assert not cluster.arguments("apply")


def test_deploying_dry_changes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster(monkeypatch)
    deploy.run("external-s3", "", dry_run=True)
    assert {item["metadata"].get("namespace", "kubeflow") for item in yaml.safe_load_all(capsys.readouterr().out)} == {
        "kubeflow"
    }
    assert not cluster.arguments("apply")


def test_what_an_earlier_overlay_has_left_and_still_binds_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    quota, foreign = {"metadata": {"name": "landseg-gpus", "labels": LABELS}}, {"metadata": {"name": "landseg-stages"}}
    there = {"resourcequota team/landseg-gpus": quota, "networkpolicy team/landseg-stages": foreign}
    cluster = Cluster(monkeypatch, objects=there)
    deploy.run("kueue", "team")
    assert cluster.arguments("delete") == [("delete", "resourcequota", "landseg-gpus", "--namespace", "team")]
    cluster = Cluster(monkeypatch, objects={"networkpolicy team/landseg-storage": quota})
    deploy.run("external-s3", "team")
    assert not cluster.arguments("delete")  # storage in the cluster stays, and so does what protects it
    deploy.run("external-s3", "team", policy="none")
    assert cluster.arguments("delete") == [("delete", "networkpolicy", "landseg-storage", "--namespace", "team")]


def test_images_can_be_pulled_with_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Cluster(monkeypatch)
    deploy.run("single-node", "team", pull_secret="registry", dry_run=True)
    made = {item["kind"]: item for item in yaml.safe_load_all(capsys.readouterr().out)}
    assert made["ServiceAccount"]["imagePullSecrets"] == [{"name": "registry"}]
    assert made["StatefulSet"]["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_kubectls_own_message_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "kubectl"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "Error from server (Forbidden): a" >&2\nseq 400 >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"^kubectl get: Error from server \(Forbidden\): a 1 2 .* 399 400$"):
        kubectl.get("team", "secret", "landseg-storage")


def test_kubectls_own_log_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "kubectl"
    log = 'E1129 11:03:07.618057   25908 memcache.go:265] "Unhandled Error" err="refused"'
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' '{log}' '{log}' 'The connection was refused' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"^kubectl get: The connection was refused$"):
        kubectl.get("team", "secret", "landseg-storage")


def test_an_overlay_is_rendered_without_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    deploy.run("external-s3", "kubeflow", dry_run=True)
    printed = capsys.readouterr()
    (policy,) = [
        one
        for one in yaml.safe_load_all(printed.out)
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] != "landseg-storage"
    ]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])}
    assert {443, 6443} <= ports
    assert "leaves ports 443 and 6443 open to any address, for the Kubernetes API" in printed.err


def test_what_somebody_else_has_set_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    conflict = (
        'error: Apply failed with 1 conflict: conflict with "kubectl-edit" using v1: .spec.hard Please review the'
    )
    cluster = Cluster(monkeypatch, refuses=conflict)
    said = (
        r'ResourceQuota landseg-gpus: conflict with "kubectl-edit" using v1: .spec.hard; .*'
        r"give the manifests the same values, or take these over with FORCE=1 \(nothing was changed\)"
    )
    with pytest.raises(UserError, match=said):
        deploy.run("external-s3", "team")
    cluster = Cluster(monkeypatch)
    deploy.run("external-s3", "team", force=True)
    assert all("--force-conflicts" in call for call in cluster.arguments("apply"))


def test_a_profile_gets_kfps_own_pipeline_root_back(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = {"metadata": {"name": "kfp-launcher", "labels": LABELS}}
    cluster = Cluster(monkeypatch, objects={"configmap team/kfp-launcher": launcher})
    deploy.run("profile", "team")
    assert cluster.arguments("delete") == [("delete", "configmap", "kfp-launcher", "--namespace", "team")]


def test_quota_and_queue_count_other_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    mig = ["nvidia.com/mig-3g.40gb", "amd.com/gpu"]
    cluster = Cluster(monkeypatch)
    deploy.run("external-s3", "team", gpu_resource=",".join(mig))
    (quota,) = [item for item in cluster.applied() if item["kind"] == "ResourceQuota"]
    assert quota["spec"]["hard"] == {f"requests.{name}": "4" for name in mig}
    cluster = Cluster(monkeypatch)
    deploy.run("kueue", "team", gpu_resource=mig[0])
    (queue,) = [item for item in cluster.applied() if item["kind"] == "ClusterQueue"]
    validate(queue, "1.30.0")
    (group,) = queue["spec"]["resourceGroups"]
    assert group["coveredResources"] == ["cpu", "memory", mig[0]]
    assert {one["name"]: one["nominalQuota"] for one in group["flavors"][0]["resources"]}[mig[0]] == 4
    with pytest.raises(UserError, match=r"GPU_RESOURCE: expected a resource such as amd\.com/gpu, found 'gpu'"):
        deploy.run("external-s3", "team", gpu_resource="gpu")


def test_what_is_removed_later_is_known_as_landsegs() -> None:
    kinds = ("NetworkPolicy", "ResourceQuota", "ConfigMap")
    found = [item for overlay in OVERLAYS for item in BUILT[overlay] if item["kind"] in kinds]
    assert {item["kind"] for item in found} == set(kinds)
    assert all(item["metadata"]["labels"].items() >= LABELS.items() for item in found)
