"""Manifests in object storage, read by URI, by path or through a reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from landseg.contracts.documents import (
    MAX_DOCUMENT_BYTES,
    Blob,
    BlobList,
    Document,
    blobs,
    parse_json,
    sha256_hex,
)
from landseg.contracts.errors import ContractError, DamagedObjectError, ObjectNotFoundError
from landseg.contracts.references import Reference
from landseg.storage.folders import sizes_below, stat
from landseg.storage.parallel import parallel
from landseg.storage.reading import get_bytes
from landseg.storage.uris import is_s3, join, parent
from landseg.storage.writing import create, put_bytes

D = TypeVar("D", bound=Document)

_GONE = "run the step that wrote it again; KFP's cache may still know the step as done: make submit NO_CACHE=1"


@dataclass(frozen=True)
class Loaded(Generic[D]):
    """A manifest together with where it was read and the checksum of its bytes."""

    uri: str
    sha256: str
    document: D


def read_document(kind: type[D], ref: str) -> Loaded[D]:
    """Read a manifest by its URI, by local path, or through the reference file that KFP carries.

    Raises:
        ContractError: another kind of document, or an unknown version; or a reference in object storage that names a
            path of whichever machine reads it.
        StorageError: it cannot be read, or is not the one that the reference points to.
    """
    data = get_bytes(ref, most=MAX_DOCUMENT_BYTES)
    obj = parse_json(data, ref)
    if isinstance(obj, dict) and obj.get("kind") == Reference.model_fields["kind"].default:
        reference = Reference.parse(data, ref)
        if is_s3(ref) and not is_s3(reference.uri):
            problem = "expected a reference to s3://bucket/key, as it lies in object storage, found one to a path"
            raise ContractError(ref, problem, "give the manifest itself")
        try:
            data = get_bytes(reference.uri, sha256=reference.sha256, most=MAX_DOCUMENT_BYTES)
        except ObjectNotFoundError as err:
            problem = (
                "expected the manifest that a reference points to, found nothing: it was removed, perhaps by prune"
            )
            raise ObjectNotFoundError(reference.uri, problem, _GONE) from err
        ref = reference.uri
    return Loaded(ref, sha256_hex(data), kind.parse(data, ref))


def listed(document: Document, folder: str) -> Iterator[Blob]:
    """All objects that belong to a document: those that it lists, and those that they list in turn.

    Args:
        document: a manifest.
        folder: URI of its folder.

    Raises:
        ObjectNotFoundError, DamagedObjectError, ContractError: a list of objects is not what was written; raised after
            the list itself.
    """
    for blob in blobs(document):
        yield blob
        if isinstance(blob, BlobList):
            where = join(folder, blob.path)
            for row in blob.rows(get_bytes(where, sha256=blob.sha256), where):
                yield from blobs(row)


def publish_manifest(uri: str, document: D) -> Loaded[D]:
    """Write a manifest, the last write of a stage, whose presence means done. The first one stays.

    A stage may run twice at once: a retry next to a first attempt, or shares of its work that end together. All of them
    go on with the manifest that was there first, so that every reference to it fits.

    Args:
        uri: where the manifest lies.
        document: the manifest; whatever it lists is in place.

    Returns:
        The manifest that stands: this one, or the earlier one if all that it lists is there.

    Raises:
        ContractError: it is larger than what readers accept; nothing is written.
    """
    data = document.to_bytes(uri)
    create(uri, data)
    standing = get_bytes(uri)
    if standing != data and (earlier := _whole(uri, standing, document)):
        return Loaded(uri, sha256_hex(standing), earlier)
    if standing != data:  # it lists what was lost, and what was made again has other bytes
        put_bytes(uri, data)
    return Loaded(uri, sha256_hex(data), document)


def _whole(uri: str, data: bytes, ours: D) -> D | None:
    """The document in these bytes, if all objects that it lists are in place; `ours` lists those just written."""
    folder = parent(uri)
    sizes = sizes_below(folder)

    def stands(blob: Blob) -> bool:
        size = sizes.get(blob.path)
        if size is None and (found := stat(join(folder, blob.path))):  # outside the folder
            size = found.size_bytes
        return size == blob.size_bytes and written.get(blob.path, blob.sha256) == blob.sha256

    try:
        document = type(ours).parse(data, uri)
        written = {blob.path: blob.sha256 for blob in listed(ours, folder)}
        return document if all(parallel(stands, listed(document, folder))) else None
    except (ContractError, DamagedObjectError, ObjectNotFoundError):
        return None


def write_document(uri: str, document: D) -> Loaded[D]:
    """Write a document, over an earlier one.

    Raises:
        ContractError: it is larger than what readers accept; nothing is written.
    """
    data = document.to_bytes(uri)
    put_bytes(uri, data)
    return Loaded(uri, sha256_hex(data), document)
