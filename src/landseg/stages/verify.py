"""`landseg verify`: read everything that manifests list, and compare sizes and checksums."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping

from landseg import storage
from landseg.cli.progress import Progress
from landseg.contracts.dataset import DatasetManifest
from landseg.contracts.documents import MAX_DOCUMENT_BYTES, Document, parse_json
from landseg.contracts.errors import ContractError, DamagedObjectError, ObjectNotFoundError
from landseg.contracts.labels import LabelsManifest
from landseg.contracts.model import CheckpointInfo, ModelManifest
from landseg.contracts.probabilities import ProbsManifest
from landseg.contracts.references import ARGUMENTS, Arguments, Reference
from landseg.dataset.places import manifest_uri

HELP = "read everything that a manifest or a run names, and compare sizes and checksums"
EXAMPLE = "landseg verify s3://landseg/runs/first"

MANIFESTS: tuple[type[Document], ...] = (
    DatasetManifest,
    ModelManifest,
    CheckpointInfo,
    ProbsManifest,
    LabelsManifest,
)
_WORKERS = 8

_Listed = tuple[int, bytes]
"""Size and SHA-256 of an object: of many tiles there are hundreds of thousands."""

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "uri",
        metavar="URI",
        help="a manifest (s3://bucket/key, its path, or the reference file that a stage wrote), or a folder: every "
        "manifest below it, e.g. of a run, and the datasets these were made of",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> None:
    """Check the objects and print what is wrong.

    Raises:
        DamagedObjectError: at least one object is damaged or missing.
        ObjectNotFoundError: there is no manifest.
    """
    loaded, problems = read_manifests(args.uri)
    where = args.uri if len(loaded) != 1 else loaded[0].uri
    objects: dict[str, _Listed] = {}
    owned: dict[str, list[str]] = {}
    for manifest in loaded:
        own: dict[str, None] = {}  # two splits may list one shard
        folder = storage.parent(manifest.uri)
        try:
            for blob in storage.listed(manifest.document, folder):
                uri = storage.join(folder, blob.path)
                objects[uri] = blob.size_bytes, bytes.fromhex(blob.sha256)
                own[uri] = None
        except (ObjectNotFoundError, DamagedObjectError):
            pass  # a list of objects, which is itself in the list: what is wrong with it is found below
        except ContractError as err:
            problems[str(err.where)] = err.problem
        owned[manifest.uri] = list(own)

    def check(item: tuple[str, _Listed]) -> tuple[str, str]:
        uri, (size_bytes, sha256) = item
        try:
            storage.check(uri, size_bytes=size_bytes, sha256=sha256.hex())
        except (ObjectNotFoundError, DamagedObjectError) as err:
            return uri, err.problem
        return uri, ""

    with Progress("verifying", len(objects), "objects") as progress:
        for uri, problem in storage.parallel(check, objects.items(), workers=_WORKERS):
            if problem:
                problems[uri] = problem
            progress.advance(note=f"{len(problems)} damaged or missing" if problems else "")
    if args.json:
        print(json.dumps(_report(where, loaded, objects, problems), indent=1))
    else:
        for manifest in loaded:
            uris = owned[manifest.uri]
            if problems.keys().isdisjoint(uris):
                size = sum(objects[uri][0] for uri in uris)
                print(f"{manifest.uri}: {manifest.document.kind}, {len(uris)} objects, {size} bytes, all intact")
        for uri in sorted(problems):
            print(f"{uri}: {problems[uri]}")
    if problems:
        raise DamagedObjectError(
            where,
            f"{len(problems)} of {len(objects.keys() | problems.keys())} objects are damaged or missing",
            "remove the damaged objects, and run the stages that wrote them again",
        )


def _report(
    uri: str, loaded: list[storage.Loaded[Document]], objects: Mapping[str, _Listed], problems: Mapping[str, str]
) -> dict[str, object]:
    return {
        "uri": uri,
        "manifests": [
            {"uri": manifest.uri, "kind": manifest.document.kind, "sha256": manifest.sha256} for manifest in loaded
        ],
        "num_objects": len(objects),
        "total_bytes": sum(size_bytes for size_bytes, _ in objects.values()),
        "problems": [{"uri": uri, "problem": problems[uri]} for uri in sorted(problems)],
    }


def read_manifests(ref: str) -> tuple[list[storage.Loaded[Document]], dict[str, str]]:
    """The manifest at `ref`, or, if that is a folder, all manifests below it and those of the datasets they refer to.

    Returns:
        The manifests; and of those that cannot be read, what is wrong, by URI.

    Raises:
        ObjectNotFoundError: a folder without manifests.
        ContractError: `ref` is an object but not a manifest.
    """
    ref = storage.folder(ref) if ref.endswith("/") else ref
    uris, is_folder = [], False
    for info in storage.each_object(ref):
        is_folder = True
        if info.uri.endswith("/manifest.json") or _is_checkpoint(info.uri):
            uris.append(info.uri)
    if not is_folder:
        return [read_manifest(ref)], {}
    found, problems = [], {}
    uris.sort()
    if not uris:
        raise ObjectNotFoundError(ref, "expected a manifest, or a folder with manifests below it, found none")
    for uri in uris:  # grows by the datasets
        try:
            manifest = read_manifest(uri)
        except (ContractError, ObjectNotFoundError) as err:
            problems[uri] = err.problem
            continue
        found.append(manifest)
        dataset = _dataset(manifest)
        if dataset and dataset not in uris and not _lies_elsewhere(manifest, dataset):
            uris.append(dataset)
    return found, problems


def _is_checkpoint(uri: str) -> bool:
    folder, _, name = uri.rpartition("/")
    return folder.endswith("/checkpoints") and name.endswith(".json")


def _dataset(manifest: storage.Loaded[Document]) -> str | None:
    """The manifest of the dataset that a model, its probabilities or label maps were made from."""
    root, runs, _ = manifest.uri.rpartition("/runs/")
    document = manifest.document
    spec = document.spec if isinstance(document, ProbsManifest) else document
    identity = getattr(spec, "dataset_id", None)
    return manifest_uri(root, identity) if runs and identity and not isinstance(document, DatasetManifest) else None


def _lies_elsewhere(manifest: storage.Loaded[Document], dataset: str) -> bool:
    """Whether the stage was given its dataset from another storage, which is not read: a document is no permission."""
    folder = storage.parent(manifest.uri)
    folder = storage.parent(folder) if isinstance(manifest.document, CheckpointInfo) else folder
    try:
        values = storage.read_document(Arguments, storage.join(folder, ARGUMENTS)).document.values
    except (ObjectNotFoundError, ContractError):
        return False
    given = str(values.get("dataset_uri", ""))
    identity = dataset.split("/")[-2]
    elsewhere = f"/{identity}/" in given and given != dataset and storage.stat(dataset) is None
    if elsewhere:
        _log.warning("dataset %s lies in another storage, and is not read: landseg verify %s", identity, given)
    return elsewhere


def read_manifest(ref: str) -> storage.Loaded[Document]:
    """Read a manifest of any kind, by URI, by path, or through a reference file."""
    data = storage.get_bytes(ref, most=MAX_DOCUMENT_BYTES)
    document = parse_json(data, ref)
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind == Reference.model_fields["kind"].default:
        kind = Reference.parse(data, ref).manifest_kind
    for manifest in MANIFESTS:
        if manifest.model_fields["kind"].default == kind:
            return storage.read_document(manifest, ref)
    known = ", ".join(repr(manifest.model_fields["kind"].default) for manifest in MANIFESTS)
    raise ContractError(ref, f"expected a document of kind {known}, found {kind!r}")
