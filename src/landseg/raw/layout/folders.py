"""Which folders of a source hold the images and the labels of which split, whatever they are called.

The names of folders are read (:mod:`landseg.raw.layout.folder_names`) in any order and depth: `train/images`,
`img_dir/train`, `Train/Urban/masks_png`. Folders that say neither split nor role are areas, and part of the tile ids.
Where the files of a split lie in two places, or a folder says two things, nothing is chosen: that is an error.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import printable
from landseg.raw.findings import Finding
from landseg.raw.layout.folder_names import Clarity, plainest, read_folder_name
from landseg.raw.layout.roles_by_file import roles_by_name, roles_by_suffix
from landseg.raw.layout.strays import Stray, conflict, no_dataset, stray_findings
from landseg.raw.layout.suffixes import RASTER_SUFFIXES, SIDECAR_SUFFIXES, split_suffix
from landseg.raw.sources.source import Source, SourceFile

ROLES = ("images", "labels")


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
    """

    path: str
    files: Sequence[SourceFile]
    splits: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    area: tuple[str, ...] = ()
    shape: tuple[str, ...] = ()

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
        findings: folders that are not used or not clear.
        remarks: what was understood, where it is not the documented layout.
        unrelated: folders with pixels whose names say nothing.
    """

    folders: dict[tuple[str, str], list[Folder]] = field(default_factory=lambda: defaultdict(list))
    present: dict[str, str] = field(default_factory=dict)
    lists: list[SourceFile] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unrelated: list[str] = field(default_factory=list)

    @property
    def has_shared_labels(self) -> bool:
        """Whether the images are in folders of splits, and the labels of all splits in one folder."""
        return ("", "labels") in self.folders and any(split for split, _ in self.folders)

    def where(self, split: str, role: str) -> str:
        """The folder of a role, as it is called here or as it ought to be, with * for areas inside of it."""
        return "/".join(self.template(split, role))

    def template(self, split: str, role: str) -> list[str]:
        """The names of :meth:`where`, one by one."""
        if at := self.folders.get((split, role)):
            return _template(at[0])
        if not (other := self.folders.get((split, "labels" if role == "images" else "images"))):
            return [self.present.get(split, split), role] if split else [role]
        names = []
        for name in _template(other[0]):
            said = read_folder_name(name)
            is_role = bool(said.roles) and name in other[0].shape
            names.append((f"{split}_{role}" if said.splits else role) if is_role else name)
        return names


def _template(folder: Folder) -> list[str]:
    """The names of a folder and of those around it, * for areas; without areas at the end."""
    names = folder.path.split("/") if folder.path else []
    is_telling = [name in folder.shape for name in names]
    if not any(is_telling):
        return names[: len(names) - len(folder.area)]
    around = len(names) - sum(is_telling) - len(folder.area)  # folders around everything are no areas
    areas = [index for index, telling in enumerate(is_telling) if not telling][around:]
    end = max(index for index, telling in enumerate(is_telling) if telling) + 1
    return ["*" if index in areas else name for index, name in enumerate(names[:end])]


def understand(source: Source, files: Iterable[SourceFile]) -> Layout:
    """Read the layout of a source's files."""
    layout = Layout()
    by_folder: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        folder, _, name = file.path.rpartition("/")
        suffix = split_suffix(name)[1]
        if suffix in RASTER_SUFFIXES:
            by_folder[folder].append(file)
        elif suffix in (".txt", ".lst"):
            layout.lists.append(file)
        elif not file.path.lower().endswith(SIDECAR_SUFFIXES):
            layout.others.append(file.path)
    folders = _without_wrapper([_read(path, held) for path, held in by_folder.items()], layout)
    folders = _with_roles(folders)
    layout.present = {split: name for name in sorted(source.folders()) for split in _plain_splits(name)}
    _place(source, folders, layout)
    if not layout.folders and not layout.findings:
        layout.findings.append(no_dataset(source, _top_level(source, by_folder, layout)))
    layout.remarks += _remarks(layout)
    return layout


def _plain_splits(name: str) -> set[str]:
    splits, clarity = plainest(list(read_folder_name(name).splits))
    return splits if clarity == Clarity.EXACT else set()


def _read(path: str, files: list[SourceFile]) -> Folder:
    names = path.split("/") if path else []
    readings = [read_folder_name(name) for name in names]
    splits, split_clarity = plainest([said for reading in readings for said in reading.splits])
    roles, role_clarity = plainest([said for reading in readings for said in reading.roles])
    telling = {
        index
        for index, reading in enumerate(readings)
        if any(said.clarity == split_clarity for said in reading.splits)
        or any(said.clarity == role_clarity for said in reading.roles)
    }
    return Folder(
        path,
        files,
        tuple(sorted(splits)),
        tuple(sorted(roles)),
        tuple(unicodedata.normalize("NFC", name) for index, name in enumerate(names) if index not in telling),
        tuple(name for index, name in enumerate(names) if index in telling),
    )


def _without_wrapper(folders: list[Folder], layout: Layout) -> list[Folder]:
    """Take folders that hold everything off the areas: `data/train/images` is `train/images`."""
    telling = [folder for folder in folders if folder.shape] or folders
    wrapper: list[str] = []
    while telling:
        position = len(wrapper)
        names = {[*folder.path.split("/"), ""][position] for folder in telling}
        name = names.pop()
        if names or not name or any(name in folder.shape for folder in telling):
            break
        wrapper.append(name)
    if not wrapper:
        return folders
    layout.remarks.append(f"everything lies in {'/'.join(wrapper)}")
    inside = "/".join(wrapper)
    return [
        replace(folder, area=folder.area[len(wrapper) :]) if f"{folder.path}/".startswith(f"{inside}/") else folder
        for folder in folders
    ]


def _with_roles(folders: list[Folder]) -> list[Folder]:
    """Tell images from labels by the files' names, where the folders of a split do not."""
    known = {(split, folder.role) for folder in folders for split in folder.splits or ("",) if len(folder.roles) == 1}
    result = []
    for folder in folders:
        siblings = {role for split, role in known if split in (folder.splits or ("",))}
        is_telling = len(folder.splits) == 1 or not any(other.shape for other in folders)
        if folder.roles or "images" in siblings or len(folder.splits) > 1 or not is_telling:
            result.append(folder)
            continue
        divided = roles_by_name(folder.files) or roles_by_suffix(folder.files)
        if not divided and ("labels" in siblings or folder.split in ("test", "")):
            divided = {"images": folder.files}
        if "labels" in siblings:
            divided = {role: files for role, files in (divided or {}).items() if role == "images"}
        result += [replace(folder, roles=(role,), files=held) for role, held in (divided or {}).items()] or [folder]
    return result


def _place(source: Source, folders: list[Folder], layout: Layout) -> None:
    """Give each folder its split and role; collect those that have none, or more than one."""
    strays: list[Stray] = []
    clear = [folder for folder in folders if len(folder.roles) == 1 and len(folder.splits) <= 1]
    by_folder = any(folder.splits for folder in clear)
    has_shared_labels = all(bool(folder.splits) == (folder.role == "images") for folder in clear)
    for folder in folders:
        if len(folder.roles) > 1 or len(folder.splits) > 1:
            says = " and ".join(folder.roles if len(folder.roles) > 1 else folder.splits)
            strays.append(Stray("unclear", folder.path, folder.files, says=says))
        elif not folder.roles and folder.splits:
            strays.append(Stray("no role", folder.path, folder.files, says=folder.split))
        elif not folder.roles:
            strays.append(Stray("unrelated", folder.path, folder.files))
        elif by_folder and not folder.splits and not (folder.role == "labels" and has_shared_labels):
            strays.append(Stray("no split", folder.path, folder.files, says=folder.role))
        else:
            layout.folders[folder.split, folder.role].append(folder)
    for (split, role), held in layout.folders.items():
        places = sorted({"/".join(folder.shape) for folder in held})
        if len(places) > 1:
            layout.findings.append(conflict(source, split, role, places))
            held[:] = [folder for folder in held if "/".join(folder.shape) == places[0]]
    layout.present |= {split: split for split, _ in layout.folders if split and split not in layout.present}
    if not layout.folders and not any(stray.kind != "unrelated" for stray in strays):
        return
    layout.unrelated = [stray.path for stray in strays if stray.kind == "unrelated" and stray.path]
    images = (folder for (_, role), held in layout.folders.items() if role == "images" for folder in held)
    has_vrt = any(split_suffix(file.path)[1] == ".vrt" for folder in images for file in folder.files)
    layout.findings += stray_findings(source, strays, has_vrt=has_vrt)


def _top_level(source: Source, by_folder: dict[str, list[SourceFile]], layout: Layout) -> list[str]:
    """Names of the top-level folders, where there are any."""
    paths = [*(f"{folder}/" for folder in by_folder), *layout.others]
    return sorted(
        source.folders()
        | {path.split("/")[0] for path in paths if path.strip("/").count("/") or path[-1:] == "/"} - {""}
    )


def _remarks(layout: Layout) -> list[str]:
    """What was understood, unless it is the documented layout."""
    places = {}
    for split in (*SPLITS, ""):
        for role in ROLES:
            if layout.folders.get((split, role)):
                places[f"{role} of {split}" if split else role] = (layout.where(split, role), f"{split}/{role}")
    remarks = []
    if any(found != documented for found, documented in places.values()):
        said = (f"{what} in {printable(found) or 'the folder itself'}" for what, (found, _) in places.items())
        remarks.append(f"found {', '.join(said)}")
    return remarks
