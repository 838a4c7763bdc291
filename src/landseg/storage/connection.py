"""The connection to an S3-compatible endpoint: boto3's client, and what has been learnt about the endpoint.

boto3 takes a third of a second to import, so it is imported with the first client: local paths do without it.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import tomllib
from pathlib import Path
from typing import Any

from landseg.contracts.errors import StorageError

SETTINGS = Path(__file__).with_name("client.toml")
"""How clients are set up, here and in `pipelines`."""

_ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
    "LANDSEG_S3_ADDRESSING",
    "LANDSEG_S3_SSE",
)


class Connection:
    """One process's connection to the endpoint and with the credentials of one environment.

    Attributes:
        reached: whether the endpoint has ever answered; decides how long a failing request is repeated.
    """

    def __init__(self) -> None:
        self.reached = False
        self._client: Any = None
        self._making = threading.Lock()

    def client(self, uri: str) -> Any:
        """boto3's S3 client, made on first use.

        Args:
            uri: what it is needed for, for the error line.

        Raises:
            StorageError: the environment does not describe an endpoint.
        """
        if self._client is None:
            import botocore.exceptions

            try:
                with self._making:  # a client takes a third of a second to make: one thread makes it, the others wait
                    self._client = self._client or _new_client()
            except (ValueError, botocore.exceptions.BotoCoreError) as err:
                problem = f"cannot set up object storage: {err}"
                raise StorageError(uri, problem, "check the AWS_* environment") from err
        return self._client


def connection() -> Connection:
    """The connection of this process with the environment as it is now.

    Looking one up neither connects nor changes anything. A forked process gets one of its own, because processes must
    not share sockets, and so does a changed environment.
    """
    return _connection(os.getpid(), tuple(os.environ.get(name) for name in _ENVIRONMENT))


@functools.cache
def _connection(process: int, environment: tuple[str | None, ...]) -> Connection:
    return Connection()


def endpoint_has_answered() -> bool:
    """Whether the endpoint has answered this process: what to tell the processes it starts (:func:`expect_answers`)."""
    return connection().reached


def expect_answers(answered: bool) -> None:
    """Tell a process that has just begun what the one that started it knows of the endpoint.

    An endpoint that never answered is soon given up on, one that has is waited for (:mod:`landseg.storage.retry`); a
    child that begins during an outage has to know which of the two it has.

    Args:
        answered: :func:`endpoint_has_answered` in the process that started this one.
    """
    if answered:
        connection().reached = True


def _new_client() -> Any:
    import boto3
    from botocore.config import Config
    from botocore.handlers import add_expect_header

    settings = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    for name in settings["unbroken"]["variables"]:
        if not re.fullmatch(settings["unbroken"]["pattern"], os.environ.get(name, "")):
            # Not repeated: it may be a secret.
            raise ValueError(f"{name}: expected a value without spaces and line breaks, found one with them")
    defaults = settings["defaults"]
    given = {
        key: next(filter(None, map(os.environ.get, names)), defaults.get(key))
        for key, names in settings["environment"].items()
    }
    config = Config(
        **settings["config"],
        retries={"total_max_attempts": 1},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=64,
        s3={"addressing_style": given["addressing"]},
    )
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and not Path(bundle).exists():
        raise ValueError(f"AWS_CA_BUNDLE: expected the file of a certificate authority, found none at {bundle}")
    client = boto3.session.Session().client("s3", config=config, region_name=given["region"])
    client.meta.events.register("before-parse.s3", _refuse_half_an_answer)
    # Files would be announced, and sent once the endpoint agrees: a round trip more, a second where it never does.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    if given["sse"]:
        extra = _encryption(given["sse"], settings["sse"]["pattern"])
        for operation in settings["sse"]["operations"]:
            event = f"provide-client-params.s3.{operation}"
            client.meta.events.register(event, lambda params, **_: {**extra, **params})
    return client


def _encryption(value: str, pattern: str) -> dict[str, str]:
    """Parameters that ask for encryption in storage.

    Raises:
        ValueError: `LANDSEG_S3_SSE` asks for something else.
    """
    found = re.fullmatch(pattern, value)
    if not found or (found[1] == "AES256" and found[2]):
        raise ValueError(f"LANDSEG_S3_SSE: expected AES256, aws:kms or aws:kms:<key>, found {value!r}")
    return {"ServerSideEncryption": found[1], **({"SSEKMSKeyId": found[2]} if found[2] else {})}


def _refuse_half_an_answer(operation_model: Any, response_dict: dict[str, Any], **_rest: object) -> None:
    """Refuse an answer that was cut off and is taken for a whole one with an empty body, an error without its name."""
    headers = {name.lower(): value for name, value in response_dict["headers"].items()}
    body = response_dict["body"]
    if operation_model.http["method"] == "HEAD" or response_dict["status_code"] in {204, 304}:
        return
    is_framed = bool(headers.keys() & {"content-length", "transfer-encoding", "connection"})
    if not is_framed or (body == b"" and int(headers.get("content-length", 0)) > 0):
        raise ConnectionError("the answer was cut off")
