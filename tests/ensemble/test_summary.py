"""summary.json and ranking.csv as documents."""

from __future__ import annotations

import pytest

from landseg.ensemble.summary import as_text


@pytest.mark.parametrize("cell", ["=1+1", "+4", "-2_3", "@SUM(A1)"])
def test_no_tile_id_is_a_formula_in_a_spreadsheet(cell: str) -> None:
    assert as_text(cell) == f"'{cell}"


def test_other_ids_stay_as_they_are() -> None:
    assert [as_text(cell) for cell in ("t1", "47-11", "a=b", "")] == ["t1", "47-11", "a=b", ""]
