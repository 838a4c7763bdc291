"""What error lines about the layout advise is done here, to the files that caused them, and leads to right tiles."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field

import pytest
from paths import Paths
from raw_tiles import write_raw

from landseg.raw.dataset_yaml import DatasetConfig
from landseg.raw.layout.pairing import pair

FLAT = "images/a.tif images/b.tif labels/a.png labels/b.png"


@dataclass(frozen=True)
class Advice:
    """Files, what the one error line about them advises, and the files once that is done."""

    paths: str
    advice: str
    then: str
    tiles: str
    lists: dict[str, bytes] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)


CASES = {
    "rename a role": Advice(
        "train/images/a.tif train/lables/a.png",
        "rename lables to labels",
        "train/images/a.tif train/labels/a.png",
        "train/a",
    ),
    "rename a split": Advice(
        "trian/images/a.tif trian/labels/a.png test/images/c.tif",
        "rename trian to train",
        "train/images/a.tif train/labels/a.png test/images/c.tif",
        "train/a test/c",
    ),
    "rename the only splits": Advice(
        "trian/images/a.tif trian/labels/a.png vall/images/b.tif vall/labels/b.png",
        "rename trian to train, vall to val",
        "train/images/a.tif train/labels/a.png val/images/b.tif val/labels/b.png",
        "train/a val/b",
    ),
    "move a folder out of its split": Advice(
        "test/images/a.tif test/nir/a.tif", "move it out of the folder of test", "test/images/a.tif nir/a.tif", "test/a"
    ),
    "rename a folder": Advice(
        "train/images/a.tif train/classes/a.png",
        "rename the folder images or labels",
        "train/images/a.tif train/labels/a.png",
        "train/a",
    ),
    "move a folder into its split": Advice(
        "test/images/a.tif holdout/images/b.tif",
        "move the folder into that of its split, or out of the dataset",
        "test/images/a.tif val/images/b.tif val/labels/b.png",
        "val/b test/a",
    ),
    "keep one folder": Advice(
        "test/images/a.tif testing/images/a.tif",
        "move all but one out of the dataset",
        "testing/images/a.tif",
        "test/a",
    ),
    "rename one of two that contradict each other": Advice(
        "train_test/images/a.tif", "rename one of its folders", "test/images/a.tif", "test/a"
    ),
    "lists": Advice(
        FLAT,
        "list their names in train.txt and val.txt next to dataset.yaml, one a line",
        FLAT,
        "train/a val/b",
        {"train.txt": b"a\n", "val.txt": b"b\n"},
    ),
    "folders in the place of lists": Advice(
        FLAT,
        "or make folders train and val with images and labels in each",
        "train/images/a.tif train/labels/a.png val/images/b.tif val/labels/b.png",
        "train/a val/b",
    ),
    "leave labels out": Advice(
        "train/images/a.tif train/labels/a.png train/labels/b.png",
        "set labels_without_image: skip in dataset.yaml",
        "train/images/a.tif train/labels/a.png train/labels/b.png",
        "train/a",
        config={"labels_without_image": "skip"},
    ),
    "add a label where it is expected": Advice(
        "train/img/1_sat.tif train/img/2_sat.tif train/msk/1_mask.tif",
        "expected train/msk/2_mask.tif (add the label",
        "train/img/1_sat.tif train/img/2_sat.tif train/msk/1_mask.tif train/msk/2_mask.tif",
        "train/1 train/2",
    ),
    "add an image where it is expected": Advice(
        "train/images/x/1.tif train/labels/x/1.png train/labels/y/1.png",
        "expected train/images/y/1.tif (add the image",
        "train/images/x/1.tif train/images/y/1.tif train/labels/x/1.png train/labels/y/1.png",
        "train/x__1 train/y__1",
    ),
    "move an image to test": Advice(
        "train/images/a.tif train/images/b.tif train/labels/a.png",
        "or move the image to test",
        "train/images/a.tif test/images/b.tif train/labels/a.png",
        "train/a test/b",
    ),
    "move all images to test": Advice(
        "val/images/a.tif", "add the labels, or move the images to test", "test/images/a.tif", "test/a"
    ),
    "say the suffixes": Advice(
        "train/images/t_pre.tif train/labels/t_post.png",
        "give both the same names, or set image_suffix and label_suffix in dataset.yaml",
        "train/images/t_pre.tif train/labels/t_post.png",
        "train/t",
        config={"image_suffix": "_pre", "label_suffix": "_post"},
    ),
    "say which labels": Advice(
        "train/images/a.tif train/labels/a_color.png train/labels/a_ids.png",
        "say which labels are meant with label_suffix in dataset.yaml: one of _color, _ids",
        "train/images/a.tif train/labels/a_color.png train/labels/a_ids.png",
        "train/a",
        config={"label_suffix": "_ids"},
    ),
    "convert what is not read": Advice(
        "test/images/a.ecw",
        "convert them to TIFF, and move the originals out",
        "test/images/a.tif originals/a.ecw",
        "test/a",
    ),
    "remove a name from one of two lists": Advice(
        FLAT,
        "remove them from one of the lists",
        FLAT,
        "train/a val/b",
        {"train.txt": b"a\nb\n", "val.txt": b"b\n"},
    ),
    "write a path where names occur twice": Advice(
        "images/x/a.tif images/y/a.tif labels/x/a.png labels/y/a.png",
        "write a path such as area/name where names occur twice, and remove what does not exist",
        "images/x/a.tif images/y/a.tif labels/x/a.png labels/y/a.png",
        "train/x__a val/y__a",
        {"train.txt": b"a\n", "val.txt": b"y/a\n"},
    ),
}
FIXED_LISTS = {
    "lists": CASES["lists"].lists,
    "remove a name from one of two lists": {"train.txt": b"a\n", "val.txt": b"b\n"},
    "write a path where names occur twice": {"train.txt": b"x/a\n", "val.txt": b"y/a\n"},
}


def found(paths: str, lists: dict[str, bytes], config: dict[str, str]) -> tuple[list[str], list[str]]:
    """Error lines, and tiles."""
    source = Paths.of(paths, lists)
    pairing = pair(source, source.files(), DatasetConfig(version=1, name="x", classes=("a", "b"), **config))
    errors = [str(finding.error) for finding in pairing.findings if finding.severity == "error"]
    return errors, [f"{split}/{tile.id}" for split, tiles in pairing.tiles.items() for tile in tiles]


@pytest.mark.parametrize("name", CASES)
def test_what_is_advised_leads_to_the_right_tiles(name):
    case = CASES[name]
    errors, _ = found(case.paths, {} if name == "lists" else case.lists, {})
    assert len(errors) == 1, errors
    assert case.advice in errors[0]
    errors, tiles = found(case.then, FIXED_LISTS.get(name, {}), case.config)
    assert errors == []
    assert tiles == case.tiles.split()


@pytest.mark.parametrize("name", ["data.yaml", "dataset.json", "dataset.yaml.txt"])
def test_a_description_of_another_name(name, tmp_path, stage):
    raw = write_raw(tmp_path / "raw", train=1, val=0, test=0)
    expected = stage(raw).loaded.sha256
    (raw / "dataset.yaml").rename(raw / name)
    match = re.search(r"has no dataset\.yaml \(rename (\S+) to (\S+);", stage(raw).error)
    assert match
    (raw / match[1]).rename(raw / match[2])
    assert stage(raw).loaded.sha256 == expected


def test_descriptions_in_other_places(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", train=1, val=0, test=0)
    expected = stage(raw).loaded.sha256
    (raw / "dataset.yaml").rename(raw / "Dataset.YML")
    assert stage(raw).loaded.sha256 == expected
    shutil.copy(raw / "Dataset.YML", raw / "dataset.yaml")
    assert "expected one dataset.yaml, found Dataset.YML and dataset.yaml (keep one)" in stage(raw).error
    (raw / "Dataset.YML").unlink()
    (raw / "dataset.yaml").rename(raw / "train/dataset.yaml")
    assert "expected the file next to the folders of the splits, found it in one (move it up)" in stage(raw).error
    (raw / "train/dataset.yaml").rename(raw / "dataset.yaml")
    assert stage(raw).loaded.sha256 == expected
