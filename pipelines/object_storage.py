"""Object storage as the commands see it: for what they look at themselves. Stages use `landseg.storage`."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

from components.images import ROOT
from pipelines.errors import UserError
from pipelines.timeouts import TIMEOUT_S

_SETTINGS = ROOT / "src" / "landseg" / "storage" / "client.toml"


def s3_client() -> Any:
    """An S3 client set up as the stages' is (landseg/storage/connection.py), but giving up early: a person is waiting.

    Raises:
        UserError: a variable of the environment says what no client can be set up with.
    """
    settings = tomllib.loads(_SETTINGS.read_text(encoding="utf-8"))
    for name in settings["unbroken"]["variables"]:
        if not re.fullmatch(settings["unbroken"]["pattern"], os.environ.get(name, "")):
            # Not repeated: it may be a secret.
            raise UserError(f"{name}: expected a value without spaces and line breaks, found one with them")
    defaults = settings["defaults"]
    given = {
        key: next(filter(None, map(os.environ.get, names)), defaults.get(key))
        for key, names in settings["environment"].items()
    }
    try:
        config = botocore.config.Config(
            **settings["config"],
            connect_timeout=TIMEOUT_S[0],
            read_timeout=TIMEOUT_S[1],
            retries={"mode": "standard", "total_max_attempts": 2},
            s3={"addressing_style": given["addressing"]},
        )
        client = boto3.session.Session().client("s3", config=config, region_name=given["region"])
    except (ValueError, botocore.exceptions.BotoCoreError) as err:
        raise UserError(f"cannot set up object storage: {err} (check the AWS_* environment)") from err
    if sse := given["sse"]:
        found = re.fullmatch(settings["sse"]["pattern"], sse)
        if not found or (found[1] == "AES256" and found[2]):
            raise UserError(f"LANDSEG_S3_SSE: expected AES256, aws:kms or aws:kms:<key>, found {sse!r}")
        extra = {"ServerSideEncryption": found[1], **({"SSEKMSKeyId": found[2]} if found[2] else {})}
        for operation in settings["sse"]["operations"]:
            client.meta.events.register(
                f"provide-client-params.s3.{operation}", lambda params, **_: {**extra, **params}
            )
    return client
