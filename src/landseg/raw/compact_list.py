"""Lists of millions of small rows in little memory: as Python objects, a short text alone takes 60 bytes."""

from __future__ import annotations

import heapq
import itertools
import marshal
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")

_BLOCK = 128
_LEVEL = 6
_SORTED_AT_ONCE = 8192


class CompactList(Sequence[T], Generic[T]):
    """Rows that are appended, then read by position, best in order. What repeats from row to row takes hardly any room.

    Rows are kept in compressed blocks, and made anew each time they are read. Several threads may read at once.

    Args:
        encode: turns a row into a text, a number, None, or a tuple of these.
        decode: the other way round.
    """

    def __init__(self, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
        self._encode, self._decode = encode, decode
        self._blocks: list[bytes] = []
        self._open: list[Any] = []
        self._read: tuple[int | None, Any] = (None, ())

    def append(self, row: T) -> None:
        """Append a row."""
        self._open.append(self._encode(row))
        if len(self._open) == _BLOCK:
            self._blocks.append(zlib.compress(marshal.dumps(self._open, 2), _LEVEL))
            self._open = []  # not cleared: it may be being read

    def extend(self, rows: Iterable[T]) -> None:
        """Append rows."""
        for row in rows:
            self.append(row)

    def __len__(self) -> int:
        return len(self._blocks) * _BLOCK + len(self._open)

    def __iter__(self) -> Iterator[T]:
        return map(self._decode, self.encoded())

    def encoded(self) -> Iterator[Any]:
        """The rows as they are kept, which is quicker where they are not needed as a whole."""
        for block in self._blocks:
            yield from marshal.loads(zlib.decompress(block))
        yield from self._open

    @overload
    def __getitem__(self, position: int) -> T: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[T]: ...
    def __getitem__(self, position: int | slice) -> T | Sequence[T]:
        if isinstance(position, slice):
            return Selection(self, range(len(self))[position])
        number, place = divmod(position, _BLOCK)
        at, rows = self._read
        if at != number:
            number, place = divmod(range(len(self))[position], _BLOCK)
            rows = self._block(number)
            self._read = number, rows  # at once: another thread sees both or neither
        return self._decode(rows[place])

    def drained(self) -> Iterator[T]:
        """The rows, whose memory is freed as they are read: afterwards only the first and the last ones can be read."""
        for number, block in enumerate(self._blocks):
            if number:
                self._blocks[number] = b""
            yield from map(self._decode, marshal.loads(zlib.decompress(block)))
        yield from map(self._decode, self._open)

    def at(self, positions: Iterable[int]) -> Iterator[T]:
        """The rows at some positions, none of them negative, best in order."""
        return map(self._decode, self.encoded_at(positions))

    def encoded_at(self, positions: Iterable[int]) -> Iterator[Any]:
        """As :meth:`at`, but as they are kept."""
        at, rows = -1, self._open
        for position in positions:
            number, place = divmod(position, _BLOCK)
            if number != at:
                at, rows = number, self._block(number)
            yield rows[place]

    def _block(self, number: int) -> list[Any]:
        if number == len(self._blocks):
            return self._open
        assert self._blocks[number], "these rows were drained"
        rows: list[Any] = marshal.loads(zlib.decompress(self._blocks[number]))
        return rows


def in_order(rows: Iterable[T], key: Callable[[T], Any], empty: Callable[[], CompactList[T]]) -> CompactList[T]:
    """Rows sorted by a key, few of them in memory as objects at once; those with the same key keep their order.

    Args:
        rows: the rows.
        key: what they are sorted by.
        empty: makes an empty list for them.
    """
    runs: list[CompactList[T]] = []
    last: Any = None
    source = iter(rows)
    while chunk := sorted(itertools.islice(source, _SORTED_AT_ONCE), key=key):
        if not runs or key(chunk[0]) < last:
            runs.append(empty())
        runs[-1].extend(chunk)
        last = key(chunk[-1])
    if len(runs) < 2:
        return runs[0] if runs else empty()
    merged = empty()
    merged.extend(heapq.merge(*(run.drained() for run in runs), key=key))
    return merged


def text_list() -> CompactList[str]:
    """A list of texts."""
    return CompactList(_same, _same)


def _same(text: str) -> str:
    return text


class Selection(Sequence[T], Generic[T]):
    """Some items of a sequence, as a sequence.

    Args:
        items: the sequence.
        positions: which of its items.
    """

    def __init__(self, items: Sequence[T], positions: Sequence[int]) -> None:
        self._items, self._positions = items, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[T]:
        if isinstance(self._items, CompactList):
            return self._items.at(self._positions)
        return map(self._items.__getitem__, self._positions)

    def encoded(self) -> Iterator[Any] | None:
        """The items as a compact list keeps them; None where they are in another sequence."""
        items: Sequence[T] = self._items
        positions: Iterable[int] = self._positions
        while isinstance(items, Selection):
            positions = map(items._positions.__getitem__, positions)
            items = items._items
        return items.encoded_at(positions) if isinstance(items, CompactList) else None

    @overload
    def __getitem__(self, position: int) -> T: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[T]: ...
    def __getitem__(self, position: int | slice) -> T | Sequence[T]:
        if isinstance(position, slice):
            return Selection(self._items, self._positions[position])
        return self._items[self._positions[position]]


def position_of(rows: Sequence[T], wanted: str, guess: int, key: Callable[[T], str]) -> int | None:
    """Where the row with a key is; None where there is none.

    Args:
        rows: sorted by key; each key once.
        wanted: the key.
        guess: where it may be, as rows are mostly asked for in order: there it is found without a search.
        key: of a row.
    """
    if guess < len(rows) and key(rows[guess]) == wanted:
        return guess
    position = bisect_left(rows, wanted, key=key)
    return position if position < len(rows) and key(rows[position]) == wanted else None
