"""The S3 endpoint that the demo starts and stops."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.local.embedded_s3 import EmbeddedS3

HOLD = """
import sys, time
sys.path.insert(0, {root!r})
from pipelines.local.embedded_s3 import EmbeddedS3
server = EmbeddedS3({folder!r})
server.start()
print(server._server.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = HOLD.format(root=str(Path(__file__).parents[3]), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert alive(pid)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        deadline = time.monotonic() + 60
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_secret_is_neither_on_the_command_line_nor_in_the_log(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as server:
        assert server._server is not None
        assert server.secret_key not in Path(f"/proc/{server._server.pid}/cmdline").read_text()
        assert server.secret_key not in server.log()
        assert server.access_key not in server.log()


def test_a_port_that_is_taken_is_an_error_that_says_so(tmp_path: Path) -> None:
    with (
        EmbeddedS3(tmp_path / "a") as first,
        pytest.raises(RuntimeError, match=r"did not start on .*address already in use"),
    ):
        EmbeddedS3(tmp_path / "b", port=first.port).start()


def test_it_can_be_started_again_and_keeps_its_objects(tmp_path: Path) -> None:
    server = EmbeddedS3(tmp_path, buckets=["one"])
    server.start()
    (tmp_path / "one" / "x").write_bytes(b"1")
    server.stop()
    server.stop()
    server.start()
    assert (tmp_path / "one" / "x").exists()
    server.stop()
