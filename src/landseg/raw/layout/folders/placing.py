"""The split and the role of each folder of a source, and what to say of folders that have none, or more than one."""

from __future__ import annotations

from collections.abc import Iterable

from landseg.contracts.errors import printable
from landseg.raw.layout.annotation_files import annotations_advice
from landseg.raw.layout.folders.band_names import folder_patterns
from landseg.raw.layout.folders.layout import Folder, Layout
from landseg.raw.layout.folders.names import ROLES, read_folder_name
from landseg.raw.layout.folders.strays import Stray, conflict, stray_findings
from landseg.raw.layout.suffixes import split_suffix
from landseg.raw.sources.source import Source


def place(source: Source, folders: list[Folder], layout: Layout) -> None:
    """Give each folder its split and role; collect those that have none, or more than one."""
    strays: list[Stray] = []
    clear = [f for f in folders if len(f.roles) == 1 and len(f.splits) <= 1 and not f.is_left_out]
    by_folder = any(folder.splits for folder in clear) and not layout.declared.lists
    found = {folder.role for folder in clear}
    is_complete = layout.declared.roles and (found == set(ROLES) or "images" in found & layout.declared.roles)
    has_shared_labels = all(bool(folder.splits) == (folder.role == "images") for folder in clear)
    for folder in folders:
        if folder.is_left_out and folder.roles:
            strays.append(Stray("second labels", folder.path, folder.files))
        elif folder.is_left_out or (is_complete and not folder.roles):
            strays.append(Stray("not named", folder.path, folder.files))
        elif len(folder.roles) > 1 or len(folder.splits) > 1:
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
        places = sorted({_place_of(folder, layout) for folder in held})
        if len(places) > 1:
            bands = folder_patterns([(f.path, f.files) for f in held]) if role == "images" else []
            several = conflict(source, split, role, places, bands)
            if not any(several.action == other.action for other in layout.findings):
                layout.findings.append(several)
            held[:] = [folder for folder in held if _place_of(folder, layout) == places[0]]
    layout.present |= {split: split for split, _ in layout.folders if split and split not in layout.present}
    if not layout.folders and all(stray.kind in ("unrelated", "not named") for stray in strays):
        return
    layout.unrelated = [Folder(stray.path, stray.files) for stray in strays if stray.kind in ("unrelated", "not named")]
    images = (folder for (_, role), held in layout.folders.items() if role == "images" for folder in held)
    has_vrt = any(split_suffix(file.path)[1] == ".vrt" for folder in images for file in folder.files)
    images_in = _images_in(clear) if found == set(ROLES) else ""
    files = (file for stray in strays if stray.kind == "no role" for file in stray.files)
    annotated = "" if found else annotations_advice(layout, files)
    layout.findings += stray_findings(source, strays, has_vrt=has_vrt, images_in=images_in, annotated=annotated)


def _place_of(folder: Folder, layout: Layout) -> str:
    """What a folder is called that tells its split and role; one of another name is another place."""
    is_any_split = layout.declared.lists or (folder.splits and layout.declared.split_of(folder.path.split("/")).said)
    names = (name for name in folder.shape if not is_any_split or not read_folder_name(name).splits)
    return "/".join(names)


def _images_in(folders: Iterable[Folder]) -> str:
    """What the first folder of images is called that tells its role."""
    first = next(folder for folder in folders if folder.role == "images")
    return next((printable(name) for name in first.shape[::-1] if read_folder_name(name).roles), "")
