"""Staging as storage sees it: what is uploaded, what readers find at every moment, what is left after a kill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from s3_endpoint import S3

from benchmarks.netproxy import FaultProxy, Faults
from landseg import storage
from landseg.cli import main as cli
from landseg.contracts.dataset import DatasetManifest
from landseg.contracts.documents import blobs
from landseg.storage.s3 import requests as s3_requests

MANY_PX, SIDE_PX = 64, 500
PART_BYTES = 16 << 20


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(s3.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def write_tiles(raw: Path, names: list[str], size_px: int) -> None:
    (raw / "test" / "images").mkdir(parents=True, exist_ok=True)
    (raw / "dataset.yaml").write_text("version: 1\nname: random\nclasses: [land, water]\n")
    for name in names:
        generator = np.random.default_rng(int.from_bytes(name.encode(), "big"))
        image = generator.integers(0, 256, (size_px, size_px, 3), np.uint8)
        tifffile.imwrite(raw / "test" / "images" / f"{name}.tif", image, photometric="rgb", metadata=None)


def command(raw: Path, uri: str, *options: str) -> list[str]:
    return ["stage-data", "--source", str(raw), "--storage-uri", uri, "--num-workers=1", *options]


def uploaded(proxy: FaultProxy, work: Callable[[], object]) -> int:
    """Bytes in the bodies of the requests that some work makes."""
    proxy.counts.clear()
    work()
    assert proxy.counts["requests"] > 0
    return proxy.counts["bytes uploaded"]


def contents(folder: Path) -> dict[str, bytes]:
    """The dataset's files.

    Without the notes of where from, which last and how long, and without parts that the server holds of killed uploads.
    """
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.parent.name not in ("by-name", "costs")
        and path.name != "arguments.json"
        and path.name[0] != "."
    }


def look_at_all(folder: Path, seen: list[str]) -> None:
    """Whatever manifest a reader finds, all that it names is there, whole."""
    for path in folder.glob("datasets/*/manifest.json"):
        manifest = DatasetManifest.parse(path.read_bytes(), path)
        for blob in blobs(manifest):
            storage.check(str(path.parent / blob.path), size_bytes=blob.size_bytes, sha256=blob.sha256)
        seen.append(manifest.dataset_id)


def test_what_is_there_already_is_not_uploaded(s3: S3, proxy: FaultProxy, tmp_path: Path) -> None:
    raw, uri = tmp_path / "raw", f"{s3.uri}/store"
    write_tiles(raw, [f"t{number:04}" for number in range(200)], MANY_PX)
    size = sum(path.stat().st_size for path in raw.rglob("*.tif"))
    first = uploaded(proxy, lambda: cli.main(command(raw, uri)))
    assert first > size
    assert uploaded(proxy, lambda: cli.main(command(raw, uri))) == 0
    for path in raw.rglob("*.tif"):
        path.touch()
    # Read again, as their times have changed; the note of these times is all that is written.
    note = uploaded(proxy, lambda: cli.main(command(raw, uri)))
    assert note < 300 * 200
    write_tiles(raw, ["t0050a", "t0150a"], MANY_PX)
    grown = uploaded(proxy, lambda: cli.main(command(raw, uri)))
    manifest = max(path.stat().st_size for path in s3.folder.rglob("tiles-test-*.jsonl")) + 4000
    manifest += max(path.stat().st_size for path in s3.folder.rglob("*.files.jsonl"))
    assert grown < 0.02 * size + manifest


def test_a_reader_finds_whole_datasets_at_every_moment(s3: S3, proxy: FaultProxy, tmp_path: Path) -> None:
    raw, store = tmp_path / "raw", s3.folder / "store"
    seen: list[str] = []
    wrong: list[Exception] = []

    def look() -> None:
        try:
            look_at_all(store, seen)
        except Exception as err:  # in a thread of the proxy
            wrong.append(err)

    names = [f"t{number:04}" for number in range(60)]
    for step in range(3):
        write_tiles(raw, [*names, *(f"x{number}" for number in range(step))], MANY_PX)
        proxy.events = {proxy.counts["requests"] + number: look for number in range(1, 200)}
        assert cli.main(command(raw, f"{s3.uri}/store", "--shard-bytes=200000")) == 0
    assert not wrong
    look_at_all(store, seen)
    assert len(set(seen)) == 3


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_killed_at_any_request(s3: S3, proxy: FaultProxy, tmp_path: Path, kills: int) -> None:
    raw = tmp_path / "raw"
    write_tiles(raw, [f"t{number:04}" for number in range(50)], SIDE_PX)  # one shard, uploaded in parts
    python = [sys.executable, "-m", "landseg"]
    subprocess.run([*python, *command(raw, f"{s3.uri}/reference")], check=True, capture_output=True)
    num_requests = proxy.counts["requests"]
    expected = contents(s3.folder / "reference")
    moments = random.Random(1)
    killed, in_parts = 0, 0
    for attempt in range(kills):
        uri, store = f"{s3.uri}/store-{attempt}", s3.folder / f"store-{attempt}"
        before = proxy.counts.copy()
        process = subprocess.Popen(
            [*python, *command(raw, uri)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if attempt < 2:  # the first kills are in the midst of the parts' uploads, the others anywhere
            proxy.faults = Faults(latency_s=0.5)  # a part is not whole before this thread has seen it
            while process.poll() is None and proxy.counts["bytes uploaded"] - before["bytes uploaded"] < PART_BYTES:
                time.sleep(0.001)
            process.kill()
            proxy.faults = Faults()
        else:
            at, pid = moments.randrange(1, num_requests + 1), process.pid
            proxy.events = {before["requests"] + at: lambda pid=pid: os.kill(pid, signal.SIGKILL)}  # type: ignore[misc]
        killed += process.wait() == -signal.SIGKILL
        proxy.events.clear()
        look_at_all(store, [])
        in_parts += uploads_left(s3) > 0
        subprocess.run([*python, *command(raw, uri)], check=True, capture_output=True)
        assert contents(store) == expected
        storage.clean_abandoned(s3.uri, older_than_s=0)
        assert uploads_left(s3) == 0
    assert killed >= 0.8 * kills
    assert in_parts > 0


def uploads_left(s3: S3) -> int:
    """Uploads in parts that were neither finished nor cleaned up."""
    bucket = s3.uri.split("/")[2]
    return len(s3_requests.ask(s3.uri, "list_multipart_uploads", Bucket=bucket).get("Uploads", []))
