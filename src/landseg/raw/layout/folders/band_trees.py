"""Bands and labels in trees of their own: `S2/T1/T1_B04.tif` and `Maps/T1/T1_map.tif`, as in BigEarthNet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from landseg.contracts.errors import printable
from landseg.raw.layout.folders.band_names import CHOICE, endings, is_band_file, stem_of_band, written_bands
from landseg.raw.layout.folders.layout import Folder
from landseg.raw.layout.folders.roles_by_file import ending_of
from landseg.raw.sources.source_file import SourceFile

_MOST_FOLDERS = 100
"""Of one tree: there may be a folder for each of millions of tiles."""


def bands_in_trees(folders: Sequence[Folder]) -> tuple[list[str], str]:
    """Names of bands, and what to write, where one tree of folders holds files of single bands, and another the labels.

    Args:
        folders: those of a source in which nothing tells images from labels.

    Returns:
        The paths of the first bands; nothing where it is not so.
    """
    bands: dict[str, tuple[set[str], list[str], list[SourceFile]]] = {}
    others: dict[str, list[SourceFile]] = {}
    for tree, files in _trees(folders).items():
        found = endings(files, at_end=True)
        if found is not None and all(map(is_band_file, found[1])):
            bands[tree] = (*found, files)
        else:
            others[tree] = files
    if not bands or len(bands) + len(others) < 2:
        return [], ""
    labelled = (
        (band, f", label_folder: {printable(label)}", ending)
        for band, (ids, _, _) in bands.items()
        for label, files in others.items()
        if (ending := _ending(ids, files)) is not None
    )
    band, label_folder, ending = next(labelled, (next(iter(bands)), "", ""))
    _, names, files = bands[band]
    label_suffix = f", label_suffix: {printable(ending)}" if ending else ""
    fields = f"{written_bands(names)}, image_folder: {printable(band)}{label_folder}{label_suffix}"
    action = " and ".join(f"write {fields}".rsplit(", ", 1))
    return [file.path for file in files[: len(names)]], f"{action} in dataset.yaml, {CHOICE}"


def _trees(folders: Sequence[Folder]) -> dict[str, list[SourceFile]]:
    """The files of the first folders of each tree, by the tree's name: the first in which the paths differ."""
    paths = [folder.path.split("/") for folder in (folders[0], folders[-1])]
    depth = next((depth for depth, names in enumerate(zip(*paths, strict=False)) if len(set(names)) > 1), None)
    if depth is None:
        return {}
    held: dict[str, list[Folder]] = defaultdict(list)
    for folder in folders:
        names = folder.path.split("/")
        if len(names) <= depth:
            return {}
        if len(held[names[depth]]) < _MOST_FOLDERS:
            held[names[depth]].append(folder)
    return {tree: [file for folder in of_tree for file in folder.files] for tree, of_tree in held.items()}


def _ending(ids: set[str], files: Iterable[SourceFile]) -> str | None:
    """What the names of files add to ids; None where they are something else."""
    stems = [stem_of_band(file) for file in files]
    ending = ending_of(stems[0], ids)
    return ending if ending is not None and all(stem.endswith(ending) for stem in stems) else None
