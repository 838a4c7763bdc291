"""Lists of the tiles of a split, one in each line: `train.txt`, `val.txt`, or tables such as `train.csv`."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from landseg.contracts.errors import DataError, printable
from landseg.raw.findings import Finding
from landseg.raw.layout.folders.names import ROLE_WORDS, Clarity, FolderName, plainest, read_folder_name, words
from landseg.raw.layout.suffixes import RASTER_SUFFIXES, split_suffix
from landseg.raw.layout.tile_names import AREA_SEPARATOR, Naming, stem_of
from landseg.raw.sources.file_start import wrong_content
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile

MAX_LIST_BYTES = 512 << 20
"""Two million names of 200 bytes."""
_SHOWN = 3
TABLE_SUFFIXES = (".csv", ".tsv")
"""Of lists in which lines have columns."""
_COLUMNS = re.compile(r"[\s,;]+")
_COLUMN_WORDS = frozenset(("id", "name", "file", "filename", "path", "tile", "split"))
_WORD_END = re.compile(r"[_\-. ]+")
_PART = re.compile(r"[_-]\d+$")
_LETTERS = re.compile(r"[^\W\d_]+$")


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


def lists_among_others(files: Iterable[SourceFile]) -> dict[str, str]:
    """The one file of each split whose name mentions it among other words: `flood_train_data.csv`."""
    found: dict[str, list[str]] = {}
    for file in files:
        splits, _ = plainest(list(read_folder_name(split_suffix(file.path.rpartition("/")[2])[0]).splits))
        if len(splits) == 1:
            found.setdefault(splits.pop(), []).append(file.path)
    return {split: paths[0] for split, paths in found.items() if len(paths) == 1}


class TileFinder:
    """Finds the tile that a line of a list names.

    By path, file name or stem, with or without what roles add to it, and without what the names of all tiles begin
    with: `2_10` for `top_potsdam_2_10`.
    """

    def __init__(self, ids: Collection[str], naming: Naming) -> None:
        self._ids, self._naming = ids, naming
        tails = Counter(tile_id.rpartition(AREA_SEPARATOR)[2] for tile_id in ids)
        self._by_tail = {tail: tile_id for tile_id in ids if tails[tail := tile_id.rpartition(AREA_SEPARATOR)[2]] == 1}
        self._beginnings = _common_beginnings(tails)
        self.shortened: dict[str, str] = {}

    def find(self, line: str, cells: Sequence[str]) -> str | None:
        """The tile's id; None where there is none, or more than one.

        Args:
            line: the whole line.
            cells: what its columns hold: the path of an image, say, and that of its label.

        Raises:
            ValueError: its columns name two tiles.
        """
        if whole := self._find(line):
            return whole
        found: dict[str, None] = {}
        for cell in cells:  # behind a name, only paths count: other columns hold anything
            if (not found or _is_path(cell)) and (tile_id := self._find(cell)):
                found[tile_id] = None
        if len(found) > 1:
            raise ValueError(" and ".join(list(found)[:2]))
        return next(iter(found), None)

    def whole_of(self, name: str) -> str:
        """The tile of which a name is a part, by a number at its end, as scripts that cut images add it; "" if none."""
        whole = _PART.sub("", stem_of(f"{name}.tif"))
        return self._find(whole) or "" if whole != name else ""

    def _find(self, text: str) -> str | None:
        path = text.replace("\\", "/").strip("/")
        path = split_suffix(path)[0] if split_suffix(path)[1] in RASTER_SUFFIXES else path
        names = [name for name in path.split("/") if name not in (".", "")]
        if not names:
            return None
        stem = stem_of(f"{names[-1]}.tif")
        # Folders of splits and roles are mostly no areas: `bonn/images/a.tif` is tile `a` of bonn.
        areas = [name for name in names[:-1] if read_folder_name(name) == FolderName()]
        for core in dict.fromkeys((stem, self._naming.images.core(stem), self._naming.labels.core(stem))):
            for around in (names[:-1], areas):
                for start in range(len(around) + 1):
                    if core is not None and (tile_id := AREA_SEPARATOR.join((*around[start:], core))) in self._ids:
                        return tile_id
            if core is not None and core in self._by_tail:
                return self._by_tail[core]
        if len(names) > 1:
            return None
        for beginning in self._beginnings:
            if found := self._by_tail.get(beginning + stem):
                return self.shortened.setdefault(stem, found)
        return None


def _common_beginnings(names: Collection[str]) -> list[str]:
    """What all names begin with, up to the end of a word, the longest first."""
    if len(names) < 2:
        return []
    first, last = min(names), max(names)  # what these two share, all between them share
    different = (at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    shared = first[: next(different, len(first))]
    ends = {match.end() for match in _WORD_END.finditer(shared)} | {match.end() for match in _LETTERS.finditer(shared)}
    return [shared[:end] for end in sorted(ends, reverse=True)]


@dataclass
class Listed:
    """What the lists say.

    Attributes:
        splits: the split of each listed tile.
        findings: what is wrong with the lists.
        remarks: how their lines were understood.
    """

    splits: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def splits_of(
    source: Source, lists: Mapping[str, Sequence[SourceFile]], finder: TileFinder, *, takes_several: bool = False
) -> Listed:
    """The split of each listed tile.

    Args:
        source: the source.
        lists: the lists of each split.
        finder: finds tiles by what the lines say.
        takes_several: whether a split may have several lists.
    """
    listed = Listed()
    for split, files in lists.items():
        if len(files) > 1 and not takes_several:
            found = " and ".join(printable(file.path) for file in files[:_SHOWN])
            one_each = ", ".join(f"{name}: {printable(held[0].path)}" for name, held in lists.items())
            action = f"keep one of them, or write splits: {{{one_each}}} in dataset.yaml"
            error = DataError(source.uri, f"expected one list of {split}, found {found}", action)
            listed.findings.append(Finding.of(error))
            continue
        for file in files:
            _read_list(source, split, file, finder, listed)
    if finder.shortened:
        short, tile_id = next(iter(finder.shortened.items()))
        listed.remarks.append(f"lists leave out what all names begin with ({printable(short)} is {printable(tile_id)})")
    return listed


def _read_list(source: Source, split: str, file: SourceFile, finder: TileFinder, listed: Listed) -> None:
    where = source.where(printable(file.path))
    unknown: list[str] = []
    twice: list[str] = []
    differing: list[str] = []
    number = 0
    try:
        for line, cells in read_lines(source, file):
            number += 1
            try:
                tile_id = finder.find(line, cells)
            except ValueError as err:
                differing.append(str(err))
                continue
            if tile_id is not None:
                if listed.splits.setdefault(tile_id, split) != split:
                    twice.append(f"{tile_id} (also in {listed.splits[tile_id]})")
            elif number == 1 and file.path.lower().endswith(TABLE_SUFFIXES) and _is_header(cells):
                number = 0
            else:
                unknown.append(line)
    except DataError as err:
        listed.findings.append(Finding.of(err))
        return
    if not number:
        listed.findings.append(Finding.of(DataError(where, "expected one name a line, found none", "remove the list")))
    if unknown:
        problem = f"expected names of images, found {len(unknown)} of {number} that name none or several"
        action = "write a path such as area/name where names occur twice, and remove what does not exist"
        if all(wholes := [finder.whole_of(line) for line in unknown]):
            action = f"list whole images, such as {printable(wholes[0])}: landseg cuts large ones into tiles"
        listed.findings.append(Finding.of(DataError(where, f"{problem}: {some_names(unknown)}", action)))
    if differing:
        problem = (
            f"expected the image and the label of one tile in a line, found {len(differing)} of {number} with others"
        )
        action = "give both the same name, or list the images alone"
        listed.findings.append(Finding.of(DataError(where, f"{problem}: {some_names(differing)}", action)))
    if twice:
        problem = f"expected each tile in one list, found {len(twice)} in two: {some_names(twice)}"
        listed.findings.append(Finding.of(DataError(where, problem, "remove them from one of the lists")))


def _is_path(cell: str) -> bool:
    return "/" in cell or "\\" in cell or split_suffix(cell)[1] in RASTER_SUFFIXES


def _is_header(cells: Sequence[str]) -> bool:
    """Whether the first line of a table names its columns: none is a path, and one says what it holds."""
    if any(map(_is_path, cells)):
        return False
    return any(word in ROLE_WORDS or word in _COLUMN_WORDS for cell in cells for word in words(cell))


def some_names(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(printable(name[:100]) for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def read_lines(source: Source, file: SourceFile) -> Iterator[tuple[str, list[str]]]:
    """Each line of a list with something in it, and its columns.

    Raises:
        DataError: it is too large, or no text.
    """
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
    is_table = file.path.lower().endswith(TABLE_SUFFIXES)
    for line in text.splitlines():
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if is_table:
            delimiter = next((sign for sign in "\t;" if sign in line), ",")
            yield name, [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
        else:
            yield name, _COLUMNS.split(name)
