"""What staging keeps of each tile: on local disk, or in a few bytes."""

from __future__ import annotations

import json
import random

import pytest

from landseg.contracts.errors import DataError
from landseg.dataset.staging import publishing
from landseg.dataset.staging.checksums import SplitChecksums
from landseg.dataset.staging.publishing import SplitIndex
from landseg.dataset.staging.ranges.range_plan import TileRange
from landseg.dataset.staging.ranges.range_results import RangeRecords
from landseg.dataset.staging.review.alike import FirstOfAlike
from landseg.raw.layout.source_tiles import SourceTile
from landseg.raw.sources.source_file import SourceFile


def test_checksums_by_id_and_in_order(tmp_path):
    ids = [f"t{number:03}" for number in range(50)]
    kept = SplitChecksums([SourceTile("train", name, SourceFile(f"{name}.tif", 1), None) for name in ids], tmp_path)
    known = {name: (f"{number:064x}", f"{number + 7:064x}" if number % 2 else None) for number, name in enumerate(ids)}
    known["t010"] = ("", None)
    del known["t011"]
    for name in random.Random(0).sample(sorted(known), len(known)):
        kept.put(name, known[name])
    assert dict(kept.in_order()) == known == dict(kept)
    assert list(kept) == sorted(known)
    assert len(kept) == 49
    assert "t011" not in kept
    assert kept.get("another") is None
    assert kept["t003"] == known["t003"]


@pytest.mark.parametrize(("num_tiles", "ahead"), [(10_000, 1), (4_000, 4), (10, 9)])
def test_records_of_many_tiles_are_read_one_after_the_other(tmp_path, monkeypatch, num_tiles, ahead):
    begun = []
    read = RangeRecords._read

    def noted(records, one):
        begun.append(one.number)
        return read(records, one)

    monkeypatch.setattr(RangeRecords, "_read", noted)
    ranges = [TileRange(number, "train", range(num_tiles), 1, None) for number in range(30)]
    for taken, result in enumerate(RangeRecords(str(tmp_path)).read_all(ranges)):
        assert result is None
        assert len(begun) <= taken + ahead
    assert sorted(begun) == list(range(30))


def test_rows_are_sorted_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "_SORTED_AT_ONCE", 7)
    rows = [{"id": f"t{number:03}", "rest": number} for number in range(50)]
    index = SplitIndex(tmp_path / "tiles.jsonl", labelled=True, _is_sorted=False)
    index.path.write_text("".join(f"{json.dumps(row)}\n" for row in random.Random(0).sample(rows, 50)))
    index.sort()
    assert [json.loads(line) for line in index.path.read_text().splitlines()] == rows
    assert list(tmp_path.iterdir()) == [index.path]
    with index.path.open("a") as file:
        file.write(json.dumps(rows[20]) + "\n")
    with pytest.raises(DataError, match="tile t020: a tile cut from a scene has the same name"):
        index.sort()


def test_the_first_of_those_alike():
    keys = [5, 3, None, 5, None, 3, 5, 8]
    found = FirstOfAlike()
    for key in keys:
        found.add(key)
    positions, firsts = found.pairs()
    assert list(zip(positions.tolist(), firsts.tolist(), strict=True)) == [(3, 0), (5, 1), (6, 0)]
    positions, firsts = found.pairs(excluded=positions[:1])
    assert list(zip(positions.tolist(), firsts.tolist(), strict=True)) == [(5, 1), (6, 0)]
    assert not len(FirstOfAlike().pairs()[0])
