from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Test machines are shared: how long an example takes says nothing.
hypothesis.settings.register_profile(
    "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("shared")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # components, pipelines and benchmarks are not installed

from s3_endpoint import S3  # noqa: E402

from pipelines.embedded_s3 import EmbeddedS3  # noqa: E402

BUCKET = "test"


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
