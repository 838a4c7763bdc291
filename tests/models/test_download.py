"""Downloads go where they were sent, no further, and end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from http_server import Quiet, serving, serving_files

from landseg.contracts.errors import ConfigError, StorageError
from landseg.models.configs import load_config
from landseg.models.weights import download as module
from landseg.models.weights.download import download


class Odd(Quiet, BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/announced":
            self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        try:
            if self.path == "/slow":
                for _ in range(50):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            else:
                self.wfile.write(b"a = 1\n" if self.path != "/endless" else bytes(1 << 20))
        except OSError:
            pass


@pytest.fixture
def server() -> Iterator[str]:
    with serving(Odd) as address:
        yield address


def test_a_redirect_to_a_host_like_the_one_asked_for_is_followed(server: str, tmp_path: Path) -> None:
    download(f"{server}/to/{server}/file", tmp_path / "a")
    download(f"{server}/to//file", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"a = 1\n"


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("ftp://127.0.0.1/x", "expected redirects to http only, found one to ftp://127.0.0.1"),
        ("file:///etc/hostname", "expected redirects to http only, found one to file:"),
        ("data:text/plain,x", "expected redirects to http only"),
        ("http://169.254.169.254/latest", "found one to a link-local host"),
        ("http://[::ffff:169.254.169.254]/latest", "found one to a link-local host"),
        ("http://[fd00:ec2::254]/latest", "found one to a link-local host"),
        ("http://10.0.0.1/x", "found one to a private host"),
        ("http://192.168.1.1/x", "found one to a private host"),
    ],
)
def test_redirects_elsewhere_are_refused(server: str, tmp_path: Path, target: str, problem: str) -> None:
    with pytest.raises(StorageError, match="expected redirects") as caught:
        download(f"{server}/to/{target}", tmp_path / "a")
    assert problem in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0.0.0.0", "[::1]"])
def test_a_public_host_leads_to_no_loopback(server: str, host: str) -> None:
    redirects = module._Redirects("http://8.8.8.8/w.pth")
    with pytest.raises(module._RefusedError, match="loopback"):
        redirects.check("http://8.8.8.8/w.pth", f"http://{host}/x")


def test_https_does_not_become_http() -> None:
    redirects = module._Redirects("https://8.8.8.8/w.pth")
    with pytest.raises(module._RefusedError, match="expected redirects to https only"):
        redirects.check("https://8.8.8.8/w.pth", "http://8.8.8.8/w.pth")


def test_sizes_and_times_are_limited(server: str, tmp_path: Path) -> None:
    for path in ("announced", "endless"):
        with pytest.raises(StorageError, match=r"expected a file of at most 0\.\d MiB"):
            download(f"{server}/{path}", tmp_path / "a", max_bytes=100_000)
    with pytest.raises(StorageError, match=r"expected the file within 0 s"):
        download(f"{server}/slow", tmp_path / "a", max_seconds=0.2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "_base_ = 5",
        "_base_ = [['x']]",
        "a=" + "1+" * 100_000 + "1",
        '_base_ = "//[/x"',
        '_base_ = "//other/x.py"',
        '_base_ = "http://169.254.169.254/x.py"',
        '_base_ = "file:///etc/hostname"',
        "_base_ = (",
    ],
)
def test_odd_bases_of_remote_configs_are_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text(text)
    with serving_files(tmp_path) as address, pytest.raises(ConfigError) as caught:
        load_config(f"{address}/c.py")
    assert "\n" not in str(caught.value)
