"""`landseg prune`: remove old runs, and the datasets that no other run was made from."""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from landseg import storage
from landseg.cli.console import paint
from landseg.contracts.dataset import DatasetManifest
from landseg.contracts.errors import ConfigError, ObjectNotFoundError, printable
from landseg.contracts.names import DATASET_ID, check_run_id
from landseg.dataset.places import datasets_folder, shards_folder
from landseg.stages.shared.context import IDENTITY
from landseg.stages.shared.inventory import Folder, dataset_objects, run_folders
from landseg.stages.shared.options import storage_root
from landseg.storage import ObjectInfo

HELP = "remove old runs and datasets that only they used; without --delete, only list them"
EXAMPLE = "landseg prune --storage-uri s3://bucket/landseg --older-than 90 --delete"

_log = logging.getLogger(__name__)
_DAY_S = 86_400.0
_SHARD = re.compile(r"[0-9a-f]{64}\.(tar|json)")
"""A shard, or the record of a range of tiles that a killed staging left beside them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--storage-uri", required=True, metavar="URI", help="root in object storage")
    parser.add_argument(
        "--older-than",
        type=float,
        default=30.0,
        metavar="DAYS",
        help="runs that have written nothing for this many days",
    )
    parser.add_argument(
        "--run-id", action="append", default=[], metavar="ID", help="of these, only this run; repeatable (default: all)"
    )
    parser.add_argument("--delete", action="store_true", help="remove them; without it they are only listed")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


@dataclass(frozen=True)
class Plan:
    """What is removed, and what stays although its run is old.

    Attributes:
        runs: names of the runs that are removed entirely.
        datasets: ids of the datasets.
        kept: folders of old runs that other runs were made from.
        left: single files among the runs that no stage has written; they stay.
        first: manifests, and what points to them, in the order of removal.
        rest: what the manifests list, and what nothing lists.
        last: `identity.json` of each folder, from which the next prune resumes one that was killed.
    """

    runs: tuple[str, ...]
    datasets: tuple[str, ...]
    kept: tuple[str, ...]
    left: tuple[str, ...]
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
    if not 0 <= args.older_than < math.inf:
        raise ConfigError("--older-than", f"expected at least 0 days, found {args.older_than}")
    for run_id in args.run_id:
        check_run_id("--run-id", run_id)
    root = storage_root(args.storage_uri)
    if not storage.is_s3(root) and not Path(root).exists():
        raise ObjectNotFoundError(root, "expected a folder, found none", "check --storage-uri")
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
            "left": plan.left,
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
        LandsegError: something below the root is not understood, so nothing is proved to be unused.
    """
    folders, left = run_folders(root)
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
    orphaned: set[str] = set().union(*(folder.mentions for folder in going if _has_identity(folder)))
    ids, first, rest = _datasets(root, orphaned - used, used, before)
    objects = [info for folder in going for info in folder.objects]
    manifests = [info for info in objects if info.uri.endswith("/manifest.json")]
    identities = [info for info in objects if info.uri.endswith(f"/{IDENTITY}")]
    return Plan(
        runs=tuple(sorted(old - {folder.run for folder in kept})),
        datasets=ids,
        kept=tuple(folder.uri for folder in kept),
        left=tuple(left),
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
        storage.delete_many(info.uri for info in infos)


def _divide(folders: list[Folder], old: set[str]) -> tuple[list[Folder], list[Folder], set[str]]:
    """Folders to remove, folders of old runs that stay, and all that the rest may have been made from."""
    used: set[str] = set()
    for folder in folders:
        if folder.run not in old:
            used |= folder.mentions
    going, kept = [folder for folder in folders if folder.run in old], []
    while staying := [folder for folder in going if not used.isdisjoint({folder.sha256, folder.path} - {""})]:
        kept += staying
        used |= set().union(*(folder.mentions for folder in staying))
        going = [folder for folder in going if folder not in staying]
    return going, kept, used


def _has_identity(folder: Folder) -> bool:
    return any(info.uri == storage.join(folder.uri, IDENTITY) for info in folder.objects)


def _datasets(
    root: str, orphaned: set[str], used: set[str], before: float
) -> tuple[tuple[str, ...], list[ObjectInfo], list[ObjectInfo]]:
    """The datasets that removed folders alone were made from, and what killed stagings and prunes have left.

    Args:
        root: root in object storage.
        orphaned: checksums of what only folders that are removed were made from.
        used: checksums and ids of what others were made from.
        before: what was written later stays.

    Returns:
        The ids, what is removed first, and the rest.
    """
    base = datasets_folder(root)
    objects = dataset_objects(root)
    going: list[str] = []
    shards: dict[bool, set[str]] = {True: set(), False: set()}  # by whether their dataset is removed
    for uri in [uri for uri in objects if _is_manifest(uri, base)]:
        loaded = storage.read_document(DatasetManifest, uri)
        goes = loaded.sha256 in orphaned and Path(storage.parent(uri)).name not in used
        going += [storage.parent(uri)] * goes
        paths = {shard.path for split in loaded.document.splits.values() for shard in split.shards}
        shards[goes] |= {_resolved(storage.join(storage.parent(uri), path)) for path in paths}
    ids = tuple(sorted(Path(folder).name for folder in going))
    pointers = [uri for uri in objects if _is_pointer(uri, base) and _points_to(uri, ids)]
    pointers += [files for uri in pointers if (files := uri.removesuffix(".json") + ".files.jsonl") in objects]
    first = [*pointers, *(storage.join(folder, "manifest.json") for folder in going)]
    rest = []
    for uri, info in objects.items():
        folder = storage.join(base, uri.removeprefix(f"{base}/").split("/")[0])
        if folder in going:
            abandoned = not uri.endswith("/manifest.json")
        elif folder == shards_folder(root):
            unused = uri in shards[True] or (info.modified_s <= before and _SHARD.fullmatch(Path(uri).name))
            abandoned = uri not in shards[False] and bool(unused)
        else:
            stays = f"{folder}/manifest.json" in objects or folder in {f"{base}/by-name", f"{base}/refused"}
            abandoned = not stays and Path(folder).name not in used and info.modified_s <= before
        if abandoned:
            rest.append(uri)
    return ids, [objects[uri] for uri in first], [objects[uri] for uri in rest]


def _is_manifest(uri: str, base: str) -> bool:
    return re.fullmatch(rf"{DATASET_ID}/manifest\.json", uri.removeprefix(f"{base}/")) is not None


def _is_pointer(uri: str, base: str) -> bool:
    return storage.parent(uri) == f"{base}/by-name" and uri.endswith(".json")


def _points_to(pointer: str, ids: Iterable[str]) -> bool:
    text = storage.get_bytes(pointer).decode(errors="replace")
    return any(identity in text for identity in ids)


def _resolved(uri: str) -> str:
    """`a/b/../c` as `a/c`: manifests refer to shared shards by a path that leaves their folder."""
    return re.sub(r"/[^/]+/\.\./", "/", uri)


def _text(plan: Plan, deleted: bool, uploads: int) -> str:
    lines = [f"run {name}" for name in plan.runs]
    lines += [f"dataset {name}: no run that stays was made of it" for name in plan.datasets]
    lines += [f"kept {uri}: another run is made of it" for uri in plan.kept]
    lines += [printable(f"left {uri}: no stage wrote it") for uri in plan.left]
    amount = f"{plan.num_objects:,} objects, {plan.size_bytes / 1e9:.2f} GB"
    if deleted:
        lines.append(f"{paint('removed', 'green', sys.stdout)} {amount}, {uploads} abandoned uploads")
    else:
        lines.append(f"{amount} would be removed: add --delete to remove them, and abandoned uploads with them")
    if plan.num_objects:
        lines.append("KFP's cache does not notice: to compute any of it again on Kubeflow, make submit NO_CACHE=1")
    return "\n".join(lines)
