"""Whom stage pods reach under each overlay, as a cluster would decide it, and what deploying fits to the endpoint."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubectl_stand_in import Cluster, slices
from policy_flows import Place, lets_in, lets_out

from pipelines.cluster import deploy, network_policy
from pipelines.errors import UserError

EXTERNAL = ("external-s3", "kueue", "profile")
INSIDE = ("in-cluster-storage", "single-node", "profile-storage")

DNS = {
    "CoreDNS": (Place(namespace="kube-system", labels={"k8s-app": "kube-dns"}), 53),
    "NodeLocal DNSCache": (Place("169.254.20.10"), 53),
    "NodeLocal DNSCache over IPv6": (Place("fd00:90::a"), 53),
    "kube-dns by its Service, answered in the host's network": (Place("10.96.0.10"), 53),
    "the same in 172.16.0.0/12": (Place("172.20.0.10"), 53),
    "GKE's Cloud DNS": (Place("169.254.169.254"), 53),
    "OpenShift's": (Place(namespace="openshift-dns"), 5353),
}
KFP = {
    "the API": (Place(namespace="kubeflow", labels={"app": "ml-pipeline"}), 8888),
    "its object store": (Place(namespace="kubeflow", labels={"app": "seaweedfs"}), 8333),
    "its metadata": (Place(namespace="kubeflow", labels={"component": "metadata-grpc-server"}), 8080),
    "the control plane": (Place("10.1.0.1"), 443),
}
AWS = (Place("52.216.1.1"), 443)
AWS_IPV6 = (Place("2600:1fa0::1"), 443)
MINIO = (Place("10.1.2.3"), 9000)
TENANT = (Place(namespace="tenant", labels={"v1.min.io/tenant": "t"}), 9000)
RGW = (Place(namespace="rook-ceph", labels={"app": "rook-ceph-rgw"}), 8443)
OWN_STORAGE = (Place(namespace="team", labels={"app": "landseg-storage"}), 8333)
PROXY = (Place("10.1.2.4"), 3128)
NEVER = {
    "metadata service": (Place("169.254.169.254"), 80),
    "metadata service over TLS": (Place("169.254.169.254"), 443),
    "metadata service over IPv6": (Place("fd00:ec2::254"), 443),
    "another pod": (Place(namespace="team", labels={"app": "notebook"}), 443),
    "ssh": (Place("52.216.1.1"), 22),
    "the kubelet": (Place("10.1.0.1"), 10250),
}
MINIO_SERVICE = {
    "metadata": {"name": "minio"},
    "spec": {
        "clusterIP": "10.96.3.4",
        "selector": {"v1.min.io/tenant": "t"},
        "ports": [{"name": "https-minio", "port": 443, "targetPort": 9000}],
    },
}
RGW_SERVICE = {
    "metadata": {"name": "rgw"},
    "spec": {
        "clusterIP": "10.96.3.5",
        "selector": {"app": "rook-ceph-rgw"},
        "ports": [
            {"name": "http", "port": 80, "targetPort": "http"},
            {"name": "tls", "port": 443, "targetPort": "tls"},
        ],
    },
}
GATEWAY_SERVICE = {"metadata": {"name": "nas"}, "spec": {"clusterIP": "10.96.3.6", "ports": [{"port": 443}]}}
OBJECTS = {
    "service tenant/minio": MINIO_SERVICE,
    "service rook-ceph/rgw": RGW_SERVICE,
    "endpointslices rook-ceph/rgw": slices(["10.244.1.10"], 8443, "tls"),
    "service team/nas": GATEWAY_SERVICE,
    "endpointslices team/nas": slices(["10.9.9.9"], 443),
}


def policies(overlay: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    deploy.run(overlay, "team", dry_run=True)
    found = list(yaml.safe_load_all(capsys.readouterr().out))
    for item in found:
        if item["kind"] == "NetworkPolicy":
            kubernetes_validate.validate(item, "1.30.0", strict=True)
    return {item["metadata"]["name"]: item for item in found if item["kind"] == "NetworkPolicy"}


@pytest.mark.parametrize("overlay", [*EXTERNAL, *INSIDE])
def test_whom_stages_reach(overlay: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Cluster(monkeypatch)
    policy = policies(overlay, capsys)["landseg-stages"]
    for name, (place, port) in DNS.items():
        for protocol in ("UDP", "TCP"):
            assert lets_out(policy, place, port, protocol), name
    for name, flow in KFP.items():
        assert lets_out(policy, *flow), name
    for name, flow in NEVER.items():
        assert not lets_out(policy, *flow), name
    for flow in (AWS, AWS_IPV6):
        assert lets_out(policy, *flow) == (overlay in EXTERNAL)
    assert lets_out(policy, *OWN_STORAGE) == (overlay in INSIDE)
    for flow in (MINIO, TENANT, RGW, PROXY):
        assert not lets_out(policy, *flow)


@pytest.mark.parametrize(
    ("endpoint", "flow", "others"),
    [
        ("https://minio.example.org:9000", MINIO, [AWS, TENANT, RGW]),
        ("http://minio.example.org", (Place("2001:db8::1"), 80), [AWS, MINIO]),
        ("https://10.1.2.3:9000", MINIO, [AWS, PROXY, (Place("10.1.2.5"), 9000)]),
        ("http://[2001:db8::7]:8080/", (Place("2001:db8::7"), 8080), [(Place("2001:db8::8"), 8080)]),
        ("https://minio.tenant.svc.cluster.local", TENANT, [AWS, MINIO, RGW]),
        ("https://minio.tenant:443", TENANT, [AWS, MINIO]),
        ("https://rgw.rook-ceph.svc", RGW, [AWS, MINIO, TENANT]),
        ("https://nas", (Place("10.9.9.9"), 443), [AWS, MINIO]),
        ("http://landseg-storage.team.svc.cluster.local:8333", OWN_STORAGE, [AWS, MINIO]),
        ("https://s3.local", AWS, [MINIO]),
    ],
)
def test_the_endpoint_decides(
    endpoint: str,
    flow: tuple[Place, int],
    others: list[tuple[Place, int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Cluster(monkeypatch, endpoint, objects=OBJECTS)
    policy = policies("external-s3", capsys)["landseg-stages"]
    assert lets_out(policy, *flow)
    for other in [*others, *NEVER.values()]:
        assert not lets_out(policy, *other)


def test_a_service_that_may_not_be_read_opens_its_namespace_and_one_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forbidden = ("service tenant/minio", "endpointslices default/kubernetes")
    Cluster(monkeypatch, "https://minio.tenant.svc", forbidden=forbidden)
    deploy.run("external-s3", "team", dry_run=True)
    said = capsys.readouterr()
    assert "the network policy opens all of namespace tenant for AWS_ENDPOINT_URL" in said.err
    assert "leaves ports 6443 and 8443 open to any address, for the Kubernetes API" in said.err
    (policy,) = [item for item in yaml.safe_load_all(said.out) if item["kind"] == "NetworkPolicy"]
    assert lets_out(policy, *TENANT)
    assert lets_out(policy, Place("203.0.113.1"), 8443)
    Cluster(monkeypatch, "https://minio.tenant.svc")
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL: there is no service minio in namespace tenant"):
        deploy.run("external-s3", "team", dry_run=True)
    Cluster(monkeypatch, "https://rgw.rook-ceph.svc", objects={"service rook-ceph/rgw": RGW_SERVICE})
    with pytest.raises(UserError, match="no pods of service rgw in namespace rook-ceph"):
        deploy.run("external-s3", "team", dry_run=True)


@pytest.mark.parametrize("endpoint", ["ftp://a", "https://", "https://host:port", "https://u:secret@host:x"])
def test_an_endpoint_that_is_no_address(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, endpoint)
    with pytest.raises(UserError, match=r"AWS_ENDPOINT_URL: expected http\(s\)://host") as caught:
        deploy.run("external-s3", "team", dry_run=True)
    assert "secret" not in str(caught.value)


def test_a_proxy_of_the_settings_is_reached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"metadata": {"name": "landseg-settings"}, "data": {"HTTPS_PROXY": "http://10.1.2.4:3128"}}
    Cluster(monkeypatch, objects={"configmap team/landseg-settings": settings})
    assert lets_out(policies("external-s3", capsys)["landseg-stages"], *PROXY)


def test_cilium_is_told_about(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Cluster(monkeypatch, cilium=True)
    deploy.run("external-s3", "team", dry_run=True)
    assert "this cluster has Cilium" in capsys.readouterr().err


@pytest.mark.parametrize("overlay", INSIDE)
def test_who_reaches_storage_in_the_cluster(
    overlay: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Cluster(monkeypatch)
    policy = policies(overlay, capsys)["landseg-storage"]
    stage = {"app.kubernetes.io/part-of": "landseg", "app.kubernetes.io/component": "stage"}
    for labels, namespace in (
        (stage, "team"),
        ({"pipelines.kubeflow.org/v2_component": "true"}, "team"),
        ({"app": "ml-pipeline-ui-artifact"}, "team"),
        ({"app": "ml-pipeline-ui"}, "kubeflow"),
        ({"app": "ml-pipeline"}, "kubeflow"),
    ):
        assert lets_in(policy, Place(namespace=namespace, labels=labels), 8333), labels
    assert not lets_in(policy, Place(namespace="team", labels=stage), 9333)  # SeaweedFS' own, without credentials
    assert not lets_in(policy, Place(namespace="other", labels=stage), 8333)
    assert not lets_in(policy, Place(namespace="team", labels={"app": "notebook"}), 8333)
    assert not lets_in(policy, Place("10.1.2.3"), 8333)


def test_policies_can_be_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Cluster(monkeypatch)
    deploy.run("single-node", "team", policy="none", dry_run=True)
    assert "NetworkPolicy" not in capsys.readouterr().out
    with pytest.raises(UserError, match="NETWORK_POLICY: expected none"):
        deploy.run("single-node", "team", policy="off", dry_run=True)


@pytest.mark.parametrize("address", ["http://[::1", "https://host:99999", "http://", "ftp://host"])
def test_what_is_no_address_is_one_line(address: str) -> None:
    with pytest.raises(
        UserError, match=r"^AWS_ENDPOINT_URL: expected http\(s\)://host or http\(s\)://host:port, found"
    ):
        network_policy.rules_for(address, "AWS_ENDPOINT_URL", "team")
