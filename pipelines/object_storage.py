"""Object storage as the commands see it: for what they look at themselves. Stages use `landseg.storage`."""

from __future__ import annotations

import os
from typing import Any

import boto3
import botocore.config

from pipelines.timeouts import TIMEOUT_S


def s3_client() -> Any:
    """An S3 client that gives up early: a person is waiting for the command."""
    config = botocore.config.Config(
        connect_timeout=TIMEOUT_S[0],
        read_timeout=TIMEOUT_S[1],
        retries={"mode": "standard", "total_max_attempts": 2},
        s3={"addressing_style": os.environ.get("LANDSEG_S3_ADDRESSING", "path")},
    )
    return boto3.session.Session().client("s3", config=config)
