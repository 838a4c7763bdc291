"""Which files are the images and labels of which split, by the names that people give to folders and files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import Paths

from landseg.raw.config.dataset_yaml import DatasetConfig
from landseg.raw.layout.pairing import Pairing, pair
from landseg.raw.layout.suffixes import RASTER_SUFFIXES, split_suffix


def config(**fields) -> DatasetConfig:
    return DatasetConfig(version=1, name="x", classes=("a", "b"), **fields)


def paired(paths, contents=None, **fields) -> Pairing:
    source = Paths.of(paths, contents)
    return pair(source, source.files(), config(**fields))


def tiles(pairing: Pairing) -> dict[str, str]:
    """`image + label` by `split/id`."""
    return {
        f"{split}/{tile.id}": " + ".join(file.path for file in (tile.image, tile.label) if file)
        for split, of_split in pairing.tiles.items()
        for tile in of_split
    }


def lines(pairing: Pairing, severity: str) -> list[str]:
    return [f"{item.where}: {item.problem} ({item.action})" for item in pairing.findings if item.severity == severity]


UNDERSTOOD = {
    "documented": (
        "train/images/a.tif train/labels/a.png val/images/b.tif val/labels/b.png test/images/c.tif",
        "train/a val/b test/c",
    ),
    "other words": ("Train/Image/a.TIF Train/Mask/a.PNG validation/imgs/b.tif validation/gt/b.png", "train/a val/b"),
    "one word for split and role": ("train/a.png trainannot/a.png val/b.png valannot/b.png", "train/a val/b"),
    "valid and dev": ("training/img/a.tif training/ann/a.png dev/sat/b.tif dev/annotations/b.png", "train/a val/b"),
    "mmseg": ("img_dir/train/a.tif ann_dir/train/a.png img_dir/val/b.tif ann_dir/val/b.png", "train/a val/b"),
    "one word for both": (
        "train_images/a.tif train_masks/a.png val_images/b.tif val_masks/b.png TestImages/c.tif",
        "train/a val/b test/c",
    ),
    "Kaggle": ("train/a.tif train_masks/a.png test/c.tif", "train/a test/c"),
    "DeepGlobe": ("train/12_sat.tif train/12_mask.png test/13_sat.tif", "train/12 test/13"),
    "suffixes": (
        "train/images/a_sat.tif train/labels/a_mask.png test/images/c_sat.tif "
        "val/images/b_sat.tif val/labels/b_mask.png",
        "train/a val/b test/c",
    ),
    "suffix of labels only": ("train/images/a.tif train/labels/a_mask.png", "train/a"),
    "prefixes": (
        "train/images/img_1.tif train/labels/mask_1.png train/images/img_2.tif train/labels/mask_2.png",
        "train/1 train/2",
    ),
    "unlabelled images with other names": (
        "train/images/1_rgb.tif train/labels/1_gt.png test/images/c.tif",
        "train/1 test/c",
    ),
    "suffixes that say nothing, of many": (
        " ".join(f"train/images/{n}_S2RGBNIR.tif train/labels/{n}_Map.tif" for n in "abc"),
        "train/a train/b train/c",
    ),
    "areas": (
        "train/images/bonn/a.tif train/labels/bonn/a.png train/images/ulm/a.tif train/labels/ulm/a.png",
        "train/bonn__a train/ulm__a",
    ),
    "Cityscapes": (
        "leftImg8bit/train/ulm/ulm_0_leftImg8bit.tif gtFine/train/ulm/ulm_0_gtFine_labelIds.png "
        "leftImg8bit/val/bonn/bonn_0_leftImg8bit.tif gtFine/val/bonn/bonn_0_gtFine_labelIds.png",
        "train/ulm__ulm_0 val/bonn__bonn_0",
    ),
    "LoveDA": (
        "Train/Urban/images_png/0.tif Train/Urban/masks_png/0.png Val/Rural/images_png/0.tif Val/Rural/masks_png/0.png",
        "train/Urban__0 val/Rural__0",
    ),
    "FLAIR": (
        "flair_aerial_train/D004/Z1/img/IMG_01.tif flair_labels_train/D004/Z1/msk/MSK_01.tif "
        "flair_1_aerial_test/D005/Z2/img/IMG_02.tif",
        "train/D004__Z1__01 test/D005__Z2__02",
    ),
    "infixes": (
        " ".join(f"train/{k}/ROIs{n}_{k}_p{n[0]}.tif" for n in ("1_x", "2_y", "3_z") for k in ("image", "mask")),
        "train/ROIs1_x_p1 train/ROIs2_y_p2 train/ROIs3_z_p3",
    ),
    "infixes that say nothing, of many": (
        " ".join(f"train/{role}/{n}_{k}_p{n}.tif" for n in "123" for role, k in (("images", "s2"), ("labels", "lc"))),
        "train/1_p1 train/2_p2 train/3_p3",
    ),
    "a folder for each tile": (
        "train/s1/image.tif train/s1/mask.png train/s2/image.tif train/s2/mask.png",
        "train/s1 train/s2",
    ),
    "a folder around everything": ("data/2024/train/images/a.tif data/2024/train/labels/a.png", "train/a"),
    "an area called as a split": ("train/images/test_site/a.tif train/labels/test_site/a.png", "train/test_site__a"),
    "an area called as a role": ("train/images/aerial/a.tif train/labels/aerial/a.png", "train/aerial__a"),
    "areas of images only": (
        "train/images/bonn/a.tif train/images/ulm/b.tif train/labels/a.png train/labels/b.png",
        "train/a train/b",
    ),
    "same names side by side": ("train/a.tif train/a.png val/b.tif val/b.png", "train/a val/b"),
    "side by side with an ending": (
        " ".join(f"train/{n}.tif train/{n}_m.png" for n in ("a", "b", "c")),
        "train/a train/b train/c",
    ),
    "labels of all splits in one folder": (
        "images/train/a_sat.tif images/val/b_sat.tif images/test/c_sat.tif labels/a_mask.png labels/b_mask.png",
        "train/a val/b test/c",
    ),
    "labels of all splits in areas": (
        "train/images/x/a.tif val/images/x/b.tif masks/x/a.png masks/x/b.png",
        "train/x__a val/x__b",
    ),
    "labels called label images": (
        " ".join(f"train/train-org-img/{n}.jpg train/train-label-img/{n}_lab.png" for n in "123"),
        "train/1 train/2 train/3",
    ),
    "images to predict": ("images/a.tif images/b.tif", "test/a test/b"),
    "images alone": ("a.tif b.tif", "test/a test/b"),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_layouts_that_are_understood(case):
    paths, expected = UNDERSTOOD[case]
    found = paired(paths)
    assert lines(found, "error") == []
    assert list(tiles(found)) == expected.split()
    is_told = any(line.startswith(": layout: ") for line in lines(found, "note"))
    assert is_told == (case != "documented")
    for used in tiles(found).values():  # never an image as a label
        assert not used.endswith("/image.tif + image.tif")


def test_the_note_says_what_was_understood():
    found = paired("Train/img/x/1_sat.tif Train/msk/x/1_mask.png")
    assert lines(found, "note") == [
        ": layout: found images of train in Train/img, labels of train in Train/msk; images are called …_sat and "
        "labels are called …_mask: their tiles' ids are without it; the folders' names are part of tile ids (x__1) ()"
    ]


LISTS = {
    "stems": b"a\nb\n",
    "file names": b"a.tif\nb.tif\n",
    "paths": b"images/a.tif\n./images/b.tif\n",
    "pairs": b"images/a.tif labels/a.png\nimages/b.tif,labels/b.png\n",
    "Windows": b"\xef\xbb\xbfa\r\nimages\\b.tif\r\n\r\n",
    "UTF-16": "a\nb\n".encode("utf-16"),
    "comments": b"# mine\na\n  b  \n",
}
FLAT = "images/a.tif images/b.tif images/c.tif labels/a.png labels/b.png labels/c.png"


@pytest.mark.parametrize("case", LISTS)
@pytest.mark.parametrize("name", ["train.txt", "splits/Train.txt", "ImageSets/Segmentation/train_list.lst"])
def test_lists_divide_a_flat_layout(case, name):
    found = paired(FLAT, {name: LISTS[case], "val.txt": b"c\n"})
    assert lines(found, "error") == []
    assert list(tiles(found)) == ["train/a", "train/b", "val/c"]


def test_lists_of_pascal_voc_and_what_they_leave_out():
    found = paired(
        "JPEGImages/2007_1.tif JPEGImages/2007_2.tif JPEGImages/2007_3.tif SegmentationClass/2007_1.png "
        "SegmentationClass/2007_2.png SegmentationObject/2007_1.png",
        {
            "ImageSets/Segmentation/train.txt": b"2007_1\n",
            "ImageSets/Segmentation/val.txt": b"2007_2\n",
            "ImageSets/Main/train.txt": b"2007_3 -1\n",
        },
    )
    assert list(tiles(found)) == ["train/2007_1", "val/2007_2"]
    assert lines(found, "error") == []
    assert lines(found, "warning") == [
        ": 1 .png file outside of the splits not used: in SegmentationObject ()",
        ": 1 .tif file in no list and not used: JPEGImages/2007_3.tif ()",
    ]


def test_lists_of_paths_with_the_folders_of_roles_in_them():
    paths = " ".join(f"T{n}/images/a.jpg T{n}/masks/a.png" for n in "123")
    found = paired(paths, {"train.txt": b"T1/images/a.jpg\nT2/a\n", "val.txt": b"./T3/masks/a.png\n"})
    assert lines(found, "error") == []
    assert list(tiles(found)) == ["train/T1__a", "train/T2__a", "val/T3__a"]


def test_lists_of_a_table_whose_columns_name_two_tiles():
    found = paired(FLAT, {"train.csv": b"image,label\na.tif,b.png\n", "val.csv": b"c.tif,c.png\n"})
    assert (
        "expected the image and the label of one tile in a line, found 1 of 1 with others: a and b"
        in (lines(found, "error")[0])
    )


def test_lists_name_tiles_of_areas_and_with_what_their_names_add():
    found = paired(
        "images/x/1_sat.tif images/y/1_sat.tif images/y/2_sat.tif "
        "labels/x/1_mask.png labels/y/1_mask.png labels/y/2_mask.png",
        {"train.txt": b"x/1_sat.tif\n2\n", "val.txt": b"labels/y/1_mask.png\n"},
    )
    assert lines(found, "error") == []
    assert list(tiles(found)) == ["train/x__1", "train/y__2", "val/y__1"]


WRONG = {
    "a label among bands": (
        "chips/1/VV.tif chips/1/LabelWater.tif chips/2/VV.tif chips/2/LabelWater.tif",
        "expected folders train, val, test, found none of them, but chips",
    ),
    "nothing": ("readme.pdf a/b.pdf", "expected folders train, val, test, found none of them, but a"),
    "slips of the pen": ("train/images/a.tif train/lables/a.png", "rename lables to labels"),
    "a slip in a split": ("trian/a.tif val/images/b.tif val/labels/b.png", "rename trian to train"),
    "another word for a split": (
        "train/images/a.tif train/labels/a.png holdout/images/b.tif holdout/labels/b.png",
        "expected images and labels in the folder of a split (train, val, test), found 1 .tif and 1 .png files",
    ),
    "two folders for one": ("val/images/a.tif validation/images/b.tif", "found val/images and validation/images"),
    "two kinds of labels": (
        "train/images/a.tif train/labels/a.png train/masks/a.png",
        "expected one folder with the labels of train, found train/labels and train/masks",
    ),
    "two splits in one": ("train_val/images/a.tif", "found train and val in it"),
    "two roles in one": ("train/images/labels/a.tif", "found images and labels in it"),
    "neither image nor label": (
        "train/images/a.tif train/labels/a.png train/nir/a.tif",
        "write image_folder: images in dataset.yaml",
    ),
    "another suffix": ("train/images/a.ecw train/labels/a.png", "expected images (.tif, .tiff"),
    "a label that loses values": ("train/images/a.tif train/labels/a.jpg", "change class values: export them as PNG"),
    "a preview among images": ("train/images/a.tif train/labels/a.png train/preview.gif", "found 1 .gif file"),
    "no splits": (
        FLAT,
        "expected train, val and test to be told apart, found 3 images and 3 labels in images and labels",
    ),
    "no labels": ("train/images/a.tif train/images/b.tif", "expected labels for the 2 images of train, found none"),
    "names that do not pair": (
        "train/images/x1.tif train/images/x2.tif train/labels/y1.png",
        "found none among 2 images such as train/images/x1.tif and 1 labels such as train/labels/y1.png",
    ),
    "too few to tell": ("train/images/t_pre.tif train/labels/t_post.png", "image_suffix and label_suffix"),
    "several kinds of labels": (
        "train/images/a.tif train/labels/a_color.png train/labels/a_labelIds.png",
        "label_suffix in dataset.yaml: one of _color, _labelIds",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_clear_is_one_line(case):
    paths, expected = WRONG[case]
    errors = lines(paired(paths), "error")
    assert len(errors) == 1, errors
    assert expected in errors[0]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"train.txt": b"a\nzz\n"}, "found 1 of 2 that name none or several: zz"),
        ({"train.txt": b"a\n", "val.txt": b"a\nb\n"}, "found 1 in two: a (also in train)"),
        ({"train.txt": b"\n"}, "expected one name a line, found none"),
        (
            {"train.txt": b"a", "lists/training.txt": b"b"},
            "expected one list of train, found lists/training.txt and train.txt",
        ),
        ({"train.txt": b"\xff\xffa\n"}, "expected a text in UTF-8"),
        ({"train.txt": b"version https://git-lfs.github.com/spec/v1\n"}, "a Git LFS pointer"),
    ],
)
def test_lists_that_are_wrong(contents, expected):
    errors = lines(paired(FLAT, contents), "error")
    assert len(errors) == 1, errors
    assert expected in errors[0]


def test_declared_suffixes_choose_among_files():
    paths = "train/images/a_x.tif train/labels/a_color.png train/labels/a_labelIds.png"
    found = paired(paths, image_suffix="_x", label_suffix="_labelIds.png")
    assert tiles(found) == {"train/a": "train/images/a_x.tif + train/labels/a_labelIds.png"}
    assert "1 .png file among the labels are not called …_labelIds" in lines(found, "note")[0]


def test_labels_without_image_can_be_left_out_as_a_class_of_their_own():
    paths = "train/images/a.tif train/labels/a.png train/labels/b.png"
    assert "set labels_without_image: skip in dataset.yaml" in lines(paired(paths), "error")[0]
    found = paired(paths, labels_without_image="skip")
    assert list(tiles(found)) == ["train/a"]
    assert lines(found, "error") == []
    assert lines(found, "note") == [": 1 labels of train have no image and are left out: b ()"]


def test_an_expected_file_lies_in_the_area_of_its_image():
    paths = (
        "flair_aerial_train/D1/Z1/img/IMG_1.tif flair_aerial_train/D1/Z2/img/IMG_2.tif "
        "flair_labels_train/D1/Z1/msk/MSK_1.tif"
    )
    found = paired(paths)
    assert "expected flair_labels_train/D1/Z2/msk/MSK_2.tif" in lines(found, "error")[0]
    assert "found images of train in flair_aerial_train/*/*/img, labels" in lines(found, "note")[0]


def test_an_expected_file_has_the_infix_of_its_siblings():
    paths = [f"train/{role}/{n}_{infix}_1.tif" for n in "ab" for role, infix in (("images", "image"), ("labels", "gt"))]
    (line,) = lines(paired(paths[:-1]), "error")
    assert "image without label: expected train/labels/b_gt_1.tif" in line


def test_what_is_missing_far_down_a_long_list_is_named():
    """Of long lists, what has been paired is freed on the way."""
    ids = [f"{number:04}" for number in range(600)]
    images = [f"train/images/{name}.tif" for name in ids if name != "0450"]
    labels = [f"train/labels/{name}.png" for name in ids if name not in ("0005", "0300")]
    assert [line.partition(": ")[2].partition(" (")[0] for line in lines(paired([*images, *labels]), "error")] == [
        "image without label: expected train/labels/0005.png",
        "image without label: expected train/labels/0300.png",
        "label without image: expected train/images/0450.tif",
    ]


def test_an_expected_file_is_called_as_its_siblings_are():
    paths = "Train/img/x/1_sat.tif Train/img/x/2_sat.tif Train/msk/x/1_mask.tif"
    assert "image without label: expected Train/msk/x/2_mask.tif" in lines(paired(paths), "error")[0]


SPLIT_NAMES = ("train", "Train", "val", "validation", "test")
NAMES = st.sampled_from(
    [
        *SPLIT_NAMES,
        "images",
        "image",
        "img",
        "masks",
        "labels",
        "gt",
        "extra",
        "bonn",
        "test_site",
        "train_images",
        "nir",
    ]
)
FILES = st.sampled_from(
    ["a.tif", "b.tif", "a.png", "b.png", "a_sat.tif", "a_mask.png", "b_mask.png", "img_1.tif", "mask_1.png", "c.jpg"]
)
PATHS = st.builds(lambda folders, name: "/".join((*folders, name)), st.lists(NAMES, max_size=3), FILES)


@pytest.mark.parametrize(
    ("beside", "lie"),
    [
        (["train/a.tif", "train/a.png"], "1 .png file"),
        (["train/a.tif", "train/a.png", "train/b.tif", "train/b.png"], "2 .png files"),
        (["train/a_sat.tif", "train/a_mask.png"], "1 .png file"),
    ],
)
def test_what_looks_like_labels_beside_images_is_told_where_labels_have_a_folder(beside, lie):
    labels = [f"train/masks/{name}.tif" for name in ("a", "b")[: len(beside) // 2]]
    found = paired([*beside, *labels])
    assert lines(found, "error") == []
    (warning,) = lines(found, "warning")
    assert f"{lie} beside images not used, as the labels have a folder of their own: in train" in warning
    assert tiles(found)["train/a"] == f"{beside[0]} + train/masks/a.tif"


@settings(max_examples=200)
@given(st.sets(PATHS, min_size=1, max_size=12))
def test_no_file_with_pixels_is_left_out_without_a_word_and_none_is_used_twice(paths):
    found = paired(paths)
    used = [path for files in tiles(found).values() for path in files.split(" + ")]
    assert len(used) == len(set(used)) or lines(found, "error")
    unused = {path for path in paths if split_suffix(path)[1] in RASTER_SUFFIXES} - set(used)
    assert not unused or lines(found, "error") or lines(found, "warning")
    for name, files in tiles(found).items():  # a tile's split is in its path
        if "test_site" not in files and not name.startswith("test/"):
            assert name[:2].lower() in files.lower().replace("validation", "val")
    assert tiles(paired(sorted(paths, reverse=True))) == tiles(found)
