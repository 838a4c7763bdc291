"""Images of which each band is a file of its own, as satellite products come: `t0_B02.tif`, `t0_B03.tif`, ..."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from landseg.contracts.errors import DataError, printable
from landseg.raw.dataset_yaml import MAX_BANDS, DatasetConfig
from landseg.raw.findings import Finding
from landseg.raw.layout.folders import Folder, Layout
from landseg.raw.layout.strays import counted
from landseg.raw.layout.suffixes import IMAGE_SUFFIXES, split_suffix
from landseg.raw.sources.source import Source, SourceFile

_BAND = re.compile(
    r"b?\d{1,2}[a-z]?|band_?\d{1,2}|blue|green|red|nir\d?|swir\d?|rededge\d?|re\d?|coastal|pan|cirrus|vv|vh|hh|hv|[rgb]",
    re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(r"\d+")
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class BandFiles(SourceFile):
    """An image in several files; `path` is that of one file in their place, named after the tile alone."""

    bands: tuple[SourceFile, ...] = ()


def join_bands(source: Source, layout: Layout, config: DatasetConfig) -> list[Finding]:
    """Put an image in the place of the files of its bands, in every folder of images, as `bands` names them.

    Returns:
        An error for each image that lacks a band, and a note on files that are no band.
    """
    patterns = [_pattern(name) for name in config.band_files]
    findings: list[Finding] = []
    others: list[SourceFile] = []
    for (split, role), folders in layout.folders.items():
        if role == "images":
            joined = [_joined(source, split, folder, config.band_files, patterns) for folder in folders]
            layout.folders[split, role] = [folder for folder, _, _ in joined]
            for _, of_folder, unused in joined:
                findings += of_folder
                others += unused
    if others:
        sentence = f"{counted(others)} among the images are called like none of bands and are not used"
        findings.append(Finding("", f"{sentence}: {printable(others[0].path)}", severity="warning"))
    return findings


def _pattern(name: str) -> re.Pattern[str]:
    before, after = (re.escape(unicodedata.normalize("NFC", part)) for part in name.split("{id}"))
    return re.compile(f"{before}(.+){after}", re.IGNORECASE)


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
    images: list[SourceFile] = []
    findings = []
    for tile_id, bands in found.items():
        prefix = f"{folder.path}/" if folder.path else ""
        missing = [names[band].replace("{id}", tile_id) for band in range(len(names)) if band not in bands]
        if missing:
            where = source.where(printable(f"{prefix}{missing[0]}"))
            more = f", and {len(missing) - 1} other bands of this image" if len(missing) > 1 else ""
            error = DataError(where, f"expected a file of this band{more}, found none", "add it, or change bands")
            findings.append(Finding.of(error, split, printable(tile_id)))
            continue
        files = tuple(bands[band] for band in range(len(names)))
        path = f"{prefix}{tile_id}{split_suffix(files[0].path)[1]}"
        images.append(BandFiles(path, sum(file.size_bytes for file in files), bands=files))
    return replace(folder, files=images), findings, unused


def unjoined_bands(source: Source, layout: Layout, is_paired: bool) -> Finding | None:
    """An error that says what to write, where images seem to be one file per band and `dataset.yaml` does not say so.

    Args:
        source: the source.
        layout: where images and labels are.
        is_paired: whether images have labels by their own names: then they are whole.
    """
    images = [
        file for (_, role), folders in layout.folders.items() if role == "images" for f in folders for file in f.files
    ]
    labels = [
        file for (_, role), folders in layout.folders.items() if role == "labels" for f in folders for file in f.files
    ]
    if is_paired and labels:
        return None
    label_stems = {_stem(file) for file in labels}
    for names in (_endings(images, at_end=True), _endings(images, at_end=False)):
        if names is None:
            continue
        cores, bands = names
        labelled = bool(cores & label_stems)
        if labelled or (not labels and all(map(_is_band, bands))):
            break
    else:
        return None
    patterns = ", ".join(f'"{name}"' for name in bands)
    tile_id = min(cores & label_stems or cores)
    shown = ", ".join(name.replace("{id}", tile_id) for name in bands[:_SHOWN]) + (
        ", ..." if len(bands) > _SHOWN else ""
    )
    problem = f"expected one image per tile, found one file per band: {printable(shown)}"
    action = f"write bands: [{printable(patterns)}] into dataset.yaml, in the order in which a model is to see them"
    return Finding.of(DataError(source.uri, problem, action))


def _endings(files: Iterable[SourceFile], *, at_end: bool) -> tuple[set[str], list[str]] | None:
    """Ids and names of bands, as `{id}_B02.tif`, if every image has each of them; None if not."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in files:
        suffix = file.path[len(file.path) - len(split_suffix(file.path)[1]) :]
        if suffix.lower() not in IMAGE_SUFFIXES:
            continue
        stem = _stem(file)
        match = re.fullmatch(r"(.+)([_.-][^_.-]+)" if at_end else r"([^_.-]+[_.-])(.+)", stem)
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
    return {core.rpartition("/")[2] for core in found}, sorted(bands, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which B2 comes before B10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _is_band(name: str) -> bool:
    """Whether a name of a file's part is one of bands alone, not a row or column of a grid."""
    part = split_suffix(name)[0].replace("{id}", "").strip("_.-")
    return bool(_BAND.fullmatch(part)) and not _PLAIN_NUMBER.fullmatch(part)


def _stem(file: SourceFile) -> str:
    return unicodedata.normalize("NFC", split_suffix(file.path.rpartition("/")[2])[0])
