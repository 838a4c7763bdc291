"""Requests to an S3-compatible endpoint: one retry policy for all of them, one clear line for every failure.

boto3 signs and parses; its own retries are switched off, because they neither cover a body that breaks off nor tell an
outage from a wrong address (see :mod:`landseg.storage.retry`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import botocore.exceptions as boto_errors
import urllib3
from botocore.parsers import ResponseParserError

from landseg.contracts.errors import ObjectNotFoundError, StorageError
from landseg.storage.connection import connection
from landseg.storage.retry import TransientError, retrying
from landseg.storage.uris import split

R = TypeVar("R")

PART_BYTES = 16 << 20
"""What is sent or fetched in one request of a large object."""
PARTS_AT_ONCE = 4
"""Requests in which a large object is sent or fetched at the same time."""

_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
# Answered with 4xx, yet another attempt may succeed: bytes damaged or cut off on the way up, throttling.
_TRANSIENT_CODES = {"BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown", "Throttling", "OperationAborted"}
_TRANSPORT_ERRORS = (
    boto_errors.ConnectionError,
    boto_errors.HTTPClientError,
    boto_errors.IncompleteReadError,
    ResponseParserError,  # an answer that was cut off
    urllib3.exceptions.HTTPError,  # the same in the body of an error answer, which botocore passes on as it is
    ConnectionError,
    TimeoutError,
)
_CREDENTIAL_ERRORS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
)
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)  # answers that are cut off are handled here
_TOKEN_FILE = "AWS_WEB_IDENTITY_TOKEN_FILE"
_CREDENTIALS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def ask(uri: str, operation: str, **arguments: Any) -> dict[str, Any]:
    """One request whose answer is all in its headers and its XML, e.g. `ask(uri, "list_objects_v2", Bucket="b")`."""
    answer: dict[str, Any] = request(uri, lambda client: getattr(client, operation)(**arguments))
    return answer


def request(uri: str, call: Callable[[Any], R]) -> R:
    """Repeat one request until it succeeds or has failed for good.

    Args:
        uri: what it is about, for the error line.
        call: makes the request with the given client and reads all it needs of the answer, so that a truncated
            body and a header that is missing (KeyError) or cannot be read (ValueError) are failures of the request.
    """
    endpoint = connection()
    client = endpoint.client(uri)
    address = str(client.meta.endpoint_url).rpartition("@")[2]  # without a password

    def attempt() -> R:
        try:
            result = call(client)
        except boto_errors.ClientError as err:
            endpoint.reached = True
            raise _refused(uri, err) from err
        except _CREDENTIAL_ERRORS as err:
            raise StorageError(uri, f"no credentials for object storage: {err}", _CREDENTIALS_HINT) from err
        except boto_errors.SSLError as err:
            if "CERTIFICATE_VERIFY_FAILED" not in str(err):
                raise TransientError(_out_of_reach(uri, address, err)) from err
            raise _untrusted(uri, address, err) from err
        except _TRANSPORT_ERRORS as err:
            raise TransientError(_out_of_reach(uri, address, err)) from err
        except OSError as err:
            if not err.filename or err.filename != os.environ.get(_TOKEN_FILE):
                raise  # of a file that is sent or received
            problem = f"{err.filename} cannot be read: {(err.strerror or '').lower()}"
            raise StorageError(uri, f"no credentials for object storage: {problem}", f"check {_TOKEN_FILE}") from err
        except KeyError as err:
            raise TransientError(StorageError(uri, f"object storage left {err} out of its answer")) from err
        except ValueError as err:  # a date that breaks off with the answer's head
            raise TransientError(StorageError(uri, f"the answer of object storage cannot be read: {err}")) from err
        except boto_errors.BotoCoreError as err:
            raise StorageError(uri, f"object storage cannot be used: {err}") from err
        endpoint.reached = True
        return result

    return retrying(attempt, lambda: endpoint.reached)


def _out_of_reach(uri: str, address: str, err: BaseException) -> StorageError:
    problem = f"object storage at {address} is out of reach: {_reason(err)}"
    return StorageError(uri, problem, "check AWS_ENDPOINT_URL and the network")


def _untrusted(uri: str, address: str, err: BaseException) -> StorageError:
    """A certificate that another attempt would not trust either."""
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    trusted = f"the authorities in {bundle}" if bundle else "the usual authorities"
    reason = str(err).partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "certificate verify failed"
    problem = f"the certificate of object storage at {address} is not signed by {trusted}: {reason}"
    return StorageError(uri, problem, "set AWS_CA_BUNDLE to a file with the certificate authority that signed it")


def _refused(uri: str, err: boto_errors.ClientError) -> Exception:
    """What an error answer means: no such object, not allowed, or worth another attempt."""
    name = code(err)
    status = err.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if name == "NoSuchBucket":
        return StorageError(uri, "the bucket does not exist", "create it first")
    if name in {"NoSuchKey", "404", "NotFound"}:
        return ObjectNotFoundError(uri, "no such object")
    if name == "RequestTimeTooSkewed":
        return StorageError(uri, "object storage refuses this machine's clock", "set the clock")
    if status in {401, 403}:
        return StorageError(
            uri,
            f"access denied by object storage ({name})",
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
        )
    final = StorageError(uri, f"object storage answered {status} ({name})")
    return TransientError(final) if status in _TRANSIENT_STATUS or name in _TRANSIENT_CODES else final


def code(err: BaseException) -> str:
    """S3's error code behind an error of :func:`request`, or an empty string."""
    err = err.__cause__ or err
    return str(err.response.get("Error", {}).get("Code", "")) if isinstance(err, boto_errors.ClientError) else ""


def _reason(err: BaseException) -> str:
    """The operating system's own words where there are any, e.g. `connection refused`."""
    cause: BaseException | None = err
    words = ""
    while cause is not None:
        words = cause.strerror.lower() if isinstance(cause, OSError) and cause.strerror else words
        cause = cause.__cause__ or cause.__context__
    return words or type(err).__name__


def object_of(uri: str) -> dict[str, str]:
    """Bucket and key, as boto3 takes them.

    Raises:
        StorageError: the URI is that of a bucket or a folder.
    """
    bucket, key = split(uri)
    if not key or key.endswith("/"):
        raise StorageError(uri, "expected an object s3://bucket/key, found a bucket or a folder")
    return {"Bucket": bucket, "Key": key}
