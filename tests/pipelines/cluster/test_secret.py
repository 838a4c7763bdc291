"""The preflight's look at the secret, against a stand-in of the Kubernetes API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from http_server import Quiet, serving

from pipelines.cluster import preflight
from pipelines.cluster.client import Server
from pipelines.dags.scheduling import STORAGE_ENV
from pipelines.errors import UserError


class Cluster:
    """Answers every request with what `answer` says."""

    def __init__(self) -> None:
        self.status, self.keys = 200, list(STORAGE_ENV)
        self.paths: list[str] = []
        cluster = self

        class Handler(Quiet):
            def do_GET(self) -> None:  # noqa: N802  (http.server's name)
                cluster.paths.append(self.path)
                secret = {"kind": "Secret", "apiVersion": "v1", "data": dict.fromkeys(cluster.keys, "eA==")}
                body = json.dumps(secret).encode()
                self.send_response(cluster.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.handler = Handler


def use_kubeconfig(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    for module in ("kubernetes.config", "kubernetes.config.kube_config"):  # KUBECONFIG is read when they are imported
        monkeypatch.setattr(f"{module}.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    running = Cluster()
    with serving(running.handler) as address:
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {}}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        use_kubeconfig(monkeypatch, tmp_path / "config")
        yield running


def test_a_complete_secret(cluster: Cluster) -> None:
    assert preflight.check_secret("team") == ""
    assert cluster.paths == ["/api/v1/namespaces/team/secrets/landseg-storage"]


def test_a_missing_key(cluster: Cluster) -> None:
    cluster.keys.remove("AWS_REGION")
    with pytest.raises(UserError, match="lacks AWS_REGION"):
        preflight.check_secret("team")


def test_no_secret(cluster: Cluster) -> None:
    cluster.status = 404
    with pytest.raises(UserError, match="namespace team has no secret landseg-storage: make deploy"):
        preflight.check_secret("team")


def test_who_may_not_look_is_told_so(cluster: Cluster) -> None:
    cluster.status = 403
    assert preflight.check_secret("team") == "secret landseg-storage not checked: the cluster answered 403"


def test_no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_kubeconfig(monkeypatch, tmp_path / "none")
    assert preflight.check_secret("team").startswith("secret landseg-storage not checked: ")


@pytest.mark.parametrize(
    ("version", "multi_user", "status", "account", "said"),
    [
        ("2.17.0", False, 200, "landseg", ""),
        ("2.17.0", False, 404, "", "pods run as KFP's own account: landseg was not found in namespace team"),
        ("2.18.0", False, 200, "", "only where its ALLOWEDSERVICEACCOUNTS lists it"),
        ("2.17.0", True, 200, "", ""),
    ],
)
def test_the_account_of_the_pods(
    cluster: Cluster, version: str, multi_user: bool, status: int, account: str, said: str
) -> None:
    cluster.status = status
    found, note = preflight.service_account(Server(version, multi_user), "team")
    assert found == account
    assert said in note
    assert bool(said) == bool(note)
    assert cluster.paths == ([] if multi_user else ["/api/v1/namespaces/team/serviceaccounts/landseg"])
