"""The connection to KFP keeps secrets: certificates are checked, and passwords go where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cluster.client import normalise
from pipelines.cluster.login import _refuse_elsewhere, ca_certificate
from pipelines.errors import UserError


@pytest.mark.parametrize(
    "endpoint",
    ["http://user:EPSECRET@host", "https://EPSECRET@host", "http://host/?token=EPSECRET", "host/pipeline#EPSECRET"],
)
def test_an_endpoint_with_a_secret_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(UserError) as caught:
        normalise(endpoint)
    assert "EPSECRET" not in str(caught.value)


def test_an_endpoint_gets_a_scheme() -> None:
    assert normalise(" kfp.example.org/pipeline/ ") == "https://kfp.example.org/pipeline"
    assert normalise("http://localhost:8080") == "http://localhost:8080"
    with pytest.raises(UserError, match="expected http"):
        normalise("ftp://host")


def test_an_empty_ca_certificate_is_none_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With `verify=""` requests would check no certificate."""
    monkeypatch.setenv("KFP_CA_CERT", "")
    assert ca_certificate() is None
    monkeypatch.setenv("KFP_CA_CERT", str(tmp_path / "ca.pem"))
    with pytest.raises(UserError, match="KFP_CA_CERT: expected the file"):
        ca_certificate()
    (tmp_path / "ca.pem").touch()
    assert ca_certificate() == str(tmp_path / "ca.pem")


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
