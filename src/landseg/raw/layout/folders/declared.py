"""Folders and lists that `dataset.yaml` names: `image_folder`, `label_folder`, and those of `splits`."""

from __future__ import annotations

import fnmatch
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from landseg.contracts.errors import DataError, printable
from landseg.raw.config.files import FileFields
from landseg.raw.findings import Finding
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile

_HERE = "."
_SHOWN = 4


@dataclass(frozen=True)
class Match:
    """What a declared folder says of a path.

    Attributes:
        said: the roles or the splits; several where the path matches two folders equally well.
        positions: of the names in the path that match.
    """

    said: tuple[str, ...] = ()
    positions: frozenset[int] = frozenset()


class Declared:
    """What `dataset.yaml` says of folders and lists.

    Args:
        config: its fields.
        bands: names of the folders of bands, where each band has one; `*` stands for any part of a name.

    Attributes:
        roles: `images` and `labels`, where their folder is named.
        lists: (path, split) of the lists of splits.
    """

    def __init__(self, config: FileFields, bands: Iterable[str] = ()) -> None:
        named = {"images": config.image_folder, "labels": config.label_folder}
        self._roles = {folder: role for role, folder in named.items() if folder is not None}
        self._fields = {name: f"{role[:-1]}_folder" for name, role in self._roles.items()}
        for folder in bands:
            self._roles[folder], self._fields[folder] = "images", "bands"
        self._splits = config.split_folders
        self.roles = frozenset(self._roles.values())
        self.lists = config.split_lists

    def role_of(self, path: Sequence[str]) -> Match:
        """The role of a folder, given as the names of its path."""
        return _match(path, self._roles)

    def split_of(self, path: Sequence[str]) -> Match:
        """The split of a folder, given as the names of its path."""
        return _match(path, self._splits)

    def not_found(self, source: Source, folders: Collection[str]) -> list[Finding]:
        """An error for each folder that `dataset.yaml` names and the source lacks."""
        findings = []
        paths = [folder.split("/") if folder else [] for folder in folders]
        for name in (*self._roles, *self._splits):
            if not any(_positions(path, name) is not None for path in paths):
                shown = ", ".join(printable(folder) or _HERE for folder in sorted(folders)[:_SHOWN])
                more = ", ..." if len(folders) > _SHOWN else ""
                field = self._fields.get(name, "splits")
                problem = f"{field}: expected a folder with images or labels called {name}, found {shown}{more}"
                action = "write its name, or the last names of its path"
                findings.append(Finding.of(DataError(source.where("dataset.yaml"), problem, action)))
        return findings

    def lists_of_splits(
        self, source: Source, files: Iterable[SourceFile]
    ) -> tuple[dict[str, list[SourceFile]], list[Finding]]:
        """The lists that `splits` names, by split, and an error for each that there is not."""
        by_path = {unicodedata.normalize("NFC", file.path): file for file in files}
        found: dict[str, list[SourceFile]] = {}
        findings = []
        for name, split in self.lists.items():
            paths = [path for path in by_path if f"/{path}".endswith(f"/{name}")]
            if len(paths) == 1:
                found.setdefault(split, []).append(by_path[paths[0]])
                continue
            shown = ", ".join(map(printable, sorted(paths or by_path)[:_SHOWN])) or "none"
            action = "write its name, or the last names of its path"
            error = DataError(source.where("dataset.yaml"), f"splits: expected one list {name}, found {shown}", action)
            findings.append(Finding.of(error))
        return found, findings


def _match(path: Sequence[str], declared: dict[str, str]) -> Match:
    """The longest declared folder that the path holds."""
    found = [
        (name.count("/"), said, positions)
        for name, said in declared.items()
        if (positions := _positions(path, name)) is not None
    ]
    if not found:
        return Match()
    longest = max(length for length, _, _ in found)
    best = [(said, positions) for length, said, positions in found if length == longest]
    return Match(tuple(sorted({said for said, _ in best})), frozenset().union(*(positions for _, positions in best)))


def _positions(path: Sequence[str], name: str) -> frozenset[int] | None:
    """Where a path holds the names of a folder, the last place; None where it does not."""
    if name == _HERE:
        return None if path else frozenset()
    wanted = [part.replace("[", "[[]") for part in name.split("/")]  # only * is special
    names = [unicodedata.normalize("NFC", part) for part in path]
    for start in range(len(names) - len(wanted), -1, -1):
        if all(map(fnmatch.fnmatchcase, names[start : start + len(wanted)], wanted)):
            return frozenset(range(start, start + len(wanted)))
    return None
