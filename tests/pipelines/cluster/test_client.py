"""The connection to KFP keeps secrets: certificates are checked, and passwords go where they belong."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import company_ca
from kfp_server import KfpServer

from pipelines.cluster import client
from pipelines.cluster.client import normalise
from pipelines.cluster.login import CA_VARIABLES, _refuse_elsewhere, ca_certificate
from pipelines.errors import UserError


@pytest.mark.parametrize(
    "endpoint",
    ["http://user:EPSECRET@host", "https://EPSECRET@host", "http://host/?token=EPSECRET", "host/pipeline#EPSECRET"],
)
def test_an_endpoint_with_a_secret_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(UserError) as caught:
        normalise(endpoint)
    assert "EPSECRET" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://[bad", "http://host:99999", "http://host:a", "two words", "http:///x"])
def test_what_is_no_address_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(UserError, match="--endpoint: expected an address such as https://"):
        normalise(endpoint)


@pytest.mark.parametrize("name", ["KFP_TOKEN", "KFP_COOKIES"])
def test_secrets_that_no_header_can_hold_are_not_repeated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in [one for one in os.environ if one.startswith("KFP_")]:
        monkeypatch.delenv(other)
    with KfpServer() as server:
        monkeypatch.setenv(name, "a=EPSECRET\r\n")  # as a file ends
        assert client.check_server(server.endpoint, client.credentials(server.endpoint)).version == "2.17.1"
        for text in ("a=EP\nSECRET", "a=\u201cEPSECRET\u201d"):
            monkeypatch.setenv(name, text)
            with pytest.raises(UserError, match=f"{name}: expected printable ASCII characters") as caught:
                client.credentials(server.endpoint)
            assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://user:EPSECRET@127.0.0.1:9", "http://user:EP/SECRET@127.0.0.1:9"])
def test_what_is_out_of_reach_is_said_in_the_systems_words(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"127.0.0.1:9 is out of reach \(connection refused\): is the port-forward"):
        client.check_server("http://127.0.0.1:9", {})
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(UserError, match="is out of reach") as caught:
        client.check_server("https://kfp.example.org", {})
    assert "SECRET" not in str(caught.value)


def test_an_endpoint_gets_a_scheme() -> None:
    assert normalise(" kfp.example.org/pipeline/ ") == "https://kfp.example.org/pipeline"
    assert normalise("http://localhost:8080") == "http://localhost:8080"
    with pytest.raises(UserError, match="expected http"):
        normalise("ftp://host")


def test_an_empty_ca_certificate_is_none_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With `verify=""` requests would check no certificate."""
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KFP_CA_CERT", "")
    assert ca_certificate() is None
    monkeypatch.setenv("KFP_CA_CERT", str(tmp_path / "ca.pem"))
    with pytest.raises(UserError, match="KFP_CA_CERT: expected the file"):
        ca_certificate()
    (tmp_path / "ca.pem").touch()
    assert ca_certificate() == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_what_companies_set_is_trusted_too(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for other in CA_VARIABLES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(tmp_path / "gone.pem"))
    with pytest.raises(UserError, match=f"{name}: expected the file of a certificate authority, found none at"):
        ca_certificate()
    (tmp_path / "company.pem").touch()
    monkeypatch.setenv(name, str(tmp_path / "company.pem"))
    assert ca_certificate() == str(tmp_path / "company.pem")


@pytest.fixture
def company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A KFP server behind TLS with a certificate of a company's own: its endpoint and the authority's file."""
    for name in [*CA_VARIABLES, *(one for one in os.environ if one.startswith("KFP_"))]:
        monkeypatch.delenv(name, raising=False)
    ca, context = company_ca(tmp_path)
    with KfpServer() as server:
        server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
        yield server.endpoint.replace("http:", "https:"), ca


@pytest.mark.parametrize("name", ["KFP_CA_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_companys_certificate(name: str, company: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, ca = company
    for ask in (_check, _list):
        with pytest.raises(UserError, match="is not trusted with no file of authorities: set KFP_CA_CERT"):
            ask(endpoint)
    monkeypatch.setenv(name, str(ca))
    assert _check(endpoint) == "2.17.1"
    assert _list(endpoint) == 0
    ca.write_text("no certificate")
    for ask in (_check, _list):
        with pytest.raises(UserError, match=f"its certificate is not trusted with {name}="):
            ask(endpoint)


def test_a_proxy_is_used_and_its_password_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        proxy = f"127.0.0.1:{listener.getsockname()[1]}"
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://me:PSECRET@{proxy}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for endpoint in ("https://kfp.example.org", "http://kfp.example.org"):
        for ask in (_check, _list):
            with pytest.raises(UserError, match="out of reach through the proxy: check HTTPS_PROXY") as caught:
                ask(endpoint)
            assert "PSECRET" not in str(caught.value)


def test_a_session_that_has_ended_asks_for_a_login() -> None:
    """Its redirect leads to a page, and may lead to another host."""
    with KfpServer(cookie="session=2") as server:
        connection = client.connect(server.endpoint, {"cookies": "session=1"}, "")
        server.requests.clear()
        with pytest.raises(UserError, match="asks for a login"), client.explained(server.endpoint):
            connection.list_pipelines()
        assert not [path for _, path in server.requests if "dex" in path]


def _check(endpoint: str) -> str:
    return client.check_server(endpoint, {}).version


def _list(endpoint: str) -> int | None:
    with client.explained(endpoint):
        return client.connect(endpoint, {}, "").list_pipelines().total_size


@pytest.mark.parametrize(
    ("endpoint", "page", "refused"),
    [
        ("https://kf.example.org", "https://kf.example.org/dex/auth", False),
        ("http://localhost:8080", "http://localhost:8080/dex/auth", False),
        ("https://kf.example.org", "https://evil.example.org/dex/auth", True),
        ("https://kf.example.org", "http://kf.example.org/dex/auth", True),
    ],
)
def test_a_password_goes_to_the_endpoint_alone(endpoint: str, page: str, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="where no password is sent"):
            _refuse_elsewhere(endpoint, page)
    else:
        _refuse_elsewhere(endpoint, page)
