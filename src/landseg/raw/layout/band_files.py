"""Images of which each band is a file of its own, as satellite products come: `t0_B02.tif`, `t0_B03.tif`, ..."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from landseg.contracts.errors import DataError, printable
from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.layout.folders.band_folders import pattern_of
from landseg.raw.layout.folders.band_names import (
    CHOICE,
    bands_per_tile,
    endings,
    is_band_file,
    stem_of_band,
    written_bands,
)
from landseg.raw.layout.folders.band_trees import bands_in_trees
from landseg.raw.layout.folders.joined_images import JoinedImages, unused_files
from landseg.raw.layout.folders.layout import Folder, Layout
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile, file_list

_SHOWN = 4


def join_bands(source: Source, layout: Layout, config: DatasetConfig) -> list[Finding]:
    """Put an image in the place of the files of its bands, in every folder of images, as `bands` names them.

    Returns:
        An error for each image that lacks a band, and a note on files that are no band.
    """
    patterns = [pattern_of(name) for name in config.band_files]
    findings: list[Finding] = []
    others: list[SourceFile] = []
    for (split, role), folders in layout.folders.items():
        if role == "images":
            joined = [_joined(source, split, folder, config.band_files, patterns) for folder in folders]
            layout.folders[split, role] = [folder for folder, _, _ in joined]
            for _, of_folder, unused in joined:
                findings += of_folder
                others += unused
    return [*findings, *unused_files(others, "among the images")]


def _joined(
    source: Source, split: str, folder: Folder, names: Sequence[str], patterns: Sequence[re.Pattern[str]]
) -> tuple[Folder, list[Finding], list[SourceFile]]:
    """A folder with images in place of the files of bands, errors, and the files that are no band."""
    found: dict[str, dict[int, SourceFile]] = defaultdict(dict)
    unused = []
    # `{id}.tif` fits `t0_B02.tif` too: the name that says most decides.
    order = sorted(range(len(names)), key=lambda band: -len(names[band]))
    for file in folder.files:
        name = unicodedata.normalize("NFC", file.path.rpartition("/")[2])
        matches = ((band, match) for band in order if (match := patterns[band].fullmatch(name)))
        band, match = next(matches, (-1, None))
        if match is None:
            unused.append(file)
        else:
            found[match[1]][band] = file
    images = file_list()
    joined = JoinedImages(source, split, images)
    places = [(folder.path, name) for name in names]
    for tile_id, bands in found.items():
        joined.add(folder.path, tile_id, bands, places)
    return replace(folder, files=images), joined.findings, unused


def unjoined_bands(source: Source, layout: Layout, is_paired: bool) -> Finding | None:
    """An error that says what to write, where images seem to be one file per band and `dataset.yaml` does not say so.

    Args:
        source: the source.
        layout: where images and labels are.
        is_paired: whether images have labels by their own names: then they are whole.
    """
    of_labels = [folder for (_, role), folders in layout.folders.items() if role == "labels" for folder in folders]
    if is_paired and any(folder.files for folder in of_labels):
        return None
    images = [
        file for (_, role), folders in layout.folders.items() if role == "images" for f in folders for file in f.files
    ]
    labels = [file for folder in of_labels for file in folder.files]
    label_stems = {stem_of_band(file) for file in labels}
    if per_tile := bands_per_tile(images):
        first = images[0].path.rpartition("/")[0]
        shown = ", ".join(name.replace("{id}", first) for name in per_tile[:2])
        problem = f"expected one image per tile, found a folder of bands per tile: {printable(shown)}, ..."
        return Finding.of(DataError(source.uri, problem, f"write {written_bands(per_tile)} in dataset.yaml, {CHOICE}"))
    for names in (endings(images, at_end=True), endings(images, at_end=False)):
        if names is None:
            continue
        cores, bands = names
        labelled = bool(cores & label_stems)
        if labelled or (not labels and all(map(is_band_file, bands))):
            break
    else:
        return None if labels else _unjoined_trees(source, layout)
    patterns = ", ".join(f'"{name}"' for name in bands)
    tile_id = min(cores & label_stems or cores)
    shown = ", ".join(name.replace("{id}", tile_id) for name in bands[:_SHOWN]) + (
        ", ..." if len(bands) > _SHOWN else ""
    )
    problem = f"expected one image per tile, found one file per band: {printable(shown)}"
    action = f"write bands: [{printable(patterns)}] into dataset.yaml, in the order in which a model is to see them"
    return Finding.of(DataError(source.uri, problem, action))


def _unjoined_trees(source: Source, layout: Layout) -> Finding | None:
    """The same where bands and labels lie in trees of folders, and nothing tells images from labels."""
    folders = layout.folders.get(("", "images"), [])
    shown, action = bands_in_trees(folders) if len(folders) > 1 else ([], "")
    if not action:
        return None
    names = printable(", ".join(path.rpartition("/")[2] for path in shown[:_SHOWN]))
    more = ", ..." if len(shown) > _SHOWN else ""
    problem = f"expected one image per tile, found one file per band: {names}{more}"
    return Finding.of(DataError(source.uri, problem, action))
