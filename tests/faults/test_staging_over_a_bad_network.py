"""Staging while the network fails: the same bytes in the end, or one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from s3_endpoint import S3

from benchmarks.netproxy import FaultProxy, Faults
from landseg import storage
from landseg.cli import main as cli

BAD = Faults(error_rate=0.05, reset_rate=0.05, truncate_rate=0.02, flip_rate=0.05, upload_flip_rate=0.05)


def stage(source: str, storage_uri: str) -> None:
    assert cli.main(["stage-data", "--source", source, "--storage-uri", storage_uri]) == 0


def contents(root: str) -> dict[str, bytes]:
    """All but the notes of which dataset came last, and of the time it took."""
    return {
        info.uri.removeprefix(root): storage.get_bytes(info.uri)
        for info in storage.list_objects(root)
        if "/by-name/" not in info.uri and "/costs/" not in info.uri
    }


@pytest.fixture
def source(s3: S3, tmp_path: Path) -> str:
    raw = tmp_path / "raw"
    assert cli.main(["make-sample-data", str(raw), "--train=40", "--val=10", "--test=10", "--size=64"]) == 0
    uri = f"{s3.uri}/raw"
    storage.put_many((f"{uri}/{path.relative_to(raw)}", path) for path in raw.rglob("*") if path.is_file())
    return uri


def test_staging_over_a_bad_network_ends_with_the_same_bytes(
    s3: S3, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(source, str(tmp_path / "clean"))
    with FaultProxy(s3.server.endpoint, BAD, seed=5) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        stage(source, f"{s3.uri}/staged")
    assert len([fault for fault in proxy.counts if proxy.counts[fault]]) > 5
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.server.endpoint)
    assert contents(f"{s3.uri}/staged") == contents(str(tmp_path / "clean"))


@pytest.mark.slow
@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_staging_waits_out_an_outage(
    s3: S3, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: float
) -> None:
    """The outage begins after a share of the requests that staging makes otherwise."""
    stage(source, str(tmp_path / "clean"))
    with FaultProxy(s3.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        stage(source, f"{s3.uri}/undisturbed")
        num_requests = proxy.counts["requests"]
        proxy.events = {num_requests + round(at * num_requests): lambda: proxy.outage(8.0)}
        stage(source, f"{s3.uri}/staged")
        assert not proxy.events, "the outage did not happen"
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.server.endpoint)
    assert contents(f"{s3.uri}/staged") == contents(str(tmp_path / "clean"))


def test_staging_in_an_outage_without_end_is_one_line(
    s3: S3, source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANDSEG_S3_RETRY_S", "1")
    with FaultProxy(s3.server.endpoint) as proxy:
        proxy.down = True
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        capsys.readouterr()
        assert cli.main(["stage-data", "--source", source, "--storage-uri", f"{s3.uri}/staged"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "is out of reach" in lines[-1]
    assert not any(line.startswith("Traceback") for line in lines)
