"""Images of which each is a folder of its bands' files, as `bands` names them: `{id}/B04.tif`, `{id}/B03.tif`."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from landseg.raw.findings import Finding
from landseg.raw.layout.folders.joined_images import JoinedImages, unused_files
from landseg.raw.layout.folders.names import mentions_labels
from landseg.raw.layout.suffixes import RASTER_SUFFIXES, split_suffix
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile, file_list, paths_of, sorted_files


def are_tile_folders(names: Sequence[str]) -> bool:
    """Whether `bands` names the files in the folder of a tile."""
    return any("{id}" in name.rpartition("/")[0] for name in names)


def join_tile_folders(
    source: Source, files: Sequence[SourceFile], names: Sequence[str]
) -> tuple[Sequence[SourceFile], list[Finding]]:
    """Put an image next to each folder that holds its bands, in their place.

    Args:
        source: the source.
        files: its files.
        names: `bands`: path of each band from the folder of the tile on, `*` for any part of a name.

    Returns:
        The files without bands, and without others that lie next to them unless they say that they are labels; an error
        for each image that lacks a band, and a warning of files that are no band.
    """
    patterns = [_pattern(name) for name in names]
    found: dict[tuple[str, str], dict[int, SourceFile]] = defaultdict(dict)
    used: set[str] = set()
    around: set[str] = set()
    for number, path in enumerate(paths_of(files)):
        normal = unicodedata.normalize("NFC", path)
        for band, pattern in enumerate(patterns):
            if match := pattern.fullmatch(normal):
                found[match[1], match[2]][band] = files[number]
                used.add(path)
                around.add(path.rpartition("/")[0])
    rest, unused = file_list(), file_list()
    for file in files:
        folder, _, name = file.path.rpartition("/")
        stem, suffix = split_suffix(name)
        is_other = folder in around and suffix in RASTER_SUFFIXES and not mentions_labels(stem)
        if file.path not in used:
            (unused if is_other else rest).append(file)
    joined = JoinedImages(source, "", rest)
    for (before, tile_id), bands in found.items():
        folder = before.rstrip("/")
        joined.add(folder, tile_id, bands, [(folder, name) for name in names])
    return sorted_files(rest), [*joined.findings, *unused_files(unused, "next to bands")]


def _pattern(name: str) -> re.Pattern[str]:
    """What matches the path of a band: what is before the tile's folder, and the tile's id."""
    parts = re.escape(unicodedata.normalize("NFC", name)).replace(r"\*", "[^/]*").replace(r"\{id\}", "([^/]+)")
    return re.compile(f"((?:.*/)?){parts}", re.IGNORECASE)
