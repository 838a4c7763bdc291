"""Manifests in object storage, read by URI, by path or through a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from landseg.contracts.documents import Document, parse_json, sha256_hex
from landseg.contracts.references import Reference
from landseg.storage.objects import get_bytes, put_bytes

D = TypeVar("D", bound=Document)


@dataclass(frozen=True)
class Loaded(Generic[D]):
    """A manifest together with where it was read and the checksum of its bytes."""

    uri: str
    sha256: str
    document: D


def read_document(kind: type[D], ref: str) -> Loaded[D]:
    """Read a manifest by its URI, by local path, or through the reference file that KFP carries.

    Raises:
        ContractError: another kind of document, or an unknown version.
        StorageError: it cannot be read, or is not the one that the reference points to.
    """
    data = get_bytes(ref)
    obj = parse_json(data, ref)
    if isinstance(obj, dict) and obj.get("kind") == Reference.model_fields["kind"].default:
        reference = Reference.parse(data, ref)
        data = get_bytes(reference.uri, sha256=reference.sha256)
        ref = reference.uri
    return Loaded(ref, sha256_hex(data), kind.parse(data, ref))


def write_document(uri: str, document: D) -> Loaded[D]:
    """Write a manifest: the last write of a stage, whose presence means done."""
    data = document.to_bytes()
    put_bytes(uri, data)
    return Loaded(uri, sha256_hex(data), document)
