"""What files of single bands are called: `t0_B02.tif`, `red/t0.tif`; and what bands are called in general."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from landseg.contracts.errors import printable
from landseg.raw.config.fields import MAX_BANDS
from landseg.raw.layout.folders.names import SPLIT_WORDS, words
from landseg.raw.layout.folders.roles_by_file import role_of_part
from landseg.raw.layout.suffixes import IMAGE_SUFFIXES, split_suffix
from landseg.raw.sources.source_file import SourceFile

_BAND = re.compile(
    r"b?\d{1,2}[a-z]?|band_?\d{1,2}|blue|green|red|nir\d?|swir\d?|rededge\d?|re\d?|coastal|pan|cirrus|vv|vh|hh|hv|[rgb]",
    re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(r"\d+")
_SEPARATOR = re.compile(r"[_.-]+")
_MOST_PARTS = 3
CHOICE = "with those that a model is to see, in its order"


def is_band(name: str) -> bool:
    """Whether a part of a name is that of a band alone, not a row or column of a grid."""
    return bool(_BAND.fullmatch(name)) and not _PLAIN_NUMBER.fullmatch(name)


def is_band_file(name: str) -> bool:
    """Whether a file's name without `{id}` is that of a band."""
    return is_band(_part(name))


def endings(files: Iterable[SourceFile], *, at_end: bool) -> tuple[set[str], list[str]] | None:
    """Ids and names of bands, as `{id}_B02.tif`, if every image has each of them; None if not.

    Args:
        files: images, each of one band.
        at_end: whether the band is what names end with, in place of what they begin with.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for file in files:
        suffix = file.path[len(file.path) - len(split_suffix(file.path)[1]) :]
        if suffix.lower() not in IMAGE_SUFFIXES:
            continue
        match = re.fullmatch(r"(.+)([_.-][^_.-]+)" if at_end else r"([^_.-]+[_.-])(.+)", stem_of_band(file))
        if match is None:
            return None
        core, band = (match[1], f"{{id}}{match[2]}{suffix}") if at_end else (match[2], f"{match[1]}{{id}}{suffix}")
        found[f"{file.path.rpartition('/')[0]}/{core}"].add(band)
    kinds = set(map(frozenset, found.values()))
    if len(kinds) != 1:
        return None
    (bands,) = kinds
    if not 2 <= len(bands) <= MAX_BANDS:
        return None
    return {core.rpartition("/")[2] for core in found}, sorted(bands, key=natural)


def folder_patterns(places: Sequence[tuple[str, Sequence[SourceFile]]], *, are_named: bool = True) -> list[str]:
    """`bands` of folders that each hold one band of the same images, as `*_red/red_{id}.tif`; empty if they do not.

    Args:
        places: path and files of each folder. A `*` takes the place of a split's name, as other splits are alike; it
            may be that of a folder inside of the band's.
        are_named: whether folders count only if they are called as bands.
    """
    paths = [path.split("/") for path, _ in places]
    below = ""
    if all(len(path) > 1 and path[-1] == paths[0][-1] for path in paths):  # `red/train`, `nir/train`
        below = f"/{_any_split(paths[0][-1])}"
        paths = [path[:-1] for path in paths]
    names = [path[-1] for path in paths]
    is_named = all(any(map(is_band, words(name))) for name in names)
    if not 2 <= len(places) <= MAX_BANDS or (are_named and not is_named):
        return []
    suffixes = [{file.path[len(split_suffix(file.path)[0]) :] for file in files} for _, files in places]
    if any(len(found) != 1 for found in suffixes):
        return []
    stems = [[stem_of_band(file) for file in files] for _, files in places]
    for before, after in sorted(((b, a) for b in range(_MOST_PARTS) for a in range(_MOST_PARTS)), key=sum):
        around = [_around(held, before, after) for held in stems]
        ids = [{stem[len(a) : len(stem) - len(b)] for stem in held} for held, (a, b) in zip(stems, around, strict=True)]
        if all(found == ids[0] and "" not in found for found in ids):
            parts = zip(names, around, suffixes, strict=True)
            return sorted(
                (f"{_any_split(n)}{below}/{a}{{id}}{b}{next(iter(s))}" for n, (a, b), s in parts), key=natural
            )
    return []


def written_bands(bands: Iterable[str]) -> str:
    """The line of `dataset.yaml` that names bands."""
    names = ", ".join(f'"{name}"' for name in bands)
    return f"bands: [{printable(names)}]"


def bands_per_folder(files: Sequence[SourceFile]) -> str:
    """What to write where each tile is a folder of its bands' files, perhaps with its label; "" where it is not."""
    found = endings(files, at_end=True)
    if found is None:
        return ""
    labels = [name for name in found[1] if role_of_part(_part(name)) == "labels"]
    bands = [name for name in found[1] if name not in labels]
    if len(labels) > 1 or len(bands) < 2 or not all(map(is_band_file, bands)):
        return ""
    suffix = f" and label_suffix: _{_part(labels[0])}" if labels else ""
    return f"write {written_bands(bands)}{suffix} in dataset.yaml, {CHOICE}"


def bands_per_tile(files: Iterable[SourceFile]) -> list[str]:
    """`bands` of tiles that are each a folder of bands called alike, as `{id}/B02.tif`; empty if they are not."""
    held: dict[str, set[str]] = defaultdict(set)
    for file in files:
        folder, _, name = file.path.rpartition("/")
        held[folder].add(name)
    kinds = set(map(frozenset, held.values()))
    names = kinds.pop() if len(kinds) == 1 and len(held) > 1 else frozenset()
    if not 2 <= len(names) <= MAX_BANDS or not all(is_band_file(name) for name in names):
        return []
    return sorted((f"{{id}}/{name}" for name in names), key=natural)


def _part(name: str) -> str:
    """What a band's name adds to the id."""
    return split_suffix(name)[0].replace("{id}", "").strip("_.-")


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which B2 comes before B10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def stem_of_band(file: SourceFile) -> str:
    """The stem of a file's name, normalised."""
    return unicodedata.normalize("NFC", split_suffix(file.path.rpartition("/")[2])[0])


def _around(stems: Sequence[str], before: int, after: int) -> tuple[str, str]:
    """What all stems begin and end with, of the first one's first and last few parts; "" where they do not."""
    ends = [match.end() for match in _SEPARATOR.finditer(stems[0])]
    starts = [match.start() for match in _SEPARATOR.finditer(stems[0])][::-1]
    prefix = stems[0][: ends[before - 1]] if 0 < before <= len(ends) else ""
    suffix = stems[0][starts[after - 1] :] if 0 < after <= len(starts) else ""
    longest = len(prefix) + len(suffix)
    is_shared = all(s.startswith(prefix) and s.endswith(suffix) and len(s) > longest for s in stems)
    return (prefix, suffix) if is_shared else ("", "")


def _any_split(name: str) -> str:
    """A folder's name with `*` in place of a split's."""
    part = next((part for part in _SEPARATOR.split(name) if part.lower() in SPLIT_WORDS), "")
    return name.replace(part, "*", 1) if part else name
