"""What lies below a storage's root: every stage's folder, and what each was made from.

Whoever removes things must not guess. What is not laid out as landseg does it is refused: it may hold, or refer to,
what somebody needs.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

from landseg import storage
from landseg.contracts.documents import parse_json, sha256_hex
from landseg.contracts.errors import ContractError, ObjectNotFoundError, StorageError
from landseg.contracts.names import DATASET_ID, MODEL_NAME, RUN_ID
from landseg.contracts.references import ARGUMENTS
from landseg.dataset.places import datasets_folder
from landseg.stages.shared.context import IDENTITY
from landseg.storage import ObjectInfo

STAGES = ("average-probs", "export-probs", "train")
"""Stages whose results lie in runs: results before what they were made from."""

_KEY = r"[0-9a-f]{12}"
_MENTIONED = re.compile(
    rf"\b[0-9a-f]{{64}}\b|\b{DATASET_ID}\b|(?<=\bruns/){RUN_ID}/(?:average-probs|(?:export-probs|train)/{MODEL_NAME})/{_KEY}\b"
)
_HINT = "prune removes only what it understands: move it elsewhere, or remove it"


@dataclass
class Folder:
    """What a stage has written for one set of inputs and parameters.

    Attributes:
        uri: the folder.
        path: the same below `runs/`: `<run>/<stage>[/<model>]/<identity>`.
        objects: what it holds.
    """

    uri: str
    path: str
    objects: list[ObjectInfo] = field(default_factory=list)

    @property
    def run(self) -> str:
        """The run's name."""
        return self.path.partition("/")[0]

    @property
    def stage(self) -> str:
        """The stage."""
        return self.path.split("/")[1]

    @property
    def manifest(self) -> str:
        """URI of the manifest, whether it exists or not."""
        return storage.join(self.uri, "manifest.json")

    @functools.cached_property
    def sha256(self) -> str:
        """Checksum of the manifest; empty if the stage has not finished."""
        finished = any(info.uri == self.manifest for info in self.objects)
        return sha256_hex(storage.get_bytes(self.manifest)) if finished else ""

    @functools.cached_property
    def mentions(self) -> frozenset[str]:
        """All that it may have been made from: checksums, ids of datasets, and paths of other folders below `runs/`.

        Taken from the text of its identity and arguments, so that it is rather too much than too little.

        Raises:
            ContractError: a document is damaged.
            StorageError: none says what it was made from.
        """
        texts = [text for name in (IDENTITY, ARGUMENTS) if (text := self._document(name))]
        if not any(info.uri == storage.join(self.uri, IDENTITY) for info in self.objects):
            texts.append(self._document("manifest.json"))
        found = frozenset(match[0] for text in texts for match in _MENTIONED.finditer(text))
        if not found:
            problem = f"expected {IDENTITY}, which says what it was made from, found none"
            raise StorageError(self.uri, problem, _HINT)
        return found

    def _document(self, name: str) -> str:
        uri = storage.join(self.uri, name)
        try:
            data = storage.get_bytes(uri)
        except ObjectNotFoundError:
            return ""
        if not isinstance(parse_json(data, uri), dict):
            raise ContractError(uri, "expected a JSON object, found something else", _HINT)
        return data.decode(errors="replace")


def run_folders(root: str) -> tuple[list[Folder], list[str]]:
    """Every stage's folder, results before what they were made from.

    Args:
        root: root in object storage.

    Returns:
        The folders, and the URIs of single files that lie beside them, which are nobody's.

    Raises:
        StorageError: a folder that no stage has written, or a link.
    """
    base = storage.join(root, "runs")
    _refuse_links(base)
    found: dict[str, Folder] = {}
    strays = []
    for info in storage.list_objects(base):
        path = _folder_of(base, info.uri)
        if path is None:
            strays.append(info.uri)
        else:
            found.setdefault(path, Folder(storage.join(base, path), path)).objects.append(info)
    return sorted(found.values(), key=lambda folder: (STAGES.index(folder.stage), folder.uri)), strays


def dataset_objects(root: str) -> dict[str, ObjectInfo]:
    """Every object below `datasets/`, by URI.

    Raises:
        StorageError: a folder that staging has not written, or a link.
    """
    base = datasets_folder(root)
    _refuse_links(base)
    objects = {}
    for info in storage.list_objects(base):
        folder, inside, _ = info.uri.removeprefix(f"{base}/").partition("/")
        if not inside:
            continue  # a single file, which is nobody's
        if not re.fullmatch(rf"{DATASET_ID}|shards|by-name|refused", folder):
            where = storage.join(base, folder)
            raise StorageError(where, "expected the folder of a dataset, found one of another name", _HINT)
        objects[info.uri] = info
    return objects


def _folder_of(base: str, uri: str) -> str | None:
    """The folder, below `runs/`, that an object belongs to; None for a single file outside any."""
    parts = uri.removeprefix(f"{base}/").split("/")
    single = parts[1:2] == ["average-probs"]
    layout = [
        (RUN_ID, "a run's name"),
        ("|".join(STAGES), f"a stage ({', '.join(sorted(STAGES))})"),
        *([] if single else [(MODEL_NAME, "a model's name")]),
        (_KEY, "12 hexadecimal digits, a stage's identity"),
    ]
    for depth, (pattern, expected) in enumerate(layout):
        if depth == len(parts) - 1:
            return None
        if not re.fullmatch(pattern, parts[depth]):
            where = "/".join([base, *parts[: depth + 1]])
            raise StorageError(where, f"expected {expected}, found {parts[depth]!r}", _HINT)
    return "/".join(parts[: len(layout)])


def _refuse_links(folder: str) -> None:
    for link in storage.links(folder):
        raise StorageError(
            link, "expected files and folders, found a link: what lies behind it is not looked at", _HINT
        )
