"""`landseg prune`: remove old runs, and the datasets that no other run was made from."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from landseg import storage
from landseg.cli.console import paint
from landseg.contracts.dataset import DatasetManifest
from landseg.contracts.documents import parse_json, sha256_hex
from landseg.contracts.errors import ConfigError, ObjectNotFoundError
from landseg.contracts.names import check_run_id
from landseg.stages.shared.context import IDENTITY
from landseg.stages.shared.options import storage_root
from landseg.storage import ObjectInfo

HELP = "remove old runs and datasets that only they used; shows what, unless --delete is given"
EXAMPLE = "landseg prune --storage-uri s3://bucket/landseg --older-than 90 --delete"

_log = logging.getLogger(__name__)
_DAY_S = 86_400.0
_FOLDER = re.compile(r"(?P<run>[^/]+)/(?P<folder>(?:[^/]+/){1,2}[0-9a-f]{12})/")
_ORDER = ("average-probs", "export-probs", "train")
"""Results are removed before what they were made from, so that nothing left refers to what is gone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--storage-uri", required=True, metavar="URI", help="root in object storage")
    parser.add_argument(
        "--older-than", type=float, default=30.0, metavar="DAYS", help="runs that have written nothing for so long"
    )
    parser.add_argument(
        "--run-id", action="append", default=[], metavar="ID", help="of these, only this run; repeatable (default: all)"
    )
    parser.add_argument("--delete", action="store_true", help="remove them; without it they are only listed")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


@dataclass
class Folder:
    """What a stage has written for one set of inputs and parameters.

    Attributes:
        uri: the folder; the run's folder for objects outside any stage's.
        run: the run's name.
        objects: what it holds.
    """

    uri: str
    run: str
    objects: list[ObjectInfo] = field(default_factory=list)

    @property
    def manifest(self) -> str:
        """URI of the manifest, whether it exists or not."""
        return storage.join(self.uri, "manifest.json")

    def sha256(self) -> str:
        """Checksum of the manifest; empty if the stage has not finished."""
        finished = any(info.uri == self.manifest for info in self.objects)
        return sha256_hex(storage.get_bytes(self.manifest)) if finished else ""

    def inputs(self) -> set[str]:
        """Checksums of what it was made from."""
        try:
            text = storage.get_bytes(storage.join(self.uri, IDENTITY))
        except ObjectNotFoundError:
            return set()
        return set(re.findall(r"\b[0-9a-f]{64}\b", json.dumps(parse_json(text, self.uri))))


@dataclass(frozen=True)
class Plan:
    """What is removed, and what stays although its run is old.

    Attributes:
        runs: names of the runs that are removed entirely.
        datasets: ids of the datasets.
        kept: folders of old runs that other runs were made from.
        first: manifests, and what points to them, in the order of removal.
        rest: what the manifests list, and what nothing lists.
        last: `identity.json` of each folder, from which the next prune resumes one that was killed.
    """

    runs: tuple[str, ...]
    datasets: tuple[str, ...]
    kept: tuple[str, ...]
    first: tuple[ObjectInfo, ...]
    rest: tuple[ObjectInfo, ...]
    last: tuple[ObjectInfo, ...]

    @property
    def num_objects(self) -> int:
        """Number of objects to remove."""
        return len(self.first) + len(self.rest) + len(self.last)

    @property
    def size_bytes(self) -> int:
        """Total size of what is removed."""
        return sum(info.size_bytes for info in (*self.first, *self.rest, *self.last))


def run(args: argparse.Namespace) -> None:
    """List what is old, and with `--delete` remove it."""
    if args.older_than < 0:
        raise ConfigError("--older-than", f"expected at least 0 days, found {args.older_than}")
    for run_id in args.run_id:
        check_run_id("--run-id", run_id)
    root = storage_root(args.storage_uri)
    plan = find(root, args.older_than * _DAY_S, args.run_id)
    uploads = 0
    if args.delete:
        remove(plan)
        uploads = storage.clean_abandoned(root, older_than_s=args.older_than * _DAY_S)
    if args.json:
        report = {
            "deleted": args.delete,
            "runs": plan.runs,
            "datasets": plan.datasets,
            "kept": plan.kept,
            "num_objects": plan.num_objects,
            "size_bytes": plan.size_bytes,
            "num_abandoned_uploads": uploads if args.delete else None,
        }
        print(json.dumps(report, indent=1))
    else:
        print(_text(plan, args.delete, uploads))


def find(root: str, older_than_s: float, wanted: Iterable[str] = ()) -> Plan:
    """Find what may be removed.

    Args:
        root: root in object storage.
        older_than_s: least age of a run's last write.
        wanted: names of runs; empty for all.

    Raises:
        ObjectNotFoundError: a run that is wanted does not exist.
    """
    folders = _folders(storage.join(root, "runs"))
    last: dict[str, float] = {}
    for folder in folders:
        last[folder.run] = max(last.get(folder.run, 0.0), *(info.modified_s for info in folder.objects))
    for name in wanted:
        if name not in last:
            raise ObjectNotFoundError(
                storage.join(root, "runs", name), "expected a run, found nothing", "check --run-id"
            )
    before = time.time() - older_than_s
    old = {name for name, modified_s in last.items() if modified_s <= before and (not wanted or name in wanted)}
    for name in sorted(set(wanted) - old):
        _log.warning("run %s stays: it wrote something less than %.3g days ago", name, older_than_s / _DAY_S)
    going, kept, used = _divide(folders, old)
    orphaned: set[str] = set().union(*(folder.inputs() for folder in going))
    ids, first, rest = _datasets(root, orphaned - used, before)
    objects = [info for folder in going for info in folder.objects]
    manifests = [info for info in objects if info.uri.endswith("/manifest.json")]
    identities = [info for info in objects if info.uri.endswith(f"/{IDENTITY}")]
    return Plan(
        runs=tuple(sorted(old - {folder.run for folder in kept})),
        datasets=ids,
        kept=tuple(folder.uri for folder in kept),
        first=(*manifests, *first),
        rest=(*(info for info in objects if not info.uri.endswith(("/manifest.json", f"/{IDENTITY}"))), *rest),
        last=tuple(identities),
    )


def remove(plan: Plan) -> None:
    """Remove what was planned: all manifests in their order, then the rest.

    If it is killed, it leaves folders without a manifest: these count as unfinished, so nothing reads them, and the
    next prune removes them.
    """
    for info in plan.first:
        storage.delete(info.uri)
    for infos in (plan.rest, plan.last):
        for _ in storage.parallel(storage.delete, [info.uri for info in infos]):
            pass


def _folders(root: str) -> list[Folder]:
    """Every stage's folder, results before what they were made from."""
    found: dict[str, Folder] = {}
    for info in storage.list_objects(root):
        path = info.uri.removeprefix(root).lstrip("/")
        match = _FOLDER.match(path)
        name = path.split("/")[0]
        uri = storage.join(root, name, match["folder"]) if match else storage.join(root, name)
        found.setdefault(uri, Folder(uri, name)).objects.append(info)

    def rank(folder: Folder) -> int:
        stage = folder.uri.removeprefix(root).lstrip("/").partition("/")[2].partition("/")[0]
        return _ORDER.index(stage) if stage in _ORDER else len(_ORDER)

    return sorted(found.values(), key=lambda folder: (rank(folder), folder.uri))


def _divide(folders: list[Folder], old: set[str]) -> tuple[list[Folder], list[Folder], set[str]]:
    """Folders to remove, folders of old runs that stay, and the checksums of all that the rest was made from."""
    used: set[str] = set()
    for folder in folders:
        if folder.run not in old:
            used |= folder.inputs()
    going, kept = [], []
    for folder in folders:  # results first: whatever keeps a folder has been looked at before it
        if folder.run in old:
            if (sha256 := folder.sha256()) and sha256 in used:
                kept.append(folder)
                used |= folder.inputs()
            else:
                going.append(folder)
    return going, kept, used


def _datasets(
    root: str, orphaned: set[str], before: float
) -> tuple[tuple[str, ...], list[ObjectInfo], list[ObjectInfo]]:
    """The datasets with these checksums, and what killed stagings and prunes have left.

    Returns:
        The ids, what is removed first, and the rest.
    """
    base = storage.join(root, "datasets")
    objects = {info.uri: info for info in storage.list_objects(base)}
    going: list[str] = []
    shards: dict[bool, set[str]] = {True: set(), False: set()}  # by whether their dataset is removed
    for uri in [uri for uri in objects if uri.endswith("/manifest.json")]:
        loaded = storage.read_document(DatasetManifest, uri)
        goes = loaded.sha256 in orphaned
        going += [storage.parent(uri)] * goes
        paths = {shard.path for split in loaded.document.splits.values() for shard in split.shards}
        shards[goes] |= {_resolved(storage.join(storage.parent(uri), path)) for path in paths}
    ids = tuple(sorted(Path(folder).name for folder in going))
    pointers = [uri for uri in objects if storage.parent(uri) == f"{base}/by-name" and _points_to(uri, ids)]
    first = [*pointers, *(storage.join(folder, "manifest.json") for folder in going)]
    rest = []
    for uri, info in objects.items():
        folder = storage.join(base, uri.removeprefix(f"{base}/").split("/")[0])
        if folder in going:
            abandoned = not uri.endswith("/manifest.json")
        elif folder == f"{base}/shards":
            abandoned = uri not in shards[False] and (uri in shards[True] or info.modified_s <= before)
        else:
            whole = f"{folder}/manifest.json" in objects or folder in {f"{base}/by-name", f"{base}/refused"}
            abandoned = not whole and info.modified_s <= before
        if abandoned:
            rest.append(uri)
    return ids, [objects[uri] for uri in first], [objects[uri] for uri in rest]


def _points_to(pointer: str, ids: Iterable[str]) -> bool:
    text = storage.get_bytes(pointer).decode()
    return any(identity in text for identity in ids)


def _resolved(uri: str) -> str:
    """`a/b/../c` as `a/c`: manifests refer to shared shards by a path that leaves their folder."""
    return re.sub(r"/[^/]+/\.\./", "/", uri)


def _text(plan: Plan, deleted: bool, uploads: int) -> str:
    lines = [f"run {name}" for name in plan.runs]
    lines += [f"dataset {name}: no run that stays was made of it" for name in plan.datasets]
    lines += [f"kept {uri}: another run is made of it" for uri in plan.kept]
    amount = f"{plan.num_objects:,} objects, {plan.size_bytes / 1e9:.2f} GB"
    if deleted:
        lines.append(f"{paint('removed', 'green', sys.stdout)} {amount}, {uploads} abandoned uploads")
    else:
        lines.append(f"{amount} would be removed: add --delete to remove them, and abandoned uploads with them")
    return "\n".join(lines)
