"""Lists of many small rows in little memory."""

from __future__ import annotations

import sys

import pytest

from landseg.raw import compact_list
from landseg.raw.compact_list import CompactList, Selection, in_order, text_list


def test_rows_come_back_in_order_and_by_position():
    rows = [(f"train/images/t{number:05}.tif", number, None) for number in range(1000)]
    listed = CompactList[tuple[str, int, None]](tuple, tuple)
    listed.extend(rows)
    assert len(listed) == 1000
    assert list(listed) == rows
    assert [listed[position] for position in (0, 999, 128, 127, -1, 300)] == [
        rows[position] for position in (0, 999, 128, 127, -1, 300)
    ]
    assert list(listed[130:-3:7]) == rows[130:-3:7]
    assert list(listed[5:][1:3]) == rows[6:8]
    assert list(listed.at([0, 500, 999])) == [rows[0], rows[500], rows[999]]
    for position in (1000, -1001):
        with pytest.raises(IndexError):
            listed[position]


def test_names_that_are_no_utf8():
    listed = text_list()
    listed.extend(["a\udcff", "b\n", ""] * 100)
    assert list(listed) == ["a\udcff", "b\n", ""] * 100


def test_numbered_names_take_a_few_bytes_each():
    listed = text_list()
    listed.extend(f"tile_{number:07}" for number in range(12_800))
    assert sum(map(sys.getsizeof, listed._blocks)) < 5 * 12_800


def test_rows_that_are_read_while_others_are_appended():
    listed = text_list()
    for number in range(300):
        listed.append(str(number))
        assert (listed[-1], listed[number // 2], listed[0]) == (str(number), str(number // 2), "0")


@pytest.mark.parametrize("keys", [range(100), range(100, 0, -1), [1, 0] * 50])
def test_rows_are_sorted_in_parts(monkeypatch, keys):
    monkeypatch.setattr(compact_list, "_SORTED_AT_ONCE", 7)
    rows = [f"{key:03} {number}" for number, key in enumerate(keys)]
    assert list(in_order(rows, lambda row: row[:3], text_list)) == sorted(rows, key=lambda row: row[:3])


def test_a_selection():
    chosen = Selection("abcdef", (4, 0, 2))
    assert (len(chosen), list(chosen), chosen[-1], list(chosen[1:])) == (3, ["e", "a", "c"], "c", ["a", "c"])


def test_rows_are_freed_as_they_are_read():
    listed = text_list()
    listed.extend(map(str, range(1000)))
    assert list(listed.drained()) == list(map(str, range(1000)))
    assert (len(listed), listed[5], listed[999]) == (1000, "5", "999")
    assert sum(map(len, listed._blocks[1:])) == 0
