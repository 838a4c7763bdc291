"""An S3 endpoint on loopback that refuses what some real ones refuse, and stores nothing."""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from http_server import Quiet


@dataclass
class PickyS3:
    """Use as a context manager.

    Attributes:
        refuses_checksums: CRC headers and chunked signing, as OVH, Infomaniak, older Ceph and GCS do.
        region: which requests must be signed for; empty for any.
        encryption: what requests that write must ask for, as a bucket's policy may demand.
        context: of TLS.
        written: headers of each request that wrote.
        num_connections: how many were asked for, those that ended in the TLS handshake included.
    """

    refuses_checksums: bool = False
    region: str = ""
    encryption: str = ""
    context: ssl.SSLContext | None = None
    written: list[dict[str, str]] = field(default_factory=list)
    num_connections: int = 0

    def __enter__(self) -> Self:
        picky = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                if code := picky.refusal(headers):
                    self.answer(403 if code == "AccessDenied" else 400, f"<Error><Code>{code}</Code></Error>")
                    return
                picky.written.append(headers)
                self.answer(200, "", etag='"d41d8cd98f00b204e9800998ecf8427e"')

            def do_DELETE(self) -> None:
                self.answer(204, "")

            def do_GET(self) -> None:
                self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")

            def do_HEAD(self) -> None:
                self.answer(404, "")

            def answer(self, status: int, body: str, etag: str = "") -> None:
                self.send_response(status)
                if etag:
                    self.send_header("ETag", etag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

        class Server(ThreadingHTTPServer):
            def get_request(self) -> tuple[Any, Any]:
                picky.num_connections += 1
                return super().get_request()

        self._http = Server(("127.0.0.1", 0), Handler)
        if self.context:
            self._http.socket = self.context.wrap_socket(self._http.socket, server_side=True)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http{'s' if self.context else ''}://127.0.0.1:{self._http.server_address[1]}"

    def refusal(self, headers: dict[str, str]) -> str:
        """The error code for a request that writes; empty for one that is accepted."""
        sums = [name for name in headers if name.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer"))]
        if self.refuses_checksums and (sums or "aws-chunked" in headers.get("content-encoding", "")):
            return "NotImplemented"
        if self.region and f"/{self.region}/s3/" not in headers["authorization"]:
            return "AuthorizationHeaderMalformed"
        if self.encryption and headers.get("x-amz-server-side-encryption") != self.encryption:
            return "AccessDenied"
        return ""
