"""A bad network on demand: an HTTP proxy in front of an S3 endpoint that adds latency and injects faults.

Requests are forwarded byte for byte, the Host header included, so signatures made for the proxy's address stay valid
(an S3 endpoint checks the signature against the Host header it receives). What happens to a request is drawn from the
seed, the request's method, path and range, and how often that request has been seen: however threads interleave, the
same requests meet the same faults.

In a test: `with FaultProxy(s3.endpoint, Faults(error_rate=0.05)) as proxy: ...`. For timings, in a separate process:
`with spawned(s3.endpoint, Faults(latency_s=0.02)) as endpoint: ...`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import math
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast
from urllib.parse import urlsplit

_BLOCK = 256 << 10
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST instead of FIN


@dataclass(frozen=True)
class Faults:
    """Shares of requests (0-1) that meet each fault, and delays.

    Attributes:
        error_rate: answered 500 or 503 without reaching the endpoint.
        reset_rate: connection reset in mid-body, of the upload where there is one, else of the answer.
        truncate_rate: done by the endpoint, but the answer, its head included, ends early.
        flip_rate: one bit of a downloaded object's body is flipped.
        upload_flip_rate: one bit of an upload's body is flipped.
        stall_rate, stall_s: the answer comes this much later.
        latency_s: added to every request.
    """

    error_rate: float = 0.0
    reset_rate: float = 0.0
    truncate_rate: float = 0.0
    flip_rate: float = 0.0
    upload_flip_rate: float = 0.0
    stall_rate: float = 0.0
    stall_s: float = 0.0
    latency_s: float = 0.0


class _ResetError(Exception):
    """Drop the client's connection the hard way."""


@dataclass
class _Message:
    """The head of a request or an answer, and how its body is framed."""

    head: bytes
    length: int
    chunked: bool

    @property
    def start(self) -> list[str]:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)

    def header(self, name: str) -> str:
        found = re.search(rb"\r\n" + name.encode() + rb":[ \t]*([^\r]*)", self.head, re.IGNORECASE)
        return found.group(1).decode("latin-1") if found else ""


class FaultProxy:
    """A threaded proxy in this process.

    Args:
        upstream: URL of the endpoint.
        faults: what to inject; may be replaced while it runs.
        seed: of the draws.

    Attributes:
        counts: requests, bytes of their bodies, and faults by name, so far.
        down: while True every connection is reset at once (an outage).
        events: what to do when so many requests have come, once each, e.g. `{20: lambda: proxy.outage(30)}`.
    """

    def __init__(self, upstream: str, faults: Faults | None = None, *, seed: int = 0) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.faults = faults or Faults()
        self.seed = seed
        self.down = False
        self.events: dict[int, Callable[[], object]] = {}
        self.counts: collections.Counter[str] = collections.Counter()
        self._seen: collections.Counter[str] = collections.Counter()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    @property
    def endpoint(self) -> str:
        """The URL for clients."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._drop_all()

    def outage(self, seconds: float) -> None:
        """Be out of reach for a while (`math.inf`: for good), beginning now."""
        self.down = True
        self._drop_all()
        if math.isinf(seconds):
            return
        timer = threading.Timer(seconds, setattr, (self, "down", False))
        timer.daemon = True
        timer.start()

    def _drop_all(self) -> None:
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        reader = cast(BinaryIO, client.makefile("rb", buffering=_BLOCK))
        server: socket.socket | None = None
        try:
            while request := _read_head(reader):
                if self.down:
                    raise _ResetError
                if server is None:
                    server = socket.create_connection(self._upstream)
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    answers = cast(BinaryIO, server.makefile("rb", buffering=_BLOCK))
                if not self._exchange(request, reader, client, server, answers):
                    return
        except _ResetError:
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except (OSError, EOFError, ValueError):
            pass  # one of the two sides went away: so does the other
        finally:
            with self._lock:
                self._open.discard(client)
            reader.close()  # the socket is closed for real only when its file is
            client.close()
            if server is not None:
                answers.close()
                server.close()

    def _exchange(
        self,
        request: _Message,
        reader: BinaryIO,
        client: socket.socket,
        server: socket.socket,
        answers: BinaryIO,
    ) -> bool:
        """One request and its answer; False where the connection ends with it."""
        faults, draw = self.faults, self._draw(request)
        error, reset, truncate = draw.random(), draw.random(), draw.random()
        flip, upload_flip, stall, where = draw.random(), draw.random(), draw.random(), draw.random()
        if faults.latency_s:
            time.sleep(faults.latency_s)
        if request.header("Expect"):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if error < faults.error_rate:
            for _ in _body(request, reader):
                pass
            status = self._count(draw.choice(["500 Internal Server Error", "503 Slow Down"]))
            client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            return True
        has_upload = request.length > 0 or request.chunked
        cut = where if reset < faults.reset_rate and has_upload else None
        flipped = where if upload_flip < faults.upload_flip_rate and request.length > 0 else None
        self._relay(request, reader, server, cut=cut, flip=flipped, fault="upload", head=_without_expect(request.head))
        if cut is not None:
            raise _ResetError
        answer = _read_head(answers)
        if answer is None:
            return False
        if request.start[0] == "HEAD" or answer.start[1] in {"204", "304"}:
            answer.length, answer.chunked = 0, False
        with self._lock:
            self.counts["bytes downloaded"] += max(0, answer.length)
        if stall < faults.stall_rate:
            self._count("stall")
            time.sleep(faults.stall_s)
        is_object = request.start[0] == "GET" and answer.length > 0 and "xml" not in answer.header("Content-Type")
        flipped = where if flip < faults.flip_rate and is_object else None
        if reset < faults.reset_rate:
            self._relay(answer, answers, client, cut=where, fault="answer")
            raise _ResetError
        if truncate < faults.truncate_rate:
            self._count("truncated")
            whole = answer.head + b"".join(_body(answer, answers))
            client.sendall(whole[: int(where * len(whole))])
            return False
        self._relay(answer, answers, client, flip=flipped, fault="answer")
        return answer.header("Connection").lower() != "close"

    def _relay(
        self,
        message: _Message,
        source: BinaryIO,
        target: socket.socket,
        *,
        fault: str,
        cut: float | None = None,
        flip: float | None = None,
        head: bytes | None = None,
    ) -> None:
        """Pass a message on; `cut` and `flip` say after which share of the body it ends or has a bit wrong."""
        target.sendall(message.head if head is None else head)
        cut_at = None if cut is None else int(cut * message.length)
        flip_at = None if flip is None else int(flip * message.length)
        at = 0
        for block in _body(message, source):
            if flip_at is not None and at <= flip_at < at + len(block):
                self._count(f"{fault} bit flipped")
                changed = bytearray(block)
                changed[flip_at - at] ^= 1 << (flip_at % 8)
                block = bytes(changed)
            if cut_at is not None and at + len(block) > cut_at:
                target.sendall(block[: cut_at - at])
                break
            target.sendall(block)
            at += len(block)
        if cut is not None:
            self._count(f"{fault} reset")

    def _draw(self, request: _Message) -> random.Random:
        """The random numbers of one request."""
        method, path, _ = request.start
        path = re.sub(r"uploadId=[^&]*", "", path)  # drawn by the endpoint
        name = f"{method} {path} {request.header('Range')}"
        with self._lock:
            self.counts["requests"] += 1
            self.counts["bytes uploaded"] += request.length
            event = self.events.pop(self.counts["requests"], None)
            self._seen[name] += 1
            draw = random.Random(f"{self.seed} {name} {self._seen[name]}")
        if event is not None:
            event()
        return draw

    def _count(self, fault: str) -> str:
        with self._lock:
            self.counts[fault] += 1
        return fault


def _read_head(reader: BinaryIO) -> _Message | None:
    """The next message's head, or None where the connection has ended."""
    lines = [reader.readline()]
    if not lines[0]:
        return None
    while lines[-1] not in {b"\r\n", b""}:
        lines.append(reader.readline())
    if not lines[-1]:
        return None
    message = _Message(b"".join(lines), 0, False)
    message.length = int(message.header("Content-Length") or 0)
    message.chunked = "chunked" in message.header("Transfer-Encoding").lower()
    return message


def _body(message: _Message, reader: BinaryIO) -> Iterator[bytes]:
    """A body in blocks, as it stands on the wire: chunked framing is passed on."""
    if not message.chunked:
        left = message.length
        while left:
            block = reader.read(min(left, _BLOCK))
            if not block:
                raise EOFError
            left -= len(block)
            yield block
        return
    size = 1
    while size:
        line = reader.readline()
        size = int(line.split(b";")[0], 16)
        yield line + reader.read(size + 2)


def _without_expect(head: bytes) -> bytes:
    """The proxy has answered `Expect: 100-continue` itself; the header is never part of a signature."""
    return re.sub(rb"\r\nExpect:[^\r]*", b"", head, flags=re.IGNORECASE)


@contextlib.contextmanager
def spawned(upstream: str, faults: Faults, *, seed: int = 0) -> Iterator[str]:
    """Run the proxy in a separate process, so that it does not share the interpreter with what is timed; its URL."""
    values = [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(faults).items()]
    command = [sys.executable, str(Path(__file__).resolve()), upstream, f"--seed={seed}", *values]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def main() -> None:
    """Serve until standard input closes; prints the URL."""
    parser = argparse.ArgumentParser(description="An HTTP proxy that adds latency and faults.")
    parser.add_argument("upstream", metavar="URL")
    parser.add_argument("--seed", type=int, default=0)
    for field in dataclasses.fields(Faults):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    args = parser.parse_args()
    faults = Faults(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Faults)})
    with FaultProxy(args.upstream, faults, seed=args.seed) as proxy:
        print(proxy.endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
