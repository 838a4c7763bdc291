"""doctor: what it checks and how it fails."""

import http.client
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from http_server import Quiet, serving

from landseg.cli.main import main


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    return {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_reports_this_machine_and_its_storage(tmp_path, capsys):
    assert main(["doctor", "--json", "--storage-uri", str(tmp_path)]) == 0
    found = findings(capsys)
    assert found["object storage"]["ok"] is True
    assert "numpy" in str(found["packages"]["found"])
    assert not list(tmp_path.rglob("probe"))


def test_names_every_failure_in_one_line(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    status = main(["doctor", "--min-scratch-gb", "1e9", "--gpus", "99", "--storage-uri", str(blocked)])
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert "scratch: expected 1e+09 GiB" in error
    assert "GPUs: expected 99" in error
    assert "object storage" in error


@pytest.mark.parametrize("flag", ["--gpus=-1", "--min-shm-gb=nan", "--min-scratch-gb=-1", "--min-scratch-gb=inf"])
def test_a_minimum_is_a_number_from_0(flag, capsys):
    assert main(["doctor", flag]) == 2
    assert f"{flag.partition('=')[0]}: expected at least 0, found" in capsys.readouterr().err


def test_wrong_credentials_are_named(s3, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert main(["doctor", "--storage-uri", s3.uri]) == 2
    assert "AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err


@pytest.fixture
def no_delete(s3) -> Iterator[str]:
    """The endpoint through a proxy that refuses to delete, as a bucket's policy may."""

    class Policy(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream = http.client.HTTPConnection(s3.server.host, s3.server.port)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            self.answer(answer.status, answer.read(), dict(answer.getheaders()))

        def refuse(self) -> None:
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>", {})

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    for method in ("GET", "PUT", "HEAD", "POST"):
        setattr(Policy, f"do_{method}", Policy.forward)
    Policy.do_DELETE = Policy.refuse

    with serving(Policy) as address:
        yield address


def test_the_right_that_is_missing_is_named(s3, no_delete, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", no_delete)
    assert main(["doctor", "--storage-uri", s3.uri]) == 2
    error = capsys.readouterr().err
    assert "object storage: cannot delete" in error
    assert "AccessDenied" in error
    assert "cannot read" not in error
    assert "cannot list" not in error
