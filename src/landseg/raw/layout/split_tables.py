"""One table of all tiles with a column that says their split: `id,split` in `metadata.csv`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from landseg.contracts.errors import DataError, printable
from landseg.raw.findings import Finding
from landseg.raw.layout.folders.names import SPLIT_WORDS
from landseg.raw.layout.split_lists import TABLE_SUFFIXES, Listed, TileFinder, read_lines, some_names
from landseg.raw.sources.source import Source
from landseg.raw.sources.source_file import SourceFile

_COLUMNS = ("split", "splits", "subset", "set", "partition", "usage", "phase")
"""What the column is called."""
_MOST_TABLES = 20


def find_table(source: Source, files: Iterable[SourceFile]) -> tuple[SourceFile, int] | None:
    """The only table that says splits, and the number of the column; None without one, or with several."""
    tables = [file for file in files if file.path.lower().endswith(TABLE_SUFFIXES)]
    found = [(file, column) for file in tables[:_MOST_TABLES] if (column := _column(source, file)) is not None]
    return found[0] if len(found) == 1 else None


def _column(source: Source, file: SourceFile) -> int | None:
    """Which column of a table says the splits of its lines."""
    try:
        lines = read_lines(source, file)
        header = [cell.lower() for cell in next(lines, ("", []))[1]]
        column = next((number for number, cell in enumerate(header) if cell in _COLUMNS), None)
        first = next(lines, None)
        if column is None or first is None:
            return None
        is_split = (_split(cells, column) != "" for _, cells in itertools.chain([first], lines))
        return column if all(is_split) else None
    except DataError:
        return None


def _split(cells: list[str], column: int) -> str:
    return SPLIT_WORDS.get(cells[column].lower(), "") if column < len(cells) else ""


def splits_in_table(source: Source, file: SourceFile, column: int, finder: TileFinder) -> Listed:
    """The split of each tile that a table names.

    Lines of tiles that there are not are told: the table of a public dataset lists all of it.

    Args:
        source: the source.
        file: the table.
        column: which column says the split.
        finder: finds tiles by what the other columns say.
    """
    listed = Listed()
    where = source.where(printable(file.path))
    unknown: list[str] = []
    twice: list[str] = []
    number = 0
    for line, cells in itertools.islice(read_lines(source, file), 1, None):
        number += 1
        try:
            tile_id = finder.find(line, [*cells[:column], *cells[column + 1 :]])
        except ValueError:
            tile_id = None
        if tile_id is None:
            unknown.append(line)
        elif listed.splits.setdefault(tile_id, split := _split(cells, column)) != split:
            twice.append(f"{tile_id} ({listed.splits[tile_id]} and {split})")
    shown = some_names(unknown)
    if unknown and not listed.splits:
        problem = f"expected names of images, found {len(unknown)} of {number} that name none or several: {shown}"
        listed.findings.append(Finding.of(DataError(where, problem, "write the images' names into the first column")))
    elif unknown:
        sentence = f"{len(unknown)} of {number} lines of {printable(file.path)} name no image, or several: {shown}"
        listed.findings.append(Finding("", sentence, severity="warning"))
    if twice:
        problem = f"expected one split for each tile, found {len(twice)} with two: {some_names(twice)}"
        listed.findings.append(Finding.of(DataError(where, problem, "remove one of their lines")))
    return listed
