"""`landseg verify`: read everything that a manifest names, and compare sizes and checksums."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from landseg import storage
from landseg.data.manifest import DatasetManifest
from landseg.documents import Blob, Document, Reference, parse_json
from landseg.ensemble.manifest import LabelsManifest, ProbsManifest
from landseg.errors import ContractError, DamagedObjectError, ObjectNotFoundError
from landseg.progress import Progress
from landseg.segmentation.manifest import ModelManifest

HELP = "read everything that a manifest names, and compare sizes and checksums"
EXAMPLE = "landseg verify out/dataset.json"

MANIFESTS: tuple[type[Document], ...] = (DatasetManifest, ModelManifest, ProbsManifest, LabelsManifest)
_WORKERS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "manifest",
        metavar="URI",
        help="a manifest: s3://bucket/key, its path, or the reference file that a stage wrote",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> None:
    """Check the objects and print what is wrong.

    Raises:
        DamagedObjectError: at least one object is damaged or missing.
    """
    loaded = read_manifest(args.manifest)
    folder = storage.parent(loaded.uri)
    objects = {storage.join(folder, blob.path): blob for blob in blobs(loaded.document)}
    problems: dict[str, str] = {}

    def check(item: tuple[str, Blob]) -> tuple[str, str]:
        uri, blob = item
        try:
            storage.check(uri, size_bytes=blob.size_bytes, sha256=blob.sha256)
        except (ObjectNotFoundError, DamagedObjectError) as err:
            return uri, err.problem
        return uri, ""

    with Progress("verifying", len(objects), "objects") as progress:
        for uri, problem in storage.parallel(check, objects.items(), workers=_WORKERS):
            if problem:
                problems[uri] = problem
            progress.advance(note=f"{len(problems)} damaged or missing" if problems else "")
    total_bytes = sum(blob.size_bytes for blob in objects.values())
    if args.json:
        report = {
            "uri": loaded.uri,
            "kind": loaded.document.kind,
            "sha256": loaded.sha256,
            "num_objects": len(objects),
            "total_bytes": total_bytes,
            "problems": [{"uri": uri, "problem": problems[uri]} for uri in sorted(problems)],
        }
        print(json.dumps(report, indent=1))
    else:
        for uri in sorted(problems):
            print(f"{uri}: {problems[uri]}")
    if problems:
        raise DamagedObjectError(
            loaded.uri,
            f"{len(problems)} of {len(objects)} objects are damaged or missing",
            "run the stage that wrote them again",
        )
    if not args.json:
        print(f"{loaded.uri}: {loaded.document.kind}, {len(objects)} objects, {total_bytes} bytes, all intact")


def read_manifest(ref: str) -> storage.Loaded[Document]:
    """Read a manifest of any kind, by URI, by path, or through a reference file."""
    data = storage.get_bytes(ref)
    document = parse_json(data, ref)
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind == Reference.model_fields["kind"].default:
        kind = Reference.parse(data, ref).manifest_kind
    for manifest in MANIFESTS:
        if manifest.model_fields["kind"].default == kind:
            return storage.read_document(manifest, ref)
    known = ", ".join(repr(manifest.model_fields["kind"].default) for manifest in MANIFESTS)
    raise ContractError(ref, f"expected a document of kind {known}, found {kind!r}")


def blobs(value: object) -> Iterator[Blob]:
    """All objects that a document names, wherever they stand in it."""
    if isinstance(value, Blob):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from blobs(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from blobs(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from blobs(item)
