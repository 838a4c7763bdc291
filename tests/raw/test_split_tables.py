"""Tables that say the split of each tile, and lists of the parts of images."""

from __future__ import annotations

import pytest
from paths import Paths

from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.layout.pairing import pair

FILES = "images/a.tif images/b.tif images/c.tif labels/a.png labels/b.png labels/c.png"


def found(lists: dict[str, bytes], paths: str = FILES) -> tuple[list[str], list[str], list[str]]:
    """Errors, other findings, and tiles."""
    source = Paths.of(paths, lists)
    pairing = pair(source, source.files(), DatasetConfig(version=1, name="x", classes=("a", "b")))
    errors = [str(finding.error) for finding in pairing.findings if finding.severity == "error"]
    others = [finding.problem for finding in pairing.findings if finding.severity != "error"]
    return errors, others, [f"{split}/{tile.id}" for split, tiles in pairing.tiles.items() for tile in tiles]


@pytest.mark.parametrize(
    "table",
    [
        b"id,split\na,train\nb,validation\nc,test\n",
        b"Split;image;mask\nTRAIN;images/a.tif;labels/a.png\nVal;images/b.tif;labels/b.png\ntest;images/c.tif;\n",
        b'patch_id,labels,split,country\na,"[x, b]",train,AT\nb,[],val,AT\nc,[],test,AT\n',
    ],
)
def test_a_table_with_a_column_of_splits_divides_the_tiles(table):
    errors, others, tiles = found({"metadata.csv": table, "areas.csv": b"id,area\na,1\n"})
    assert errors == []
    assert tiles == ["train/a", "val/b", "test/c"]
    assert any("train from metadata.csv, val from metadata.csv, test from metadata.csv" in note for note in others)
    assert any(note.endswith("not used: areas.csv") for note in others)


def test_lists_count_before_a_table():
    lists = {"train.txt": b"c\n", "val.txt": b"a\nb\n", "metadata.csv": b"id,split\na,train\nb,val\nc,test\n"}
    errors, _, tiles = found(lists)
    assert (errors, tiles) == ([], ["train/c", "val/a", "val/b"])


def test_images_that_a_table_names_and_are_not_there_are_told():
    errors, others, tiles = found({"metadata.csv": b"id,split\na,train\nz,train\nb,val\nc,val\n"})
    assert (errors, tiles) == ([], ["train/a", "val/b", "val/c"])
    assert "1 of 4 lines of metadata.csv name no image, or several: z,train" in others


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"a.csv": b"id,split\nx,train\ny,val\n"}, "found 2 of 2 that name none or several: x,train, y,val"),
        ({"a.csv": b"id,split\na,train\na,val\n"}, "found 1 with two: a (train and val)"),
        ({"a.csv": b"id,split\na,train\n", "b.csv": b"id,split\na,val\n"}, "expected train, val and test to be told"),
        ({"a.csv": b"id,split\na,1\nb,2\n"}, "expected train, val and test to be told"),
        ({"a.csv": b"id,split\n"}, "expected train, val and test to be told"),
    ],
)
def test_tables_that_do_not_tell(tables, expected):
    errors, _, _ = found(tables)
    assert expected in errors[0]


def test_lists_of_parts_of_images_are_called_that():
    errors, _, _ = found({"train.txt": b"a_0\na_1\n", "val.txt": b"b_17\nc\n"})
    assert "(list whole images, such as a: landseg cuts large ones into tiles)" in errors[0]
    assert "list whole images, such as b" in errors[1]
    errors, _, tiles = found({"train.txt": b"a\n", "val.txt": b"b\nc\n"})
    assert (errors, tiles) == ([], ["train/a", "val/b", "val/c"])
