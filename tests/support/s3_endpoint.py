"""The value of the fixture `s3`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.local.embedded_s3 import EmbeddedS3


@dataclass
class S3:
    """The embedded endpoint as one test sees it.

    Attributes:
        server: the endpoint, shared by the tests of a process.
        uri: `s3://test/<this test's own prefix>`.
        folder: where the objects below `uri` are on disk.
    """

    server: EmbeddedS3
    uri: str
    folder: Path
