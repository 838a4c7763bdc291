"""Records of finished work, by which a killed stage resumes: JSON with its own checksum.

No manifest lists a record's checksum, so the record carries its own: `{"sha256": ..., "content": {...}}`. A damaged
record counts as none: the work is done again, and gives the same bytes.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TypeVar

from landseg.contracts.documents import Model, digest, parse_json, sha256_hex, validate
from landseg.contracts.errors import ContractError, DamagedObjectError, ObjectNotFoundError
from landseg.storage.reading import get_bytes
from landseg.storage.writing import create, put_bytes

M = TypeVar("M", bound=Model)

_RECORD = re.compile(rb'\{"sha256":"([0-9a-f]{64})","content":(.*)\}', re.DOTALL)

_log = logging.getLogger(__name__)


def write_record(uri: str, content: Model) -> None:
    """Write a record, over an earlier one."""
    put_bytes(uri, _to_bytes(content))


def _to_bytes(content: Model) -> bytes:
    values = json.dumps(content.model_dump(mode="json"), separators=(",", ":"), allow_nan=False).encode()
    return b'{"sha256":"%s","content":%s}' % (sha256_hex(values).encode(), values)


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
    content = _content(uri)
    return None if content is None else validate(kind, content, uri)


def finished_record(kind: type[M], uri: str) -> M:
    """Read the record of work that is known to be finished.

    Raises:
        DamagedObjectError: it is gone, or damaged.
        ContractError: it is intact, but not of this kind.
    """
    if (found := read_record(kind, uri)) is None:
        raise DamagedObjectError(uri, "expected the record of finished work, found none", "run the stage again")
    return found


def _content(uri: str) -> bytes | None:
    """The content of a record as JSON; None if there is no record, or it is damaged."""
    try:
        data = get_bytes(uri)
    except ObjectNotFoundError:
        return None
    if (parts := _RECORD.fullmatch(data)) and sha256_hex(parts[2]).encode() == parts[1]:
        return parts[2]
    try:  # as it was written before: the checksum is of the values, whatever their order
        found = parse_json(data, uri)
    except ContractError:
        found = None
    if (
        not isinstance(found, dict)
        or set(found) != {"sha256", "content"}
        or digest(found["content"]) != found["sha256"]
    ):
        _log.warning("%s is damaged: what it is a record of is done again", uri)
        return None
    return json.dumps(found["content"]).encode()
