"""The layout of a source as it is understood: its folders of images and labels, by split and role."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from landseg.raw.config.files import FileFields
from landseg.raw.findings import Finding
from landseg.raw.layout.folders.declared import Declared
from landseg.raw.layout.folders.names import read_folder_name
from landseg.raw.sources.source_file import SourceFile


@dataclass(frozen=True)
class Folder:
    """A folder that holds images or labels.

    Attributes:
        path: relative to the source, "" for the source itself.
        files: its files with pixels, in order of path.
        splits: what its name says of the split; one, unless files or lists decide it (none) or it is unclear (several).
        roles: the same of `images` and `labels`.
        area: the names of the folders around it that say nothing else, normalised; part of the tile ids.
        shape: the names of those that do.
        is_left_out: whether its files are not used: `dataset.yaml` names another folder for what this one is called
            after, or (with the role of labels) they lie beside images whose labels have a folder of their own.
    """

    path: str
    files: Sequence[SourceFile]
    splits: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    area: tuple[str, ...] = ()
    shape: tuple[str, ...] = ()
    is_left_out: bool = False

    @property
    def split(self) -> str:
        """The split, "" where the folder's name does not tell."""
        return self.splits[0] if self.splits else ""

    @property
    def role(self) -> str:
        """`images` or `labels`, "" where the folder's name does not tell."""
        return self.roles[0] if self.roles else ""


@dataclass
class Layout:
    """The understood layout of a source.

    Attributes:
        folders: by split and role; with the split "" where no folder tells it.
        present: the splits of which there is a folder, even an empty one, and its name.
        lists: files that may list the tiles of a split (`train.txt`).
        others: files without pixels that are not used.
        headed: those of them that have a header next to them, as images of ENVI do.
        annotations: JSON and XML files, which may annotate images.
        findings: folders that are not used or not clear.
        remarks: what was understood, where it is not the documented layout.
        unrelated: folders with pixels whose names say nothing, or something else than `dataset.yaml`.
        declared: the folders and lists that `dataset.yaml` names.
    """

    folders: dict[tuple[str, str], list[Folder]] = field(default_factory=lambda: defaultdict(list))
    present: dict[str, str] = field(default_factory=dict)
    lists: list[SourceFile] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    headed: list[str] = field(default_factory=list)
    annotations: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unrelated: list[Folder] = field(default_factory=list)
    declared: Declared = field(default_factory=lambda: Declared(FileFields()))

    @property
    def has_shared_labels(self) -> bool:
        """Whether the images are in folders of splits, and the labels of all splits in one folder."""
        is_divided = bool(self.declared.lists)
        return not is_divided and ("", "labels") in self.folders and any(split for split, _ in self.folders)

    def where(self, split: str, role: str) -> str:
        """The folder of a role, as it is called here or as it ought to be, with * for areas inside of it."""
        return "/".join(self.template(split, role))

    def template(self, split: str, role: str) -> list[str]:
        """The names of :meth:`where`, one by one."""
        if at := self.folders.get((split, role)):
            return template_of(at[0])
        if not (other := self.folders.get((split, "labels" if role == "images" else "images"))):
            return [self.present.get(split, split), role] if split else [role]
        names = []
        for name in template_of(other[0]):
            said = read_folder_name(name)
            is_role = bool(said.roles) and name in other[0].shape
            names.append((f"{split}_{role}" if said.splits else role) if is_role else name)
        return names


def template_of(folder: Folder) -> list[str]:
    """The names of a folder and of those around it, * for areas; without areas at the end."""
    names = folder.path.split("/") if folder.path else []
    is_telling = [name in folder.shape for name in names]
    if not any(is_telling):
        return names[: len(names) - len(folder.area)]
    around = len(names) - sum(is_telling) - len(folder.area)  # folders around everything are no areas
    areas = [index for index, telling in enumerate(is_telling) if not telling][around:]
    end = max(index for index, telling in enumerate(is_telling) if telling) + 1
    return ["*" if index in areas else name for index, name in enumerate(names[:end])]
