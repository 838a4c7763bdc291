"""Records of finished work, by which a killed stage resumes: JSON with its own checksum.

No manifest lists a record's checksum, so the record carries its own: `{"sha256": ..., "content": {...}}`. A damaged
record counts as none: the work is done again, and gives the same bytes.
"""

from __future__ import annotations

import json
import logging
from typing import TypeVar

from landseg.contracts.documents import Model, digest, parse_json, validate
from landseg.contracts.errors import ContractError, ObjectNotFoundError
from landseg.storage.objects import create, get_bytes, put_bytes

M = TypeVar("M", bound=Model)

_log = logging.getLogger(__name__)


def write_record(uri: str, content: Model) -> None:
    """Write a record, over an earlier one."""
    put_bytes(uri, _to_bytes(content))


def _to_bytes(content: Model) -> bytes:
    values = content.model_dump(mode="json")
    record = {"sha256": digest(values), "content": values}
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode()


def settle_record(uri: str, content: M) -> M:
    """Write a record unless there is an intact one; returns the one that stands."""
    if (earlier := read_record(type(content), uri)) is not None:
        return earlier
    if create(uri, _to_bytes(content)):
        return content
    if (earlier := read_record(type(content), uri)) is not None:
        return earlier
    write_record(uri, content)
    return content


def read_record(kind: type[M], uri: str) -> M | None:
    """Read a record; None if there is none, or it is damaged.

    Raises:
        ContractError: it is intact, but not of this kind.
    """
    try:
        found = parse_json(get_bytes(uri), uri)
    except ObjectNotFoundError:
        return None
    except ContractError:
        found = None
    if (
        not isinstance(found, dict)
        or set(found) != {"sha256", "content"}
        or digest(found["content"]) != found["sha256"]
    ):
        _log.warning("%s is damaged: what it is a record of is done again", uri)
        return None
    return validate(kind, json.dumps(found["content"]).encode(), uri)
