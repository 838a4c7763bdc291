"""Records of finished work carry their checksum."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landseg.contracts.errors import ContractError, DamagedObjectError
from landseg.contracts.labels import SceneMap
from landseg.ensemble.fitted_weights import Fit
from landseg.storage.records import finished_record, read_record, write_record

RECORD = SceneMap(path="scenes/val/a.tif", size_bytes=3, sha256="0" * 64, scene="ä")


def test_round_trip(tmp_path):
    uri = str(tmp_path / "record.json")
    assert read_record(SceneMap, uri) is None
    write_record(uri, RECORD)
    assert read_record(SceneMap, uri) == RECORD
    with pytest.raises(ContractError, match=r"record\.json"):
        read_record(Fit, uri)


def test_a_record_of_finished_work_is_there_or_one_line(tmp_path):
    path = tmp_path / "record.json"
    with pytest.raises(DamagedObjectError, match=r"record\.json: expected the record of finished work"):
        finished_record(SceneMap, str(path))
    write_record(str(path), RECORD)
    assert finished_record(SceneMap, str(path)) == RECORD
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedObjectError, match="run the stage again"):
        finished_record(SceneMap, str(path))


@given(st.data())
def test_a_flipped_bit_makes_it_none(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "flipped.json"
    write_record(str(path), RECORD)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    # Upper and lower case of a hexadecimal digit of an escape, say, are one and the same content.
    assert read_record(SceneMap, str(path)) in (None, RECORD)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"sha256": 1, "content": 2}', b'{"content": {"a": 1}}'])
def test_anything_else_is_none(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    assert read_record(SceneMap, str(path)) is None
