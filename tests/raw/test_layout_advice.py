"""What error lines about the layout advise is done here, to the files that caused them, and leads to right tiles."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field

import pytest
import yaml
from paths import Paths
from raw_tiles import write_raw

from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.layout.pairing import pair

FLAT = "images/a.tif images/b.tif labels/a.png labels/b.png"


@dataclass(frozen=True)
class Advice:
    """Files, what the one error line about them advises, and the files once that is done.

    Where `then` is empty they stay as they are, and dataset.yaml has the lines of the advice, or `config`.
    """

    paths: str
    advice: str
    then: str
    tiles: str
    lists: dict[str, bytes] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)


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
    "leave a folder out": Advice(
        "train/images/a.tif train/labels/a.png train/nir/a.tif",
        "write image_folder: images in dataset.yaml, which leaves out other folders",
        "",
        "train/a",
    ),
    "say what a folder holds": Advice(
        "train/images/a.tif train/classes/a.png",
        "or label_folder: classes in dataset.yaml",
        "",
        "train/a",
        config={"label_folder": "classes"},
    ),
    "choose one folder of images": Advice(
        "2_Ortho_RGB/a_1_RGB.tif 3_Ortho_IRRG/a_1_IRRG.tif 5_Labels/a_1_label.tif",
        "write image_folder: 2_Ortho_RGB in dataset.yaml",
        "",
        "train/a_1",
        {"train.txt": b"a_1\n"},
    ),
    "choose one folder of labels": Advice(
        "train/images/a.tif train/labels/a.png train/masks/a.png",
        "write label_folder: labels in dataset.yaml",
        "",
        "train/a",
    ),
    "choose bands and one of several labels": Advice(
        "train/images/rgb/a.jpg train/images/nir/a.jpg train/labels/water/a.png train/labels/weed/a.png",
        "write image_folder: nir and label_folder: water in dataset.yaml",
        "",
        "train/a",
        config={"image_folder": "nir", "label_folder": "water"},
    ),
    "join folders of one split's bands": Advice(
        "A_training/train_red/red_1.tif A_training/train_nir/nir_1.tif A_training/train_gt/gt_1.tif",
        'write bands: ["*_nir/nir_{id}.tif", "*_red/red_{id}.tif"] in dataset.yaml',
        "",
        "train/1",
    ),
    "join folders of bands inside of a split": Advice(
        "train/red/1.tif train/nir/1.tif train/gt/1.tif",
        'write bands: ["nir/{id}.tif", "red/{id}.tif"] in dataset.yaml',
        "",
        "train/1",
    ),
    "join folders of bands next to lists": Advice(
        "red/a_1.TIF nir/b_1.TIF gt/1.tif",
        'write bands: ["nir/b_{id}.TIF", "red/a_{id}.TIF"] in dataset.yaml',
        "",
        "train/1",
        {"train.txt": b"1\n"},
    ),
    "join folders of bands above those of splits": Advice(
        "red/train/1.tif nir/train/1.tif masks/train/1.tif",
        'write bands: ["nir/*/{id}.tif", "red/*/{id}.tif"] in dataset.yaml',
        "",
        "train/1",
    ),
    "join bands and labels in trees of their own": Advice(
        " ".join(
            f"Q/X{n}/X{n}_VV.tif Q/X{n}/X{n}_VH.tif S/T{n}/T{n}_B.tif S/T{n}/T{n}_R.tif M/T{n}/T{n}_m.tif" for n in "12"
        ),
        'write bands: ["{id}_B.tif", "{id}_R.tif"], image_folder: S, '
        "label_folder: M and label_suffix: _m in dataset.yaml",
        "",
        "train/T1__T1 val/T2__T2",
        {"train.txt": b"T1\n", "val.txt": b"T2\n"},
    ),
    "join bands in one of two trees": Advice(
        " ".join(f"S1/X{n}_VV.tif S1/X{n}_VH.tif S2/T{n}_B04.tif S2/T{n}_B8A.tif" for n in "12"),
        'write bands: ["{id}_VH.tif", "{id}_VV.tif"] and image_folder: S1 in dataset.yaml',
        "",
        "test/X1 test/X2",
    ),
    "join the bands of a folder for each tile": Advice(
        " ".join(f"train/T{n}/T{n}_{band}.tif" for n in "12" for band in ("B04", "B8A", "label")),
        'write bands: ["{id}_B04.tif", "{id}_B8A.tif"] and label_suffix: _label in dataset.yaml',
        "",
        "train/T1__T1 train/T2__T2",
    ),
    "say the infixes": Advice(
        " ".join(f"ROIs{n}/{kind}_1/ROIs{n}_{kind}_p1.tif" for n in "123" for kind in ("lc", "s1", "s2")),
        "write image_infix: s2 and label_infix: lc in dataset.yaml",
        "",
        "train/ROIs1_p1 train/ROIs2_p1 val/ROIs3_p1",
        {"train.txt": b"ROIs1_p1\nROIs2_s2_p1.tif\n", "val.txt": b"ROIs3_p1\n"},
    ),
    "say the infixes of one folder": Advice(
        " ".join(f"train/{n}_{kind}_p1.tif" for n in "123" for kind in ("lc", "s2")),
        "write image_infix: s2 and label_infix: lc in dataset.yaml",
        "",
        "train/1_p1 train/2_p1 train/3_p1",
    ),
    "say the infixes of labels called otherwise": Advice(
        "images/x_s2_1.tif images/x_s2_2.tif labels/x_lc_1.tif labels/x_lc_2.tif",
        "write image_infix: s2 and label_infix: lc in dataset.yaml",
        "",
        "train/x_1 train/x_2",
        {"train.txt": b"x_1\nx_2\n"},
    ),
    "say what folders inside of areas hold": Advice(
        " ".join(
            f"train/{city}_{n}/BDORTHO/4-{city}-{n}.tif train/{city}_{n}/UrbanAtlas/4-{city}-{n}_UA.tif"
            for city in ("Nice", "Brest")
            for n in "12"
        ),
        "write image_folder: BDORTHO and label_folder: UrbanAtlas in dataset.yaml, or the other way round",
        "",
        " ".join(f"train/{city}_{n}__4-{city}-{n}" for city in ("Brest", "Nice") for n in "12"),
    ),
    "predict what is called unlabelled": Advice(
        "labeled_train/images/a.tif labeled_train/labels/a.png unlabeled_train/images/b.tif",
        "write splits: {train: labeled_train, test: unlabeled_train} in dataset.yaml, which predicts",
        "",
        "train/a test/b",
    ),
    "take two folders of one split": Advice(
        "val/images/a.tif val/labels/a.png validation/images/b.tif validation/labels/b.png",
        "write splits: {val: [val, validation]} in dataset.yaml to take all of them",
        "",
        "val/a val/b",
    ),
    "say which folder has the images": Advice(
        " ".join(f"Hand/S1Hand/{n}_S1Hand.tif Hand/LabelHand/{n}_LabelHand.tif" for n in "abc"),
        "write image_folder: S1Hand in dataset.yaml",
        "",
        "train/a train/c val/b",
        {
            "train.csv": b"a_S1Hand.tif,a_LabelHand.tif\nc_S1Hand.tif,\n",
            "val.tsv": b"image\tmask\nx\tb_LabelHand.tif\n",
        },
    ),
    "say the prefixes": Advice(
        "images/x1.tif labels/y1.png",
        "or image_prefix and label_prefix",
        "",
        "train/1",
        {"train.txt": b"1\n"},
        {"image_prefix": "x", "label_prefix": "y"},
    ),
    "say which folder has the labels": Advice(
        "train/images/a.tif classes/a.png",
        "write label_folder: classes in dataset.yaml",
        "",
        "train/a",
    ),
    "say which files are lists": Advice(
        FLAT,
        "write splits: {train: flood_train_data.csv, val: flood_valid_data.csv} in dataset.yaml",
        "",
        "train/a val/b",
        {"flood_train_data.csv": b"a.tif,a.png\n", "flood_valid_data.csv": b"b.tif,b.png\n"},
    ),
    "say which of two lists is meant": Advice(
        FLAT,
        "write splits: {train: lists/train.txt, val: val.txt} in dataset.yaml",
        "",
        "train/a val/b",
        {"lists/train.txt": b"a\n", "train.txt": b"b\n", "val.txt": b"b\n"},
    ),
    "predict what has no labels": Advice(
        "train/images/a.tif train/labels/a.png valid/images/b.tif",
        "write splits: {test: valid} in dataset.yaml, which predicts them",
        "",
        "train/a test/b",
    ),
    "say a path's role": Advice(
        "train/images/images/a.png train/masks/images/a.png",
        "write label_folder: train/masks/images",
        "",
        "train/a",
        config={"label_folder": "masks/images"},
    ),
    "say a path's split": Advice(
        "train_test/images/a.tif train_test/labels/a.png",
        "write splits: {test: train_test/images} in dataset.yaml",
        "",
        "train/a",
        config={"splits": {"train": "train_test"}},
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
    "give the same names in upper and lower case": Advice(
        "train/images/Area_A.tif train/images/Area_B.tif train/labels/area_a.png train/labels/area_b.png",
        "give both the same names, in upper and lower case too: Area_A.png",
        "train/images/Area_A.tif train/images/Area_B.tif train/labels/Area_A.png train/labels/Area_B.png",
        "train/Area_A train/Area_B",
    ),
    "take all areas for images": Advice(
        "train_1/x/a/1.tif train_1/y/b/2.tif",
        "write image_folder: train_1 in dataset.yaml, if all of them are images",
        "",
        "train/x__a__1 train/y__b__2",
        config={"image_folder": "train_1", "labels": "all.tif"},
    ),
    "say which labels": Advice(
        "train/images/a.tif train/labels/a_color.png train/labels/a_ids.png",
        "say which labels are meant with label_suffix in dataset.yaml: one of _color, _ids",
        "train/images/a.tif train/labels/a_color.png train/labels/a_ids.png",
        "train/a",
        config={"label_suffix": "_ids"},
    ),
    "say the ends of names": Advice(
        "train/1_data.tif train/1_mask.png train/1_photo.png train/10_data.tif train/10_mask.png train/10_photo.png",
        "write image_suffix: _data and label_suffix: _mask in dataset.yaml, or others of _data, _mask, _photo",
        "",
        "train/1 train/10",
    ),
    "say which ends of names that tell nothing": Advice(
        "train/m_1_lc.tif train/m_1_naip-new.tif train/m_1_nlcd.tif "
        "train/m_2_lc.tif train/m_2_naip-new.tif train/m_2_nlcd.tif",
        "write image_suffix: _lc and label_suffix: _naip-new in dataset.yaml, or others of _lc, _naip-new, _nlcd",
        "",
        "train/m_1 train/m_2",
        config={"image_suffix": "_naip-new", "label_suffix": "_lc"},
    ),
    "move pictures of labels out": Advice(
        "train/1.jpg train/1.jpg___fuse.png train/1.jpg___pixel.png train/2.jpg train/2.jpg___fuse.png "
        "train/2.jpg___pixel.png",
        "write label_suffix: .jpg___pixel in dataset.yaml, and move the files whose names end with .jpg___fuse out",
        "train/1.jpg train/1.jpg___pixel.png train/2.jpg train/2.jpg___pixel.png fuse/1.jpg___fuse.png",
        "train/1 train/2",
        config={"label_suffix": ".jpg___pixel"},
    ),
    "choose the labels in each split's folder": Advice(
        " ".join(
            f"{split}/{split}-org-img/{n}.jpg {split}/{split}-label-img/{n}_lab.png ColorMasks/{split}Set/{n}_lab.png"
            for split in ("train", "val")
            for n in (1, 2, 3)
        ),
        'write label_folder: "*-label-img" in dataset.yaml, or label_folder: ColorMasks',
        "",
        "train/1 train/2 train/3 val/1 val/2 val/3",
    ),
    "see two dates of an image as one": Advice(
        "train/A/1.png train/B/1.png train/label/1.png",
        "write image_folder: A and label_folder: label in dataset.yaml, or, to see all of an image's files as one, "
        'bands: ["A/{id}.png", "B/{id}.png"] and label_folder: label',
        "",
        "train/1",
        config={"bands": ("A/{id}.png", "B/{id}.png"), "label_folder": "label"},
    ),
    "choose labels before pictures of them": Advice(
        "train/img/1.png train/masks_human/1.png train/masks_machine/1.png",
        "write label_folder: masks_machine in dataset.yaml, or label_folder: masks_human",
        "",
        "train/1",
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


def written(advice: str) -> dict[str, object]:
    """What an error line says to write in dataset.yaml."""
    match = re.search(
        r"write ((?:image_folder|label_folder|splits|bands|image_infix|image_suffix): .+?) in dataset\.yaml", advice
    )
    return yaml.safe_load(re.sub(r"(?: and |, )(?=(?:image|label)_\w+: )", "\n", match[1])) if match else {}


def found(paths: str, lists: dict[str, bytes], config: dict[str, object]) -> tuple[list[str], list[str]]:
    """Error lines, and tiles."""
    source = Paths.of(paths, lists)
    pairing = pair(source, source.files(), DatasetConfig(version=1, name="x", classes=("a", "b"), **config))
    errors = [str(finding.error) for finding in pairing.findings if finding.severity == "error"]
    return errors, [f"{split}/{tile.id}" for split, tiles in pairing.tiles.items() for tile in tiles]


@pytest.mark.parametrize("name", CASES)
def test_what_is_advised_leads_to_the_right_tiles(name):
    case = CASES[name]
    errors, _ = found(case.paths, {} if name == "lists" else case.lists, {})
    errors = [error for error in errors if name != "say the infixes" or ".txt: expected names" not in error]
    assert len(errors) == 1, errors
    assert case.advice in errors[0]
    fields = case.config or written(case.advice)
    lists = FIXED_LISTS.get(name, {} if case.then else case.lists)
    errors, tiles = found(case.then or case.paths, lists, fields)
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


def test_the_folder_of_labels_that_is_proposed_is_that_of_all_splits():
    paths = " ".join(f"{split}/images/images/a.png {split}/Semantic/images/a.png" for split in ("train", "val"))
    errors, _ = found(paths, {}, {"image_folder": "images/images"})
    assert ["write label_folder: Semantic/images in dataset.yaml, or add" in error for error in errors] == [True] * 2
    errors, tiles = found(paths, {}, {"image_folder": "images/images"} | written(errors[0]))
    assert (errors, tiles) == ([], ["train/a", "val/a"])


def test_images_below_a_folder_of_masks_are_labels():
    """`Semantic_masks/images` of iSAID."""
    paths = " ".join(f"{split}/images/a.png {split}/Semantic_masks/images/a.png" for split in ("train", "val"))
    assert found(paths, {}, {}) == ([], ["train/a", "val/a"])


def test_the_annotations_of_cvat_are_named():
    errors, _ = found("train/images/1.jpg annotations.xml", {}, {})
    assert "export annotations such as annotations.xml, if these are CVAT's, as COCO, which is read" in errors[0]


def test_folders_of_whole_images_are_told_that_pixels_need_labels():
    errors, _ = found("train/Forest/Forest_1.jpg train/River/River_1.jpg", {}, {})
    assert "if the folders are classes of whole images, these have no labels of pixels" in errors[0]
