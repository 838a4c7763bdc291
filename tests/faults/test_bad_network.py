"""Storage over a network that delays, cuts and corrupts."""

from __future__ import annotations

import hashlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from s3_endpoint import S3

from benchmarks.netproxy import FaultProxy, Faults, spawned
from landseg import storage
from landseg.contracts.errors import DamagedObjectError, ObjectNotFoundError, StorageError
from landseg.raw.processes import ProcessPool
from landseg.storage import retry
from landseg.storage.connection import connection
from landseg.storage.retry import FIRST_CONTACT_S
from landseg.storage.s3 import requests as s3_requests


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(s3.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big.bin"
    path.write_bytes(random.Random(1).randbytes(1 << 20) * 70)
    return path


def uploads_left(s3: S3) -> int:
    bucket = s3.uri.split("/")[2]
    return len(s3_requests.ask(s3.uri, "list_multipart_uploads", Bucket=bucket).get("Uploads", []))


def get_file(folder: Path, contents: dict[str, bytes], uri: str) -> str:
    storage.get_file(uri, folder / uri[-3:], sha256=hashlib.sha256(contents[uri]).hexdigest())
    return uri


BAD = Faults(error_rate=0.05, reset_rate=0.05, truncate_rate=0.02, flip_rate=0.05, upload_flip_rate=0.05)


def test_the_proxy_in_its_own_process_adds_latency_and_ends(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with spawned(s3.server.endpoint, Faults(latency_s=0.1)) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        start = time.monotonic()
        storage.put_bytes(f"{s3.uri}/x", b"x")
        assert storage.get_bytes(f"{s3.uri}/x") == b"x"
        assert time.monotonic() - start >= 0.2
    monkeypatch.setenv("LANDSEG_S3_RETRY_S", "0")
    with pytest.raises(StorageError, match="is out of reach"):
        storage.get_bytes(f"{s3.uri}/x")


@pytest.mark.parametrize("seed", [1, 2])
def test_everything_arrives_over_a_bad_network(s3: S3, proxy: FaultProxy, tmp_path: Path, big: Path, seed: int) -> None:
    proxy.faults, proxy.seed = BAD, seed
    contents = {f"{s3.uri}/small/{n:03}": random.Random(n).randbytes(1 + n * 50) for n in range(150)}
    storage.put_many(contents.items())
    storage.put_file(f"{s3.uri}/big", big)
    assert sorted(contents) == [info.uri for info in storage.list_objects(f"{s3.uri}/small")]
    for uri in storage.parallel(partial(get_file, tmp_path, contents), contents):
        assert (tmp_path / uri[-3:]).read_bytes() == contents[uri]
    # No checksum is known here; the ETag finds flipped bits.
    assert dict(storage.parallel(lambda uri: (uri, storage.get_bytes(uri)), contents)) == contents
    for info in storage.parallel(storage.stat, contents):
        assert info is not None
        assert info.size_bytes == len(contents[info.uri])
    sha256 = storage.file_sha256(big)
    storage.get_file(f"{s3.uri}/big", tmp_path / "big", sha256=sha256)
    storage.check(f"{s3.uri}/big", size_bytes=big.stat().st_size, sha256=sha256)
    assert storage.file_sha256(s3.folder / "big") == sha256
    for fault in ("503 Slow Down", "500 Internal Server Error", "truncated", "upload reset", "answer reset"):
        assert proxy.counts[fault] > 0, fault
    assert proxy.counts["answer bit flipped"] > 0
    assert proxy.counts["upload bit flipped"] > 0
    assert uploads_left(s3) == 0


def test_a_damaged_part_is_uploaded_again(s3: S3, proxy: FaultProxy, tmp_path: Path, big: Path) -> None:
    proxy.faults, proxy.seed = Faults(upload_flip_rate=0.3), 4
    storage.put_file(f"{s3.uri}/big", big)
    assert proxy.counts["upload bit flipped"] > 0
    assert storage.file_sha256(s3.folder / "big") == storage.file_sha256(big)
    assert uploads_left(s3) == 0


def test_a_part_that_was_cut_short_is_read_again_alone(s3: S3, proxy: FaultProxy, big: Path) -> None:
    storage.put_file(f"{s3.uri}/big", big)
    size, sha256 = big.stat().st_size, storage.file_sha256(big)
    proxy.counts.clear()
    proxy.faults, proxy.seed = Faults(truncate_rate=0.3), 1
    storage.check(f"{s3.uri}/big", size_bytes=size, sha256=sha256)
    assert proxy.counts["truncated"] > 0
    assert proxy.counts["requests"] == 1 + -(-size // s3_requests.PART_BYTES) + proxy.counts["truncated"]


def test_bytes_that_are_damaged_every_time_are_refused(s3: S3, proxy: FaultProxy, tmp_path: Path) -> None:
    storage.put_bytes(f"{s3.uri}/x", b"12345678" * 100)
    proxy.faults = Faults(flip_rate=1.0)
    with pytest.raises(DamagedObjectError, match="expected bytes with sha256"):
        storage.get_file(f"{s3.uri}/x", tmp_path / "x", sha256=hashlib.sha256(b"12345678" * 100).hexdigest())
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_unknown_checksum_is_read_until_storage_confirms_it(
    s3: S3, proxy: FaultProxy, tmp_path: Path, big: Path
) -> None:
    storage.put_file(f"{s3.uri}/big", big)
    proxy.faults, proxy.seed = Faults(flip_rate=0.2), 1
    storage.get_file(f"{s3.uri}/big", tmp_path / "big")
    assert proxy.counts["answer bit flipped"] > 0
    assert storage.file_sha256(tmp_path / "big") == storage.file_sha256(big)
    storage.put_bytes(f"{s3.uri}/small", bytes(1000))
    proxy.faults = Faults(flip_rate=1.0)
    with pytest.raises(DamagedObjectError, match="its bytes differed each time"):
        storage.get_file(f"{s3.uri}/small", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_ranges_of_unknown_checksum_are_read_until_two_reads_agree(s3: S3, proxy: FaultProxy) -> None:
    content = random.Random(1).randbytes(10_000)
    storage.put_bytes(f"{s3.uri}/x", content)
    proxy.faults, proxy.seed = Faults(flip_rate=0.3), 1
    for offset in range(0, 10_000, 500):
        assert storage.get_bytes(f"{s3.uri}/x", byte_range=(offset, 500)) == content[offset : offset + 500]
    assert proxy.counts["answer bit flipped"] > 0


def outage_in_mid_work(s3: S3, proxy: FaultProxy, seconds: float, tmp_path: Path, big: Path) -> None:
    storage.put_bytes(f"{s3.uri}/first", b"contact")
    proxy.events = {proxy.counts["requests"] + 20: lambda: proxy.outage(seconds)}
    start = time.monotonic()
    contents = [(f"{s3.uri}/{n:03}", str(n).encode() * 100) for n in range(200)]
    storage.put_many(contents, workers=4)
    storage.put_file(f"{s3.uri}/big", big)
    storage.get_file(f"{s3.uri}/big", tmp_path / "big", sha256=storage.file_sha256(big))
    assert time.monotonic() - start > seconds
    for uri, content in contents:
        assert (s3.folder / uri[-3:]).read_bytes() == content


def test_an_outage_is_waited_out(s3: S3, proxy: FaultProxy, tmp_path: Path, big: Path) -> None:
    outage_in_mid_work(s3, proxy, 1.5, tmp_path, big)


@pytest.mark.slow
def test_an_outage_of_thirty_seconds_is_waited_out(
    s3: S3, proxy: FaultProxy, tmp_path: Path, big: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outage_in_mid_work(s3, proxy, 30.0, tmp_path, big)
    assert re.search(r"out of reach: .*; trying again for up to 1\d\d s", caplog.text)


@pytest.mark.slow
def test_a_process_that_starts_in_an_outage_waits_it_out(s3: S3, proxy: FaultProxy) -> None:
    storage.put_bytes(f"{s3.uri}/first", b"contact")
    with ProcessPool(2) as processes:
        proxy.outage(FIRST_CONTACT_S + 3)
        assert list(processes.map(storage.get_bytes, [f"{s3.uri}/first"] * 2)) == [b"contact"] * 2


def test_an_endpoint_that_never_answered_is_given_up_on_soon_unless_answers_are_expected(
    s3: S3, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_CONTACT_S", 0.0)
    proxy.down = True
    storage.expect_answers(False)
    assert not storage.endpoint_has_answered()
    with pytest.raises(StorageError, match="gave up after 1 attempts"):
        storage.get_bytes(f"{s3.uri}/x")
    storage.expect_answers(True)
    assert storage.endpoint_has_answered()
    proxy.outage(0.3)
    with pytest.raises(ObjectNotFoundError):
        storage.get_bytes(f"{s3.uri}/x")


def test_an_outage_without_end_ends_with_one_line(
    s3: S3, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, big: Path
) -> None:
    storage.put_bytes(f"{s3.uri}/first", b"contact")
    monkeypatch.setenv("LANDSEG_S3_RETRY_S", "1.5")
    proxy.down = True
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"is out of reach: .*; gave up after \d+ attempts \(check") as caught:
        storage.put_many((f"{s3.uri}/{n}", b"x") for n in range(100))
    assert "\n" not in str(caught.value)
    assert 0.5 < time.monotonic() - start < 60  # a limit of 120 s is the default


def test_an_error_answer_that_breaks_off_is_asked_for_again(
    s3: S3, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.faults, proxy.seed = Faults(reset_rate=0.7), 1
    with pytest.raises(ObjectNotFoundError):
        storage.get_bytes(f"{s3.uri}/nothing")
    assert proxy.counts["answer reset"] > 0
    monkeypatch.setenv("LANDSEG_S3_RETRY_S", "0.5")
    proxy.faults = Faults(reset_rate=1.0)
    with pytest.raises(StorageError, match="is out of reach: connection reset by peer"):
        storage.get_bytes(f"{s3.uri}/nothing")


def test_errors_without_end_name_the_answer(s3: S3, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDSEG_S3_RETRY_S", "0.5")
    proxy.faults = Faults(error_rate=1.0)
    with pytest.raises(StorageError, match=r"object storage answered 50[03] .*; gave up after \d+ attempts"):
        storage.get_bytes(f"{s3.uri}/x")


def test_an_upload_that_fails_for_good_is_aborted(s3: S3, proxy: FaultProxy, big: Path) -> None:
    class StopError(Exception):
        pass

    parts: list[object] = []

    def stop_at_the_third_part(params: dict[str, object], **_rest: object) -> None:
        parts.append(params["PartNumber"])
        if len(parts) == 3:
            raise StopError

    events = connection().client(s3.uri).meta.events
    events.register("provide-client-params.s3.UploadPart", stop_at_the_third_part)
    with pytest.raises(StopError):
        storage.put_file(f"{s3.uri}/big", big)
    assert uploads_left(s3) == 0
    assert storage.stat(f"{s3.uri}/big") is None


UPLOAD = """
import sys
from pathlib import Path
from landseg import storage
storage.put_file(sys.argv[1], Path(sys.argv[2]))
"""


def test_the_upload_of_a_killed_process_is_invisible_and_can_be_cleaned(s3: S3, proxy: FaultProxy, big: Path) -> None:
    proxy.faults = Faults(latency_s=0.3)
    uri = f"{s3.uri}/big"
    with subprocess.Popen([sys.executable, "-c", UPLOAD, uri, str(big)], cwd=Path(__file__).parents[2]) as process:
        proxy.events = {3: process.kill}  # when its upload has begun
    assert process.returncode == -signal.SIGKILL
    proxy.faults = Faults()
    assert storage.stat(uri) is None
    assert uploads_left(s3) == 1
    assert storage.clean_abandoned(s3.uri) == 0  # young ones may be at work
    assert storage.clean_abandoned(s3.uri + "-other", older_than_s=0) == 0
    assert storage.clean_abandoned(s3.uri, older_than_s=0) == 1
    assert uploads_left(s3) == 0
