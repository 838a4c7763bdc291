"""Images whose bands lie in folders of their own, as `bands` names them: `*_red/red_{id}.tif`, `*_nir/nir_{id}.tif`."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from landseg.contracts.errors import DataError, printable
from landseg.raw.findings import Finding
from landseg.raw.layout.folders.layout import Folder
from landseg.raw.layout.folders.strays import counted
from landseg.raw.layout.suffixes import split_suffix
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import BandFiles, SourceFile, file_list


def pattern_of(name: str) -> re.Pattern[str]:
    """What matches the file names of a band: `{id}` stands for the tile's id."""
    before, after = (re.escape(unicodedata.normalize("NFC", part)) for part in name.split("{id}"))
    return re.compile(f"{before}(.+){after}", re.IGNORECASE)


def joined_image(folder: str, tile_id: str, files: Sequence[SourceFile]) -> BandFiles:
    """One image in place of its bands."""
    path = f"{folder}/" if folder else ""
    path = f"{path}{tile_id}{split_suffix(files[0].path)[1]}"
    return BandFiles(path, sum(file.size_bytes for file in files), bands=tuple(files))


def missing_bands(source: Source, names: Sequence[str], tile_id: str, folder: str, split: str) -> Finding:
    """The error of an image that lacks bands.

    Args:
        source: the source.
        names: the paths of the missing files in the folder, or where there are several folders, in that around them.
        tile_id: the image's.
        folder: their folder.
        split: theirs.
    """
    where = source.where(printable(f"{folder}/{names[0]}" if folder else names[0]))
    more = f", and {len(names) - 1} other bands of this image" if len(names) > 1 else ""
    error = DataError(where, f"expected a file of this band{more}, found none", "add it, or change bands")
    return Finding.of(error, split, printable(tile_id))


def join_band_folders(
    source: Source, folders: Sequence[Folder], names: Sequence[str]
) -> tuple[list[Folder], list[Finding]]:
    """Put one folder of images in the place of the folders of their bands.

    Args:
        source: the source.
        folders: all folders with pixels.
        names: `bands`: folder and file name of each band, `*` in the folder for any split or area.

    Returns:
        The folders, an error for each image that lacks a band, and a warning of files that are no band.
    """
    around = [_folder_pattern(name.rpartition("/")[0]) for name in names]
    files = [pattern_of(name.rpartition("/")[2]) for name in names]
    groups: dict[tuple[str, ...], dict[int, Folder]] = defaultdict(dict)
    result: list[Folder] = []
    for folder in folders:
        path = unicodedata.normalize("NFC", folder.path)
        matches = [(band, match) for band, pattern in enumerate(around) if (match := pattern.search(path))]
        for band, match in matches:
            groups[path[: match.start()], *match.groups()][band] = folder
        result += [] if matches else [folder]
    findings: list[Finding] = []
    unused: list[SourceFile] = []
    for (before, *_), held in groups.items():
        first = held[min(held)]
        found: dict[str, dict[int, SourceFile]] = defaultdict(dict)
        for band, folder in held.items():
            for file in folder.files:
                match = files[band].fullmatch(unicodedata.normalize("NFC", file.path.rpartition("/")[2]))
                if match is None:
                    unused.append(file)
                else:
                    found[match[1]][band] = file
        images = file_list()
        for tile_id, bands in found.items():
            lacking = [
                (held[band].path if band in held else before + names[band].rpartition("/")[0])
                + "/"
                + names[band].rpartition("/")[2].replace("{id}", tile_id)
                for band in range(len(names))
                if band not in bands
            ]
            if lacking:
                findings.append(missing_bands(source, lacking, tile_id, "", first.split))
            else:
                images.append(joined_image(first.path, tile_id, [bands[band] for band in range(len(names))]))
        result.append(replace(first, files=images))
    if unused:
        sentence = f"{counted(unused)} among the images are called like none of bands and are not used"
        findings.append(Finding("", f"{sentence}: {printable(unused[0].path)}", severity="warning"))
    return result, findings


def _folder_pattern(name: str) -> re.Pattern[str]:
    """What matches a path that ends with a folder of this name; `*` stands for any part of a name."""
    parts = re.escape(unicodedata.normalize("NFC", name)).replace(r"\*", "([^/]*)")
    return re.compile(f"(?:^|(?<=/)){parts}$")
