"""Files by the id of their tile, in little memory."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from landseg.raw.compact_list import CompactList, in_order, position_of
from landseg.raw.sources.source_file import SourceFile, from_row, to_row

_Item = tuple[str, SourceFile]


class FilesById(Mapping[str, SourceFile]):
    """Files by the id of their tile, sorted by it.

    Args:
        items: id and file, sorted by id; each id once.
    """

    def __init__(self, items: Iterable[_Item] = ()) -> None:
        self._items = CompactList(_to_row, _from_row)
        self._items.extend(items)
        self._next = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return map(itemgetter(0), self._items)

    def in_order(self, *, drain: bool = False) -> Iterator[_Item]:
        """Id and file of each; with `drain`, the memory is freed on the way (:meth:`CompactList.drained`)."""
        return self._items.drained() if drain else iter(self._items)

    def __getitem__(self, tile_id: str) -> SourceFile:
        position = position_of(self._items, tile_id, self._next, itemgetter(0))
        if position is None:
            raise KeyError(tile_id)
        self._next = position + 1
        return self._items[position][1]


def by_id(items: Iterable[_Item]) -> Iterator[tuple[int, _Item]]:
    """Ids and files, each with its number among them, sorted by id; those of one id in the order in which they come."""
    numbered: Iterable[tuple[int, _Item]] = enumerate(items)
    found = in_order(numbered, lambda item: item[1][0], lambda: CompactList(_numbered_to_row, _numbered_from_row))
    return found.drained()


def joined(*files: FilesById, drain: bool = False) -> Iterator[tuple[str, list[SourceFile | None]]]:
    """All ids, sorted, and for each the files that have it, None where there is none.

    Args:
        files: the files.
        drain: whether they are needed no more.
    """
    streams = [_tagged(position, of_one.in_order(drain=drain)) for position, of_one in enumerate(files)]
    for tile_id, found in itertools.groupby(heapq.merge(*streams, key=itemgetter(0)), key=itemgetter(0)):
        row: list[SourceFile | None] = [None] * len(files)
        for _, position, file in found:
            row[position] = file
        yield tile_id, row


def _tagged(position: int, items: Iterable[_Item]) -> Iterator[tuple[str, int, SourceFile]]:
    return ((tile_id, position, file) for tile_id, file in items)


def _to_row(item: _Item) -> tuple[str, tuple[Any, ...]]:
    return item[0], to_row(item[1])


def _from_row(row: Sequence[Any]) -> _Item:
    return row[0], from_row(row[1])


def _numbered_to_row(item: tuple[int, _Item]) -> tuple[int, str, tuple[Any, ...]]:
    return item[0], *_to_row(item[1])


def _numbered_from_row(row: Sequence[Any]) -> tuple[int, _Item]:
    return row[0], _from_row(row[1:])
