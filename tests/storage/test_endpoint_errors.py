"""Every refusal of an S3 endpoint is one line that says what to do."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from http_server import Quiet, serving
from s3_endpoint import S3

from landseg import storage
from landseg.contracts.errors import StorageError
from pipelines.errors import UserError
from pipelines.object_storage import s3_client


def operations(uri: str, tmp_path: Path) -> list[Callable[[], object]]:
    big = tmp_path / "big"
    with big.open("wb") as writer:
        writer.truncate(40 << 20)
    return [
        lambda: storage.put_bytes(uri, b"x"),
        lambda: storage.put_file(uri, big),
        lambda: storage.get_bytes(uri),
        lambda: storage.get_file(uri, tmp_path / "target"),
        lambda: storage.list_objects(storage.parent(uri)),
    ]


def test_a_bucket_that_does_not_exist(s3: S3, tmp_path: Path) -> None:
    for operation in operations("s3://no-such-bucket/a/b", tmp_path):
        with pytest.raises(StorageError, match=r"^s3://no-such-bucket/\S+: the bucket does not exist \(create it"):
            operation()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "wrong-and-secret")
    for operation in [*operations(s3.uri + "/x", tmp_path), lambda: storage.stat(s3.uri + "/x")]:
        with pytest.raises(StorageError, match=r"access denied by object storage .*check AWS_ACCESS_KEY_ID") as caught:
            operation()
        assert "wrong-and-secret" not in str(caught.value)
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"])
def test_a_secret_with_a_line_break(s3: S3, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As `echo` makes it; no header can hold it, and waiting for another network does not help."""
    monkeypatch.setenv(name, "wrong-and-secret\n")
    for ask in (lambda: storage.stat(f"{s3.uri}/x"), s3_client):
        with pytest.raises((StorageError, UserError), match=f"{name}: expected a value without spaces") as caught:
            ask()
        assert "wrong-and-secret" not in str(caught.value)


def test_a_token_file_that_is_not_there(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/landseg")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(StorageError, match=r"token cannot be read: no such file .*check AWS_WEB_IDENTITY_TOKEN_FILE"):
        storage.stat(f"{s3.uri}/x")


def test_no_credentials(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match=r"no credentials for object storage.*set AWS_ACCESS_KEY_ID"):
        storage.get_bytes(s3.uri + "/x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "half")
    with pytest.raises(StorageError, match=r"missing: AWS_SECRET_ACCESS_KEY \(check the AWS_\* environment\)"):
        storage.get_bytes(s3.uri + "/x")


def test_nobody_listens_there(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, not listening: refuses connections
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        with pytest.raises(StorageError, match=rf"127\.0\.0\.1:{port} is out of reach: connection refused; gave up"):
            storage.get_bytes(s3.uri + "/x")
        assert time.monotonic() - start < 60  # an endpoint that has answered gets 120


def test_a_host_name_that_does_not_exist(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000")
    monkeypatch.setenv("LANDSEG_S3_RETRY_S", "0.5")
    with pytest.raises(StorageError, match=r"no-such-host\.invalid:9000 is out of reach: .*check AWS_ENDPOINT_URL"):
        storage.get_bytes(s3.uri + "/x")


@pytest.mark.parametrize("endpoint", ["localhost:9000", "not a url", "http://"])
def test_an_endpoint_that_is_no_url(s3: S3, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match=r"cannot set up object storage: .*check the AWS_"):
        storage.get_bytes(s3.uri + "/x")


def test_a_password_in_the_endpoint_is_not_shown(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter2@127.0.0.1:1")
    monkeypatch.setenv("LANDSEG_S3_RETRY_S", "0")
    with pytest.raises(StorageError) as caught:
        storage.get_bytes(s3.uri + "/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "1e9", ""])
def test_a_retry_budget_that_is_no_number(s3: S3, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("LANDSEG_S3_RETRY_S", value)
    with pytest.raises(StorageError, match=r"LANDSEG_S3_RETRY_S: expected seconds between 0 and 86400"):
        storage.get_bytes(s3.uri + "/x")


def test_threads_and_a_changed_environment_get_the_right_connection(
    s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage.put_many((f"{s3.uri}/{n}", b"x") for n in range(50))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="access denied"):
        storage.get_bytes(f"{s3.uri}/1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.server.secret_key)
    assert storage.get_bytes(f"{s3.uri}/1") == b"x"


def be_client_of(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT_URL", address), ("ACCESS_KEY_ID", "landseg"), ("SECRET_ACCESS_KEY", "landseg")):
        monkeypatch.setenv(f"AWS_{name}", value)


def test_an_error_answer_that_breaks_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [b"<Error><Code>BadDigest</Code></Error>"]

    class Broken(Quiet):
        def do_PUT(self) -> None:  # noqa: N802  (http.server's name)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.close_connection = True
            error = errors.pop() if errors else b""
            self.send_response(400 if error else 200)
            self.send_header("ETag", '"landseg"')
            self.send_header("Content-Length", str(len(error)))
            self.end_headers()

    with serving(Broken) as address:
        be_client_of(address, monkeypatch)
        storage.put_bytes("s3://bucket/a", b"landseg")
    assert not errors


def test_an_answer_that_breaks_off_within_a_date_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    dates = ["Mon, 30 Nov 2026 04:", "Mon, 30 Nov 2026 04:12:01 GMT"]

    class Broken(Quiet):
        def do_HEAD(self) -> None:  # noqa: N802  (http.server's name)
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.send_header("ETag", '"landseg"')
            self.send_header("Last-Modified", dates.pop(0))
            self.end_headers()

    with serving(Broken) as address:
        be_client_of(address, monkeypatch)
        found = storage.stat("s3://bucket/a")
    assert found is not None
    assert found.size_bytes == 7
    assert not dates
