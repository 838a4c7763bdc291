"""Fixtures and settings that all tests share."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from s3_endpoint import S3
from staging_cli import Staging

from pipelines.local.embedded_s3 import EmbeddedS3

# Test machines are shared: how long an example takes says nothing. The same tree has the same examples in every run, so
# that a failure comes from what was changed; `make test-slow` looks for new ones.
for name, same in (("repeatable", True), ("exploring", False)):
    hypothesis.settings.register_profile(
        name,
        derandomize=same,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        print_blob=True,
    )
hypothesis.settings.load_profile("repeatable")

BUCKET = "test"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none; torch is imported for such tests alone."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedS3]:
    """One endpoint per test process (pytest-xdist: one per worker, nothing is shared)."""
    with EmbeddedS3(tmp_path_factory.mktemp("s3"), buckets=[BUCKET]) as server:
        yield server


@pytest.fixture
def s3(s3_server: EmbeddedS3, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3:
    """S3 for one test: credentials and endpoint in the environment, and a prefix of its own, the same in every run."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    test = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:60].strip("-")
    prefix = f"{test}-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]}"
    return S3(s3_server, f"s3://{BUCKET}/{prefix}", s3_server.root / BUCKET / prefix)


@pytest.fixture
def stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Staging:
    """Runs `landseg stage-data` in a test's folder."""
    return Staging(tmp_path, capsys)
