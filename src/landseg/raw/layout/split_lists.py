"""Lists of the tiles of a split, one name a line: `train.txt`, `val.txt`, `test.txt` next to `images` and `labels`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from landseg.contracts.errors import DataError, printable
from landseg.raw.findings import Finding
from landseg.raw.layout.folder_names import Clarity, plainest, read_folder_name
from landseg.raw.layout.suffixes import RASTER_SUFFIXES, split_suffix
from landseg.raw.layout.tile_names import AREA_SEPARATOR, Naming, stem_of
from landseg.raw.sources.file_start import wrong_content
from landseg.raw.sources.source import Source, SourceFile

MAX_LIST_BYTES = 512 << 20
"""Two million names of 200 bytes."""
_SHOWN = 3
_COLUMNS = re.compile(r"[\s,;]+")


def find_lists(files: Iterable[SourceFile]) -> dict[str, list[SourceFile]]:
    """The files that list a split's tiles by their names, by split.

    Of several for one split, those count that lie in a folder for segmentation: Pascal VOC has others.
    """
    found: dict[str, list[SourceFile]] = {}
    for file in files:
        splits, clarity = plainest(list(read_folder_name(split_suffix(file.path.rpartition("/")[2])[0]).splits))
        if len(splits) == 1 and clarity is not None and clarity <= Clarity.COMPOUND:
            found.setdefault(splits.pop(), []).append(file)
    for split, several in found.items():
        if segmentation := [file for file in several if "segmentation" in file.path.lower().split("/")]:
            found[split] = segmentation
    return found


class TileFinder:
    """Finds the tile that a line of a list names: by path, file name or stem, with or without what roles add to it."""

    def __init__(self, ids: Collection[str], naming: Naming) -> None:
        self._ids, self._naming = ids, naming
        tails = Counter(tile_id.rpartition(AREA_SEPARATOR)[2] for tile_id in ids)
        self._by_tail = {tail: tile_id for tile_id in ids if tails[tail := tile_id.rpartition(AREA_SEPARATOR)[2]] == 1}

    def find(self, line: str) -> str | None:
        """The tile's id; None where there is none, or more than one."""
        for text in dict.fromkeys((line, _COLUMNS.split(line)[0])):
            path = text.replace("\\", "/").strip("/")
            path = split_suffix(path)[0] if split_suffix(path)[1] in RASTER_SUFFIXES else path
            names = [name for name in path.split("/") if name not in (".", "")]
            if not names:
                continue
            stem = stem_of(f"{names[-1]}.tif")
            for core in dict.fromkeys((stem, self._naming.images.core(stem), self._naming.labels.core(stem))):
                for start in range(len(names)):
                    if core is not None and (tile_id := AREA_SEPARATOR.join((*names[start:-1], core))) in self._ids:
                        return tile_id
                if core is not None and core in self._by_tail:
                    return self._by_tail[core]
        return None


def splits_of(
    source: Source, lists: Mapping[str, Sequence[SourceFile]], finder: TileFinder
) -> tuple[dict[str, str], list[Finding]]:
    """The split of each listed tile, and what is wrong with the lists."""
    splits: dict[str, str] = {}
    findings = []
    for split, files in lists.items():
        if len(files) > 1:
            found = " and ".join(printable(file.path) for file in files[:_SHOWN])
            error = DataError(source.uri, f"expected one list of {split}, found {found}", "keep one of them")
            findings.append(Finding.of(error))
            continue
        file = files[0]
        where = source.where(printable(file.path))
        unknown, twice, number = [], [], 0
        try:
            for line in _lines(source, file):
                number += 1
                tile_id = finder.find(line)
                if tile_id is None:
                    unknown.append(line)
                elif splits.setdefault(tile_id, split) != split:
                    twice.append(f"{tile_id} (also in {splits[tile_id]})")
        except DataError as err:
            findings.append(Finding.of(err))
            continue
        if not number:
            findings.append(Finding.of(DataError(where, "expected one name a line, found none", "remove the list")))
        if unknown:
            problem = f"expected names of images, found {len(unknown)} of {number} that name none or several"
            action = "write a path such as area/name where names occur twice, and remove what does not exist"
            findings.append(Finding.of(DataError(where, f"{problem}: {_some(unknown)}", action)))
        if twice:
            problem = f"expected each tile in one list, found {len(twice)} in two: {_some(twice)}"
            findings.append(Finding.of(DataError(where, problem, "remove them from one of the lists")))
    return splits, findings


def _some(names: Sequence[str]) -> str:
    return ", ".join(printable(name[:100]) for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _lines(source: Source, file: SourceFile) -> Iterator[str]:
    where = source.where(printable(file.path))
    if file.size_bytes > MAX_LIST_BYTES:
        problem = f"expected a list of at most {MAX_LIST_BYTES >> 20} MiB, found {file.size_bytes >> 20} MiB"
        raise DataError(where, problem)
    data = source.read(file)
    if error := wrong_content(data, where, "a list of names"):
        raise error
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as err:
        raise DataError(where, "expected a text in UTF-8, found another encoding", "save it as UTF-8") from err
    for line in text.splitlines():
        name = line.strip()
        if name and not name.startswith("#"):
            yield name
