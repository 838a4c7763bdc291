"""Annotations in pixels, of LabelMe and COCO, as labels: the pixels, which image they belong to, and every odd case."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio.features import rasterize
from raw_tiles import random_image, write_config, write_image

from landseg import storage

SIZE = 24
POLYGONS = {
    "field": [[1.2, 1.0], [14.8, 2.1], [11.0, 15.9], [2.0, 12.5]],
    "water": [[8.0, 6.0], [22.0, 6.0], [22.0, 20.5], [8.0, 19.0]],
}
CLASSES = ["background", "field", "water"]


def drawn(polygons: dict[str, list[list[float]]] = POLYGONS, outside: int = 0) -> np.ndarray:
    """An independent rasterisation: one polygon after the other, in an array of its own."""
    label = np.full((SIZE, SIZE), outside, np.uint8)
    for name, points in polygons.items():
        shape = {"type": "Polygon", "coordinates": [[*points, points[0]]]}
        label[rasterize([shape], out_shape=label.shape) == 1] = CLASSES.index(name)
    return label


def images(root: Path, *names: str, **labels) -> Path:
    write_config(root, classes=CLASSES, labels={"outside": "background", **labels})
    for seed, name in enumerate(names):
        write_image(root / name, random_image(seed, SIZE))
    return root


def labelme(path: Path, image: str, polygons=POLYGONS, **fields) -> None:
    shapes = [{"label": name, "points": points, "shape_type": "polygon"} for name, points in polygons.items()]
    document = {"version": "5.0", "imagePath": image, "imageHeight": SIZE, "imageWidth": SIZE, "shapes": shapes}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | fields))


def coco(path: Path, names: list[str], segmentations: list | None = None, **fields) -> None:
    """Each image with the same annotations: (category, segmentation)."""
    default = [(name, [np.ravel(points).tolist()]) for name, points in POLYGONS.items()]
    pairs = default if segmentations is None else segmentations
    document = {
        "images": [
            {"id": 7 + index, "file_name": name, "height": SIZE, "width": SIZE} for index, name in enumerate(names)
        ],
        "categories": [{"id": 3, "name": "field"}, {"id": 9, "name": "water"}],
        "annotations": [
            {"id": 1, "image_id": 7 + index, "category_id": {"field": 3, "water": 9}[name], "segmentation": shape}
            for index in range(len(names))
            for name, shape in pairs
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | fields))


def staged(run, split: str = "train") -> dict[str, np.ndarray]:
    assert run.status == 0, run.err
    opened = run.dataset()
    return {tile.id: opened.read_label(split, tile) for tile in opened.tiles(split)}


def packed(counts: list[int]) -> str:
    """Run lengths as COCO's own tools pack them."""
    text = ""
    for index, count in enumerate(counts):
        value, more = count - (counts[index - 2] if index > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != -1 if bits & 16 else value != 0
            text += chr((bits | 32 if more else bits) + 48)
    return text


def runs(mask: np.ndarray) -> list[int]:
    down = np.concatenate([[0], mask.T.ravel().astype(int), [2]])
    edges = np.flatnonzero(np.diff(down))
    return np.diff([0, *edges]).tolist()


@pytest.mark.parametrize("place", ["train/images/a.json", "train/labels/a.json", "annotations/train/a.json"])
def test_labelme(place, tmp_path, stage):
    file = re.sub("[^/]*.json", "*.json", place)
    root = images(tmp_path / "raw", "train/images/a.tif", file=file)
    labelme(root / place, "..\\images\\a.tif" if "labels" in place else "a.tif")
    run = stage(root)
    np.testing.assert_array_equal(staged(run)["a"], drawn())
    overlap = np.count_nonzero(drawn() != drawn(dict(reversed(POLYGONS.items()))))
    assert overlap
    assert f"{overlap} label px lie in polygons of several classes: the last one counts" in run.err


def test_what_is_in_no_polygon_is_ignored_unless_outside_says_what_it_is(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="train/labels/a.json", outside="ignore")
    labelme(root / "train/labels/a.json", "a.tif")
    np.testing.assert_array_equal(staged(stage(root))["a"], drawn(outside=255))


def test_shapes_without_a_type_and_rectangles(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="train/labels/a.json")
    shapes = [
        {"label": "field", "points": [[3, 4], [9, 4], [9, 20], [3, 20]]},
        {"label": "water", "points": [[20, 20], [12, 2]], "shape_type": "rectangle"},
        {"label": "water", "points": [[1, 1], [2, 2]], "shape_type": "polygon"},
    ]
    labelme(root / "train/labels/a.json", "a.tif", shapes=shapes)
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[4:20, 3:9] = 1
    label[2:20, 12:20] = 2
    np.testing.assert_array_equal(staged(stage(root))["a"], label)


def test_coco_with_a_file_for_each_split(tmp_path, stage):
    """Images of one name in two splits, one without annotations, parts of one object, and class names by a map."""
    names = ("train/images/a.tif", "train/images/b.tif", "val/images/a.tif")
    mapped = {"values": {"field": "water", "water": "field"}}
    root = images(tmp_path / "raw", *names, file="annotations/instances_*.json", **mapped)
    parts = [("field", [[1, 1, 5, 1, 5, 5, 1, 5], [10, 10, 20, 10, 20, 20, 10, 20]])]
    coco(root / "annotations/instances_train.json", ["a.tif"], parts)
    coco(root / "annotations/instances_val.json", ["a.tif"])
    document = json.loads((root / "annotations/instances_train.json").read_text())
    document["images"].append({"id": 99, "file_name": "b.tif", "height": SIZE, "width": SIZE})
    (root / "annotations/instances_train.json").write_text(json.dumps(document))
    run = stage(root)
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[1:5, 1:5] = label[10:20, 10:20] = 2
    np.testing.assert_array_equal(staged(run)["a"], label)
    assert not staged(run)["b"].any()
    np.testing.assert_array_equal(staged(run, "val")["a"], np.array([0, 2, 1])[drawn()])


@pytest.mark.parametrize("place", ["first", "last", "in an object"])
def test_coco_with_a_type(place, tmp_path, stage):
    """As COCO of 2014 and labelme2coco write it, and as attributes of objects."""
    root = images(tmp_path / "raw", "train/images/a.tif", file="a.json")
    coco(root / "a.json", ["a.tif"])
    document = json.loads((root / "a.json").read_text())
    if place == "in an object":
        document["annotations"][0]["attributes"] = {"type": "Polygon"}
    else:
        document = {"type": "instances"} | document if place == "first" else document | {"type": "instances"}
    (root / "a.json").write_text(json.dumps(document))
    np.testing.assert_array_equal(staged(stage(root))["a"], drawn())


def test_files_far_away_are_fetched_several_at_once(tmp_path, stage, s3, monkeypatch):
    fetch, both = storage.get_file, threading.Barrier(2)

    def fetch_together(uri: str, target: Path, **options) -> None:
        if "/labels/" in uri:
            both.wait(30)
        fetch(uri, target, **options)

    root = images(tmp_path / "raw", "train/images/a.tif", "train/images/b.tif", file="*/labels/*.json")
    for name in "ab":
        labelme(root / f"train/labels/{name}.json", f"{name}.tif")
    for path in root.rglob("*.*"):
        storage.put_file(f"{s3.uri}/raw/{path.relative_to(root)}", path)
    expected = stage(root).dataset()
    monkeypatch.setattr(storage, "get_file", fetch_together)
    run = stage(f"{s3.uri}/raw")
    monkeypatch.undo()
    assert run.status == 0, run.err
    assert run.loaded.document.dataset_id == expected.manifest.dataset_id


def test_annotations_that_break_off_are_called_damaged_annotations(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="a.json")
    coco(root / "a.json", ["a.tif"])
    (root / "a.json").write_bytes((root / "a.json").read_bytes()[:-20])
    assert "a.json: expected annotations of LabelMe or COCO, found damaged ones" in stage(root).error


def test_annotations_whose_kind_shows_late(tmp_path, stage):
    """An image inside the file, before what is drawn on it."""
    root = images(tmp_path / "raw", "train/images/a.tif", file="train/labels/a.json")
    labelme(root / "train/labels/a.json", "a.tif")
    document = {"imageData": "A" * 100_000} | json.loads((root / "train/labels/a.json").read_text())
    (root / "train/labels/a.json").write_text(json.dumps(document))
    np.testing.assert_array_equal(staged(stage(root))["a"], drawn())


@pytest.mark.parametrize("form", ["list", "text"])
def test_run_lengths_of_crowds(form, tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="a.json")
    crowd = np.random.default_rng(4).random((SIZE, SIZE)) > 0.6
    crowd[:3] = False
    counts = runs(crowd)
    rle = {"size": [SIZE, SIZE], "counts": counts if form == "list" else packed(counts)}
    moved = np.roll(crowd, 5, axis=0)
    over = {"size": [SIZE, SIZE], "counts": runs(moved)}
    squares = [[[2, 2, 6, 2, 6, 6, 2, 6]], [[8, 8, 12, 8, 12, 12, 8, 12]]]
    shapes = [("field", squares[0]), ("water", rle), ("field", over), ("field", squares[1])]
    coco(root / "a.json", ["a.tif"], shapes)
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[2:6, 2:6] = 1
    label[crowd] = 2
    label[moved] = 1
    label[8:12, 8:12] = 1
    np.testing.assert_array_equal(staged(stage(root))["a"], label)


def test_images_beside_the_file_of_their_split(tmp_path, stage):
    root = images(tmp_path / "raw", "train/a.tif", "val/a.tif", file="*/_annotations.coco.json")
    coco(root / "train/_annotations.coco.json", ["a.tif"])
    coco(root / "val/_annotations.coco.json", ["a.tif"], [])
    run = stage(root)
    np.testing.assert_array_equal(staged(run)["a"], drawn())
    assert not staged(run, "val")["a"].any()


def test_a_scene_is_cut_with_its_annotations(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="train/labels/a.json")
    document = yaml.safe_load((root / "dataset.yaml").read_text())
    document["scenes"] = {"max_px": 64, "tile_px": 32, "overlap_px": 0}
    (root / "dataset.yaml").write_text(yaml.safe_dump(document))
    write_image(root / "train/images/a.tif", random_image(1, 96))
    square = {"field": [[30, 10], [50, 10], [50, 40], [30, 40]]}
    labelme(root / "train/labels/a.json", "a.tif", square, imageHeight=96, imageWidth=96)
    whole = np.zeros((96, 96), np.uint8)
    whole[10:40, 30:50] = 1
    found = staged(stage(root))
    assert len(found) == 9
    for name, label in found.items():
        row, column = map(int, re.search(r"_y(\d+)_x(\d+)", name).groups())
        np.testing.assert_array_equal(label, whole[row : row + 32, column : column + 32])


def with_shapes(*shapes: dict) -> dict:
    return {"shapes": list(shapes)}


CIRCLE = {"label": "field", "points": [[9, 9], [9, 12]], "shape_type": "circle"}
REFUSED = {
    "a circle": (with_shapes(CIRCLE), "found shapes of other kinds: 1 circle (draw them as polygons)"),
    "an unknown name": (
        with_shapes({"label": "tree", "points": [[1, 1], [9, 9], [1, 9]]}),
        "values of label that are no classes: tree (1 polygons); expected background, field, water (write labels: {",
    ),
    "an image of another size": (
        {"imageHeight": 2 * SIZE},
        "expected annotations of 24x24 px, found those of an image of 48x24 px, as train/labels/a.json says",
    ),
    "a coordinate that is none": (
        with_shapes({"label": "field", "points": [[1, 1], [float("nan"), 9], [1, 9]]}),
        "expected annotations of LabelMe or COCO, found damaged ones",
    ),
    "half a coordinate": (
        with_shapes({"label": "field", "points": [[1, 1], [9], [1, 9]]}),
        "expected annotations of LabelMe or COCO, found damaged ones",
    ),
    "no shapes at all": ({"shapes": None, "regions": {}}, "VGG Image Annotator's: export them as COCO"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_drawn_is_said_in_one_line(name, tmp_path, stage):
    fields, expected = REFUSED[name]
    root = images(tmp_path / "raw", "train/images/a.tif", file="train/labels/*.json")
    labelme(root / "train/labels/a.json", "a.tif", **fields)
    run = stage(root)
    assert run.status == 2
    assert expected in run.error


def test_what_a_map_of_unknown_names_leaves_out_means_itself(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="train/labels/*.json")
    tree = [[16, 1], [22, 1], [22, 5], [16, 5]]
    labelme(root / "train/labels/a.json", "a.tif", {**POLYGONS, "tree": tree, "pond": tree})
    advice = re.search(r"write (labels: \{.*\}), with a class or ignore", stage(root).error)[1]
    document = yaml.safe_load((root / "dataset.yaml").read_text()) | yaml.safe_load(advice)
    document["labels"]["values"] = {"tree": "ignore", "pond": "water"}
    (root / "dataset.yaml").write_text(yaml.safe_dump(document))
    label = drawn()
    label[1:5, 16:22] = 2
    np.testing.assert_array_equal(staged(stage(root))["a"], label)


def test_the_line_about_missing_labels_proposes_a_pattern_for_all_splits(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, classes=CLASSES)
    for split in ("train", "val"):
        write_image(root / split / "images/a.tif", random_image(1, SIZE))
        labelme(root / split / "images/a.json", "a.tif")
    assert stage(root).error.count('write labels: {file: "*/images/*.json"') == 2


def test_boxes_alone_are_no_labels(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="a.json")
    coco(root / "a.json", ["a.tif"], [("field", []), ("water", [[2, 2, 6, 2, 6, 6]])])
    assert "expected polygons of all objects, found 1 with a box alone" in stage(root).error


def test_images_without_annotations_and_the_other_way_round(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", "train/images/b.tif", file="train/labels/*.json")
    labelme(root / "train/labels/a.json", "a.tif")
    run = stage(root)
    assert "expected annotations of all images, found 1 without: train/images/b.tif" in run.error
    match = re.search(r"with nothing to draw, write (\{.*?\}) in a file of its own", run.error)
    (root / "train/labels/b.json").write_text(match[1])
    assert not staged(stage(root))["b"].any()
    labelme(root / "train/labels/c.json", "c.tif")
    run = stage(root)
    assert "expected images for all annotations, found 1 of none: train/labels/c.json" in run.error
    document = yaml.safe_load((root / "dataset.yaml").read_text()) | {"labels_without_image": "skip"}
    (root / "dataset.yaml").write_text(yaml.safe_dump(document))
    assert stage(root).status == 0


def test_annotations_of_one_split_are_not_those_of_another(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", "val/images/a.tif", file="*/labels/*.json")
    labelme(root / "train/labels/a.json", "a.tif")
    assert "found 1 without: val/images/a.tif" in stage(root).error


def test_annotations_that_could_be_of_several_images(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/x/a.tif", "train/images/y/a.tif", file="all.json")
    coco(root / "all.json", ["a.tif"])
    run = stage(root)
    assert "expected annotations of one image each, found some that could be of several" in run.error
    coco(root / "all.json", ["x/a.tif", "y/a.tif"])
    assert list(staged(stage(root))) == ["x__a", "y__a"]


@pytest.mark.parametrize("name", ["a.tif", "images/a.tif"])
@pytest.mark.parametrize("folder", ["train/images", "train/annotations", "annotations"])
def test_a_file_of_annotations_in_each_folder(folder, name, tmp_path, stage):
    """What the line about annotations that could be of several images says to do."""
    root = images(tmp_path / "raw", "train/images/x/a.tif", "train/images/y/a.tif", file=f"{folder}/*/all.json")
    coco(root / folder / "x/all.json", [name])
    assert "or a file of annotations in each folder" in stage(root).error
    coco(root / folder / "y/all.json", [name], [])
    found = staged(stage(root))
    np.testing.assert_array_equal(found["x__a"], drawn())
    assert not found["y__a"].any()


def test_a_file_of_annotations_in_each_folder_above_those_of_splits(tmp_path, stage):
    root = images(tmp_path / "raw", "x/train/images/a.tif", "y/train/images/a.tif", file="*/all.json")
    coco(root / "x/all.json", ["a.tif"])
    coco(root / "y/all.json", ["a.tif"], [])
    first, second = staged(stage(root)).values()
    np.testing.assert_array_equal(first, drawn())
    assert not second.any()


def test_annotations_of_several_folders_for_the_image_of_another(tmp_path, stage):
    names = [f"train/images/{area}/a.tif" for area in "xyz"]
    root = images(tmp_path / "raw", *names, file="train/images/*/all.json")
    for area in "xy":
        coco(root / f"train/images/{area}/all.json", ["a.tif"])
    said = "expected annotations of train/images/z/a.tif in one place, found 2 in train/images/x/all.json and train"
    assert said in stage(root).error


def test_coordinates_that_are_shares_of_an_image_are_refused(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="*/labels/*.json")
    shares = {name: [[x / SIZE, y / SIZE] for x, y in points] for name, points in POLYGONS.items()}
    labelme(root / "train/labels/a.json", "a.tif", shares)
    assert "expected coordinates in pixels, found none above 0.916667" in stage(root).error


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (lambda root: labelme(root / "train/images/a.json", "a.tif"), "train/images/a.json"),
        (lambda root: labelme(root / "train/labels/a.json", "a.tif"), "train/labels/a.json"),
        (lambda root: coco(root / "annotations/instances_train.json", ["a.tif"]), "annotations/instances_train.json"),
    ],
)
def test_the_line_about_missing_labels_proposes_annotations(make, file, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, classes=CLASSES)
    write_image(root / "train/images/a.tif", random_image(1, SIZE))
    make(root)
    run = stage(root)
    match = re.search(r"write (labels: \{.*?\}) in dataset.yaml", run.error)
    with (root / "dataset.yaml").open("a") as config:
        config.write(match[1].replace("NAME", "background") + "\n")
    assert "in dataset.yaml, with, in place of NAME, the class of pixels in no polygon, or ignore, if" in run.error
    assert file in match[1]
    np.testing.assert_array_equal(staged(stage(root))["a"], drawn())


@pytest.mark.parametrize(("suffix", "whose"), [(".txt", "YOLO's"), (".xml", "Pascal VOC's")])
def test_annotations_that_are_not_read_are_called_what_they_are(suffix, whose, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    write_image(root / "train/images/a.tif", random_image(1, SIZE))
    (root / "train/labels").mkdir()
    (root / f"train/labels/a{suffix}").write_text("0 0.1 0.1 0.9 0.1 0.5 0.9")
    said = f"export annotations such as train/labels/a{suffix}, if these are {whose}, as COCO, which is read"
    assert said in stage(root).error


def test_the_map_of_names_that_is_proposed_has_those_that_are_known(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="train/labels/*.json")
    labelme(root / "train/labels/a.json", "a.tif", {"field": POLYGONS["field"], "Water": POLYGONS["water"]})
    match = re.search(r"write (labels: \{.*\}), with a class or ignore in place of each NAME", stage(root).error)
    document = yaml.safe_load((root / "dataset.yaml").read_text())
    (root / "dataset.yaml").write_text(yaml.safe_dump(document | yaml.safe_load(match[1].replace("NAME", "water"))))
    np.testing.assert_array_equal(staged(stage(root))["a"], drawn())


@pytest.mark.parametrize(
    ("content", "found"), [("", "an empty file"), ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer")]
)
def test_annotations_that_were_not_downloaded_are_called_that(content, found, tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", "train/images/b.tif", file="train/labels/*.json")
    labelme(root / "train/labels/a.json", "a.tif")
    (root / "train/labels/b.json").write_text(content)
    assert f"train/labels/b.json: expected annotations of LabelMe or COCO, found {found}" in stage(root).error


def test_annotations_of_images_of_other_names_are_named(tmp_path, stage):
    root = images(tmp_path / "raw", "train/images/a.tif", file="result.json")
    coco(root / "result.json", ["images/9f3c-a.tif"])
    expected = "expected annotations called as the images, such as train/images/a.tif, found those of images/9f3c-a.tif"
    assert expected in stage(root).error
    coco(root / "result.json", ["a.tif"])
    assert stage(root).status == 0
