"""Which folders of a source hold the images and the labels of which split, whatever they are called.

The names of folders are read (:mod:`landseg.raw.layout.folders.names`) in any order and depth: `train/images`,
`img_dir/train`, `Train/Urban/masks_png`. Folders that say neither split nor role are areas, and part of the tile ids.
Where the files of a split lie in two places, or a folder says two things, nothing is chosen: that is an error.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import printable
from landseg.raw.config.files import LIST_SUFFIXES, FileFields
from landseg.raw.layout.folders.band_folders import join_band_folders
from landseg.raw.layout.folders.declared import Declared
from landseg.raw.layout.folders.layout import Folder, Layout, template_of
from landseg.raw.layout.folders.names import ROLES, Clarity, is_of_labels, mentions_labels, plainest, read_folder_name
from landseg.raw.layout.folders.placing import place
from landseg.raw.layout.folders.roles_by_file import (
    roles_by_affixes,
    roles_by_infix,
    roles_by_name,
    roles_by_suffix,
    roles_in_the_middle,
)
from landseg.raw.layout.folders.strays import no_dataset
from landseg.raw.layout.suffixes import RASTER_SUFFIXES, SIDECAR_SUFFIXES, headed, headerless, split_suffix
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile, file_list, paths_of, selected

_ANNOTATIONS = (".json", ".xml")


def understand(
    source: Source,
    files: Sequence[SourceFile],
    config: FileFields,
    bands: Sequence[str] = (),
    *,
    shares_labels: bool = False,
) -> Layout:
    """Read the layout of a source's files.

    Args:
        source: the source.
        files: its files.
        config: what `dataset.yaml` says of files and folders.
        bands: folder and file name of each band, where bands lie in folders of their own.
        shares_labels: whether one file has the labels of all images, so that the others are images.
    """
    declared = Declared(config, {unicodedata.normalize("NFC", name.rpartition("/")[0]) for name in bands})
    layout = Layout(declared=declared)
    numbers: dict[str, array[int]] = defaultdict(lambda: array("I"))
    foreign = headerless(paths_of(files))
    for number, path in enumerate(paths_of(files)):
        folder, _, name = path.rpartition("/")
        suffix = split_suffix(name)[1]
        if suffix in RASTER_SUFFIXES and path not in foreign:
            numbers[folder].append(number)
        elif suffix in LIST_SUFFIXES:
            layout.lists.append(files[number])
        elif not path.lower().endswith(SIDECAR_SUFFIXES):
            layout.others.append(path)
        elif suffix in _ANNOTATIONS and not path.lower().endswith(".aux.xml"):
            layout.annotations.append(path)
    layout.headed = headed(layout.others, paths_of(files))
    by_folder = {folder: selected(files, found) for folder, found in numbers.items()}
    del numbers
    layout.findings += declared.not_found(source, by_folder)
    folders = _without_wrapper([_read(path, held, declared) for path, held in by_folder.items()], layout)
    if bands:
        folders, findings = join_band_folders(source, folders, bands)
        layout.findings += findings
    folders = _with_roles(folders, config, shares_labels=shares_labels)
    layout.present = {split: name for name in sorted(source.folders()) for split in _plain_splits(name, declared)}
    place(source, folders, layout)
    if not layout.folders and not layout.findings:
        layout.findings.append(no_dataset(source, _top_level(source, by_folder, layout), layout.others))
    layout.remarks += _remarks(layout)
    return layout


def _plain_splits(name: str, declared: Declared) -> set[str]:
    if (split := declared.split_of([name])).said or declared.lists:
        return set(split.said)
    splits, clarity = plainest(list(read_folder_name(name).splits))
    return splits if clarity == Clarity.EXACT else set()


def _read(path: str, files: Sequence[SourceFile], declared: Declared) -> Folder:
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
    if roles == {"images"} and (around := {index for index, name in enumerate(names[:-1]) if is_of_labels(name)}):
        roles, telling = {"labels"}, telling | around  # `Semantic_masks/images` of iSAID
    role, split = declared.role_of(names), declared.split_of(names)
    is_left_out = not role.said and bool(roles) and roles <= declared.roles
    roles = set(role.said) or roles - declared.roles
    if declared.lists and not split.said:  # lists divide it: folders called as splits are areas
        telling -= {index for index, reading in enumerate(readings) if reading.splits and not reading.roles}
        splits = set()
    splits = set(split.said) or splits
    telling |= role.positions | split.positions
    return Folder(
        path,
        files,
        tuple(sorted(splits)),
        tuple(sorted(roles)),
        tuple(unicodedata.normalize("NFC", name) for index, name in enumerate(names) if index not in telling),
        tuple(name for index, name in enumerate(names) if index in telling),
        is_left_out,
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


def _with_roles(folders: list[Folder], config: FileFields, *, shares_labels: bool) -> list[Folder]:
    """Tell images from labels by the files' names, where the folders of a split do not."""
    divides = bool(config.split_lists)
    known = {(split, folder.role) for folder in folders for split in folder.splits or ("",) if len(folder.roles) == 1}
    result = []
    for folder in folders:
        if (config.image_infix or config.label_infix) and not folder.roles and not folder.is_left_out:
            result += _divided_by_infix(folder, config)
            continue
        siblings = {role for split, role in known if split in (folder.splits or ("",))}
        is_telling = len(folder.splits) == 1 or divides or not any(other.shape for other in folders)
        by_affixes = None if "labels" in siblings else roles_by_affixes(folder.files, config)
        is_settled = (bool(folder.roles) or "images" in siblings) and not by_affixes
        if folder.is_left_out or is_settled or len(folder.splits) > 1 or not is_telling:
            result.append(folder)
            continue
        divided = by_affixes or roles_by_name(folder.files) or roles_by_suffix(folder.files)
        divided = divided or roles_in_the_middle(folder.files)
        told = {mentions_labels(split_suffix(file.path.rpartition("/")[2])[0]) for file in folder.files}
        is_unlabelled = shares_labels or "labels" in siblings or folder.split in ("test", "")
        if not divided and is_unlabelled and len(told) == 1:
            divided = {"images": folder.files}
        if "labels" in siblings:
            if spare := (divided or {}).get("labels"):
                result.append(replace(folder, roles=("labels",), files=spare, is_left_out=True))
            divided = {role: files for role, files in (divided or {}).items() if role == "images"}
        result += [replace(folder, roles=(role,), files=held) for role, held in (divided or {}).items()] or [folder]
    return result


def _divided_by_infix(folder: Folder, config: FileFields) -> list[Folder]:
    """A folder of images and labels as their names say; the files that are neither are left out."""
    divided = roles_by_infix(folder.files, config)
    used = {file.path for files in divided.values() for file in files}
    rest = file_list(file for file in folder.files if file.path not in used)
    result = [replace(folder, roles=(role,), files=files) for role, files in divided.items()]
    return [*result, *([replace(folder, files=rest, is_left_out=True)] if rest else [])]


def _top_level(source: Source, by_folder: Mapping[str, Sequence[SourceFile]], layout: Layout) -> list[str]:
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
                of_role = ("/".join(template_of(folder)) for folder in layout.folders[split, role])
                found = " and ".join(dict.fromkeys(of_role))
                places[f"{role} of {split}" if split else role] = (found, f"{split}/{role}")
    remarks = []
    if any(found != documented for found, documented in places.values()):
        said = (f"{what} in {printable(found) or 'the folder itself'}" for what, (found, _) in places.items())
        remarks.append(f"found {', '.join(said)}")
    return remarks
