"""Images whose bands lie in folders of their own, as `bands` names them: `*_red/red_{id}.tif`, `*_nir/nir_{id}.tif`."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from landseg.raw.findings import Finding
from landseg.raw.layout.folders.joined_images import JoinedImages, unused_files
from landseg.raw.layout.folders.layout import Folder
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile, file_list


def pattern_of(name: str) -> re.Pattern[str]:
    """What matches the file names of a band: `{id}` stands for the tile's id."""
    before, after = (re.escape(unicodedata.normalize("NFC", part)) for part in name.split("{id}"))
    return re.compile(f"{before}(.+){after}", re.IGNORECASE)


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
        places = [
            (held[band].path if band in held else before + name.rpartition("/")[0], name.rpartition("/")[2])
            for band, name in enumerate(names)
        ]
        images = file_list()
        joined = JoinedImages(source, first.split, images)
        for tile_id, bands in found.items():
            joined.add(first.path, tile_id, bands, places)
        findings += joined.findings
        result.append(replace(first, files=images))
    findings += unused_files(unused, "among the images")
    return result, findings


def _folder_pattern(name: str) -> re.Pattern[str]:
    """What matches a path that ends with a folder of this name; `*` stands for any part of a name."""
    parts = re.escape(unicodedata.normalize("NFC", name)).replace(r"\*", "([^/]*)")
    return re.compile(f"(?:^|(?<=/)){parts}$")
