"""Labels by a map: what values and colours mean, what is staged of them, and advice that is right when followed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from followed_advice import COMMAND, shell
from PIL import Image
from raw_tiles import random_image, random_label, write_config, write_image, write_label, write_raw

from landseg.contracts.errors import ContractError, DataError
from landseg.contracts.yaml_documents import parse_yaml
from landseg.raw.config.dataset_yaml import parse_config
from landseg.raw.labels.mapping import parse_colours, parse_values

COLOURS = np.array([[255, 255, 255], [0, 0, 255], [0, 255, 255]], np.uint8)
IDS = np.random.default_rng(5).integers(0, 3, (24, 24)).astype(np.uint8)


def dataset(root: Path, labels: dict[str, np.ndarray] | list[np.ndarray], suffix: str = ".png", **fields) -> Path:
    """A raw dataset with these labels in train."""
    write_config(root, **fields)
    for index, values in enumerate(labels):
        write_image(root / f"train/images/t{index}.tif", random_image(index))
        path = root / f"train/labels/t{index}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".png":
            write_label(path, values)
        else:
            tifffile.imwrite(path, values, metadata=None, photometric="minisblack")
    return root


def staged_ids(run) -> list[np.ndarray]:
    assert run.status == 0, run.error
    opened = run.dataset()
    return [opened.read_label("train", tile) for tile in opened.tiles("train")]


def configure(raw: Path, remove: tuple[str, ...] = (), **fields) -> None:
    path = raw / "dataset.yaml"
    document = {key: value for key, value in parse_yaml(path.read_bytes(), path).items() if key not in remove}
    path.write_text(yaml.safe_dump(document | fields))


def proposed(error: str, *names: str) -> dict:
    """What an error line proposes for dataset.yaml, with classes in the place of each NAME."""
    (text,) = re.findall(r"label_(?:values|colours): (\{.*?\})", error)
    for name in names:
        text = text.replace("NAME", name, 1)
    return yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{10: a, [20, 30]: b, 0: ignore}", ((0, 0, None), (10, 10, "a"), (20, 20, "b"), (30, 30, "b"))),
        ("{20-22: a, '23, 25': a, -1: ignore}", ((-1, -1, None), (20, 23, "a"), (25, 25, "a"))),
        ("{65535: ignore, 2.0: a, '-5..-2': b}", ((-5, -2, "b"), (2, 2, "a"), (65535, 65535, None))),
        (
            "{a: 10, b: [20, 30-40], ignore: '0, 255'}",
            ((0, 0, None), (10, 10, "a"), (20, 20, "b"), (30, 40, "b"), (255, 255, None)),
        ),
    ],
)
def test_values_as_people_write_them(text, expected):
    assert parse_values(parse_yaml(text.encode(), "x")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "{'#ff0000': a, '#000000': ignore}",
        "{'255,0,0': a, '0 0 0': ignore}",
        "{[255, 0, 0]: a, [0, 0, 0]: ignore}",
        "{'rgb(255, 0, 0)': a, black: ignore}",
        "{FF0000: a, '#000': ignore}",
        "{a: [255, 0, 0], ignore: ['#000000', '#000000ff']}",
    ],
)
def test_colours_as_people_write_them(text):
    assert parse_colours(parse_yaml(text.encode(), "x")) == (("#000000", None), ("#ff0000", "a"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label_values: {10: a, 10-12: b}", "value 10 has two meanings: a and b"),
        ("label_values: {10: a, 11: c}", "c is none of the classes; expected one of a, b, ignore"),
        ("label_values: {10: no, 11: b}", "YAML reads no and off as false"),
        ("label_values: {12-10: a}", "such as 20, [20, 30] or 20-30"),
        ("label_values: {1: 0, 2: 1}", "expected a class name or ignore for 1, found 0"),
        ("label_values:", "expected a map such as"),
        ("label_values: {1: a, 2: b}\nlabel_offset: 1", "remove label_offset"),
        ("label_values: {1: a, 2: b}\nignore_index: 2", "ignore_index 2 is also a value of b"),
        ("label_colours: {'#ff0000': a, red: b}", "colour #ff0000 has two meanings: a and b"),
        ("label_colours: {112233: a}", "found the number 112233: write it in quotes"),
        ("label_colours: {'0,0,256': a}", "three values from 0 to 255"),
        ("label_colours:\n  #ff0000: a", "start of a comment"),
        ("label_colours: {red: a}\nignore_index: 0", "map a colour to ignore, and remove ignore_index"),
    ],
)
def test_maps_that_say_nothing_clear_are_refused(text, expected):
    with pytest.raises(DataError) as caught:
        parse_config(f"version: 1\nname: x\nclasses: [a, b]\n{text}\n".encode(), "dataset.yaml")
    assert expected.lower() in str(caught.value).lower()


def test_a_key_that_is_given_twice_is_refused():
    with pytest.raises(ContractError, match="found a key given twice, in line 2 and in line 3, column 3"):
        parse_yaml(b"label_values:\n  10: a\n  10: b\n", "x")


def test_a_map_takes_several_codes_to_a_class_and_is_recorded(tmp_path, stage):
    codes = np.array([10, 20, 65535], np.uint16)[IDS]
    more = np.array([30, -1, 0], np.int32)[IDS]
    raw = dataset(tmp_path / "raw", [codes], ".tif")
    tifffile.imwrite(raw / "train/labels/t1.tif", more, metadata=None, photometric="minisblack")
    write_image(raw / "train/images/t1.tif", random_image(1))
    configure(raw, label_values={10: "background", "20-30": "field", 0: "water", -1: "ignore", 65535: "ignore"})
    run = stage(raw)
    first, second = staged_ids(run)
    np.testing.assert_array_equal(first, np.array([0, 1, 255])[IDS])
    np.testing.assert_array_equal(second, np.array([1, 255, 2])[IDS])
    manifest = run.loaded.document
    assert manifest.label_map.model_dump(mode="json") == {
        "values": [[-1, -1, None], [0, 0, "water"], [10, 10, "background"], [20, 30, "field"], [65535, 65535, None]],
        "colours": [],
    }
    assert manifest.splits["train"].ignored_pixels == np.count_nonzero(IDS == 2) + np.count_nonzero(IDS == 1)
    # The same again reads the files, but neither transcodes nor uploads; another map is another dataset.
    again = stage(raw)
    assert again.loaded.sha256 == run.loaded.sha256
    assert stage(raw, store=tmp_path / "other").loaded.document.dataset_id == manifest.dataset_id
    configure(raw, label_values={10: "field", "20-30": "field", 0: "water", -1: "ignore", 65535: "ignore"})
    changed = stage(raw)
    assert changed.loaded.document.dataset_id != manifest.dataset_id
    np.testing.assert_array_equal(staged_ids(changed)[0], np.array([1, 1, 255])[IDS])


def test_datasets_without_a_map_are_what_they_were(tmp_path, stage):
    run = stage(write_raw(tmp_path / "raw", train=2, val=1, test=0))
    assert run.loaded.document.dataset_id == "7089486d4fe8da95"
    assert b"label_map" not in Path(run.loaded.uri).read_bytes()
    assert b"source_label" not in next(Path(run.loaded.uri).parent.glob("tiles-train-*")).read_bytes()


def test_only_labels_that_need_it_are_transcoded(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [IDS, IDS.astype(np.uint16)], label_offset=0)
    run = stage(raw)
    for values in staged_ids(run):
        np.testing.assert_array_equal(values, IDS)
    plain, transcoded = run.dataset().tiles("train")
    assert plain.source_label_sha256 is None
    assert transcoded.source_label_sha256 is not None
    assert transcoded.label_sha256 == plain.label_sha256


@pytest.mark.parametrize("field", ["palette", "label_colours"])
def test_colours_become_classes(field, tmp_path, stage):
    by_colour = {"#ffffff": "background", "0,0,255": "field", "cyan": "water", "#000000": "ignore"}
    fields = {"palette": COLOURS.tolist()} if field == "palette" else {"label_colours": by_colour}
    palette = Image.fromarray(IDS[::-1].copy() if field == "palette" else 2 - IDS, "P")
    palette.putpalette(COLOURS[:: 1 if field == "palette" else -1].ravel().tolist())
    raw = dataset(
        tmp_path / "raw", [COLOURS[IDS], np.dstack([COLOURS[IDS], np.full(IDS.shape, 255, np.uint8)])], **fields
    )
    palette.save(raw / "train/labels/t2.png")
    write_image(raw / "train/images/t2.tif", random_image(2))
    run = stage(raw)
    for values, expected in zip(staged_ids(run), [IDS, IDS, IDS[::-1] if field == "palette" else IDS], strict=True):
        np.testing.assert_array_equal(values, expected)
    assert run.loaded.document.class_schema.palette == tuple(tuple(colour) for colour in COLOURS.tolist())


def test_one_error_lists_the_values_of_the_whole_dataset(tmp_path, stage):
    codes = [np.array([10, 20, 20], np.uint8)[IDS], np.array([20, 30, 10], np.uint8)[IDS]]
    raw = dataset(tmp_path / "raw", codes)
    run = stage(raw)
    assert run.status == 2
    counts = {code: sum(int(np.count_nonzero(values == code)) for values in codes) for code in (10, 20, 30)}
    for text in (run.error, run.out):
        assert f"10 ({counts[10]} px in 2 files, the first train/labels/t0.png), 20 ({counts[20]} px)" in text
        assert f"30 ({counts[30]} px); expected 0-2" in text
        assert text.count("label values outside the class list") == 1
    configure(raw, label_values=proposed(run.error))
    for values, stored in zip(staged_ids(stage(raw)), codes, strict=True):
        np.testing.assert_array_equal(values, stored // 10 - 1)


def test_an_error_of_one_label_does_not_hide_where_others_are_wrong(tmp_path, stage):
    coloured = COLOURS[IDS]
    raw = dataset(tmp_path / "raw", [np.full((24, 24), 77, np.uint8), coloured, coloured])
    values, colours = stage(raw).checks["problems"]
    assert values["where"] == str(raw / "train/labels/t0.png")
    assert colours["where"] == str(raw)
    assert "px in 2 files, the first train/labels/t1.png" in colours["problem"]


@pytest.mark.parametrize(
    ("values", "fields", "names", "expected"),
    [
        ([10, 20, 30], {}, (), [0, 1, 2]),
        ([0, 10, 20, 30], {}, (), [255, 0, 1, 2]),
        ([1, 2, 3, 4, 5], {"label_offset": 1}, ("water",), [0, 1, 2, 2, 2]),
        ([0, 1, 2, 9, 200], {}, ("field", "ignore"), [0, 1, 2, 1, 255]),
        ([0, 255], {"ignore_index": 254}, ("field", "water"), [1, 2]),
        ([1, 2, 7, 255], {"ignore_index": 0}, ("ignore", "field"), None),
    ],
)
def test_proposed_values_can_be_pasted(values, fields, names, expected, tmp_path, stage):
    stored = np.resize(np.array(values, np.uint8), (24, 24))
    raw = dataset(tmp_path / "raw", [stored], **fields)
    if expected is None:
        fields = {"ignore_index": 0, "label_offset": 1}
        configure(raw, **fields)
    run = stage(raw)
    assert run.status == 2
    configure(raw, remove=("label_offset",), label_values=proposed(run.error, *names))
    (found,) = staged_ids(stage(raw))
    if expected is not None:
        np.testing.assert_array_equal(found, np.resize(expected, (24, 24)))


def test_minus_one_is_ignored_as_the_error_says(tmp_path, stage):
    stored = np.array([0, 1, -1], np.int32)[IDS]
    raw = dataset(tmp_path / "raw", [stored], ".tif")
    run = stage(raw)
    assert f"-1 ({np.count_nonzero(IDS == 2)} px)" in run.error
    assert "if -1 means unlabelled, set ignore_index: -1" in run.error
    configure(raw, ignore_index=-1)
    np.testing.assert_array_equal(staged_ids(stage(raw))[0], np.array([0, 1, 255])[IDS])


def test_values_that_a_map_lacks_are_added_as_the_error_says(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [np.array([10, 20, 60], np.uint8)[IDS]], label_values={10: "field", 20: "water"})
    run = stage(raw)
    assert f"label values that label_values does not map: 60 ({np.count_nonzero(IDS == 2)} px)" in run.error
    assert "add 60: NAME to label_values" in run.error
    configure(raw, label_values={10: "field", 20: "water", 60: "background"})
    np.testing.assert_array_equal(staged_ids(stage(raw))[0], np.array([1, 2, 0])[IDS])


@pytest.mark.parametrize("fields", [{}, {"palette": COLOURS.tolist()}])
def test_unknown_colours_are_listed_and_can_be_mapped(fields, tmp_path, stage):
    stored = COLOURS[IDS]
    stored[0, :5] = (1, 0, 255)
    raw = dataset(tmp_path / "raw", [stored], **fields)
    run = stage(raw)
    assert run.status == 2
    if fields:
        assert "#0100ff, nearest to field #0000ff (5 px)" in run.error
        entries = proposed(run.error, "field")
    else:
        assert "does not say what they mean" in run.error
        text = re.findall(r"label_colours: (\{.*?\})", run.error)[0]
        named = {"#ffffff": "background", "#0000ff": "field", "#00ffff": "water", "#0100ff": "field"}
        entries = {colour: named[colour] for colour in yaml.safe_load(text)}
    tolerance = int(re.findall(r"colour_tolerance: (\d+) for colours that are near to these", run.error)[0])
    configure(raw, label_colours=entries, colour_tolerance=tolerance)
    expected = IDS.copy()
    expected[0, :5] = 1
    run = stage(raw)
    np.testing.assert_array_equal(staged_ids(run)[0], expected)
    assert "5 label px have a colour within 1 of one in label_colours: they have its class" in run.err
    assert run.loaded.document.label_map.colour_tolerance == tolerance


def test_colours_near_to_two_listed_ones_and_frequent_ones_are_not_guessed(tmp_path, stage):
    stored = COLOURS[IDS]
    stored[0, :2] = (0, 5, 255)  # as near to #0000ff as to #000aff
    stored[2:4] = (250, 255, 255)
    fields = {"label_colours": {"#0000ff": "field", "#000aff": "water", "#00ffff": "water"}, "colour_tolerance": 5}
    error = stage(dataset(tmp_path / "raw", [stored], **fields)).error
    assert "#0005ff" in error
    assert "#faffff" in error
    assert "'#ffffff': NAME, '#faffff': NAME" in error


def test_a_mask_that_was_a_jpeg(tmp_path, stage):
    blocks = np.kron(IDS[:4, :4], np.ones((6, 6), np.uint8))
    noise = np.random.default_rng(1).integers(-20, 21, (24, 24, 3))
    noise[:12] = 0
    stored = (COLOURS[blocks].astype(int) + noise).clip(0, 255).astype(np.uint8)
    raw = dataset(tmp_path / "raw", [stored])
    colours = {"#ffffff": "background", "#0000ff": "field", "#00ffff": "water"}
    assert "#ffffff': NAME" in stage(raw).error
    configure(raw, label_colours=colours)
    tolerance = int(re.findall(r"add colour_tolerance: (\d+) for", stage(raw).error)[0])
    assert 18 <= tolerance <= 20
    configure(raw, colour_tolerance=tolerance)
    np.testing.assert_array_equal(staged_ids(stage(raw))[0], blocks)


def test_pixels_without_a_value_are_ignored_and_counted(tmp_path, stage):
    alpha = np.where(IDS == 2, 0, 255).astype(np.uint8)
    raw = dataset(tmp_path / "raw", [np.dstack([IDS, alpha])])
    run = stage(raw)
    np.testing.assert_array_equal(staged_ids(run)[0], np.where(IDS == 2, 255, IDS))
    note = f"{np.count_nonzero(IDS == 2)} label px have no value (transparent, NaN, outside): they are ignored"
    assert note in run.checks["warnings"]


def test_scenes_are_mapped_before_they_are_cut(tmp_path, stage):
    codes = np.array([10, 20, -1], np.int16)[np.random.default_rng(1).integers(0, 3, (100, 100))]
    raw = tmp_path / "raw"
    write_config(
        raw,
        label_values={10: "field", 20: "water", -1: "ignore"},
        scenes={"max_px": 64, "tile_px": 64, "overlap_px": 8},
    )
    write_image(raw / "train/images/s.tif", random_image(1, 100))
    (raw / "train/labels").mkdir()
    tifffile.imwrite(raw / "train/labels/s.tif", codes, metadata=None, photometric="minisblack")
    run = stage(raw)
    expected = np.select([codes == 10, codes == 20], [1, 2], 255)
    for tile, values in zip(run.dataset().tiles("train"), staged_ids(run), strict=True):
        y, x = tile.scene.y, tile.scene.x
        np.testing.assert_array_equal(values, expected[y : y + tile.height, x : x + tile.width])


def palette_png(path: Path, ids: np.ndarray, colours: np.ndarray, indexes: list[int]) -> None:
    """A label whose classes have these indexes, which have the classes' colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(indexes, np.uint8)[ids], "P")
    entries = np.zeros((256, 3), np.uint8)
    entries[indexes] = colours
    image.putpalette(entries.ravel().tolist())
    image.save(path)


@pytest.mark.parametrize(
    ("fields", "indexes"),
    [
        ({"palette": COLOURS.tolist()}, [[0, 1, 2], [2, 0, 1]]),
        ({}, [[0, 1, 2], [2, 0, 1]]),
        ({"palette": COLOURS.tolist()}, [[1, 0, 2]]),
        ({"palette": COLOURS.tolist(), "label_offset": 1}, [[2, 1, 3]]),
    ],
)
def test_palettes_that_contradict_each_other_or_dataset_yaml(fields, indexes, tmp_path, stage):
    raw = dataset(tmp_path / "raw", [IDS] * len(indexes), **fields)
    for number, order in enumerate(indexes):
        palette_png(raw / f"train/labels/t{number}.png", IDS, COLOURS, order)
    run = stage(raw)
    assert run.status == 2
    assert f"contradict {'each other' if len(indexes) > 1 else 'dataset.yaml'}: #" in run.error
    by_colour, by_index = (yaml.safe_load(text) for text in re.findall(r"label_[a-z]+: (\{.*?\})", run.error))
    if not fields:
        assert set(by_colour.values()) == {"NAME"}
        by_colour = {"#ffffff": "background", "#0000ff": "field", "#00ffff": "water"}
    configure(raw, remove=("label_offset",), label_colours=by_colour)
    for values in staged_ids(stage(raw)):
        np.testing.assert_array_equal(values, IDS)
    configure(raw, remove=("label_colours", "label_offset"), label_values=by_index)
    for values, order in zip(staged_ids(stage(raw)), indexes, strict=True):
        np.testing.assert_array_equal(values, np.array(order)[IDS] - fields.get("label_offset", 0))


def test_palettes_that_only_look_different_are_accepted(tmp_path, stage):
    """Grey ramps, the colours of values that are ignored or do not occur, and other shades."""
    raw = dataset(tmp_path / "raw", [IDS] * 4, palette=[[0, 0, 0], [1, 1, 1], [0, 255, 255]])
    Image.fromarray(IDS, "P").save(raw / "train/labels/t0.png")
    palette_png(raw / "train/labels/t1.png", np.minimum(IDS, 1), np.array([[0, 0, 0], [1, 1, 1]]), [0, 1])
    palette_png(raw / "train/labels/t2.png", IDS, np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]]), [0, 1, 255])
    palette_png(raw / "train/labels/t3.png", IDS, np.array([[9, 9, 9], [8, 8, 8], [7, 7, 7]]), [0, 1, 2])
    assert stage(raw).status == 0


@pytest.mark.parametrize("fields", [{}, {"label_offset": 1, "ignore_index": 0}, {"palette": COLOURS.tolist()}])
def test_class_values_in_three_channels(fields, tmp_path, stage):
    stored = np.dstack([IDS + np.uint8(fields.get("label_offset", 0))] * 3)
    raw = dataset(tmp_path / "raw", [stored], **fields)
    run = stage(raw)
    assert "if all three channels hold the class value" in run.error
    configure(raw, remove=("label_offset", "ignore_index"), label_colours=proposed(run.error))
    np.testing.assert_array_equal(staged_ids(stage(raw))[0], IDS)


def test_a_mask_of_0_and_255(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [np.where(IDS == 1, 255, 0).astype(np.uint8)], classes=["no", "road"])
    run = stage(raw)
    assert run.status == 2
    assert "hold only 0 and 255, and 255 is ignored unless dataset.yaml says what it means" in run.error
    configure(raw, label_values=proposed(run.error))
    np.testing.assert_array_equal(staged_ids(stage(raw))[0], IDS == 1)


@pytest.mark.parametrize("classes", [["ground", "road"], ["ground", "road", "rail"]])
@pytest.mark.parametrize("kind", ["16 bits", "black and white"])
def test_masks_of_two_values_of_other_kinds(kind, classes, tmp_path, stage):
    """Whatever holds the second value, it is not proposed to be ignored."""
    mask = np.where(IDS == 1, 255, 0).astype(np.uint8)
    stored = mask.astype(np.uint16) * 257 if kind == "16 bits" else np.dstack([mask] * 3)
    raw = dataset(tmp_path / "raw", [stored], classes=classes)
    run = stage(raw)
    assert run.status == 2
    field = "label_values" if kind == "16 bits" else "label_colours"
    configure(raw, **{field: proposed(run.error, *classes[: run.error.count(": NAME")])})
    np.testing.assert_array_equal(staged_ids(stage(raw))[0], IDS == 1)


def test_a_mask_whose_255_is_no_class(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [np.where(IDS == 1, 255, 0).astype(np.uint8)], classes=["no", "road"])
    configure(raw, ignore_index=255)
    run = stage(raw)
    (warning,) = [text for text in run.checks["warnings"] if "0/255" in text]
    np.testing.assert_array_equal(staged_ids(run)[0], np.where(IDS == 1, 255, 0))
    configure(raw, remove=("ignore_index",), label_values=proposed(warning))
    np.testing.assert_array_equal(staged_ids(stage(raw))[0], IDS == 1)


@pytest.mark.parametrize("kind", ["transparent", "not a number"])
def test_one_class_beside_pixels_without_a_value_is_no_dataset(kind, tmp_path, stage):
    """As masks drawn in white on nothing: two classes were meant."""
    root = tmp_path / "raw"
    colours = {"0,0,0": "ground", "255,255,255": "road"}
    write_config(root, classes=["ground", "road"], **({"label_colours": colours} if kind == "transparent" else {}))
    is_road = random_label(1) == 1
    write_image(root / "train/images/a.tif", random_image(1))
    path = root / "train/labels" / ("a.png" if kind == "transparent" else "a.tif")
    path.parent.mkdir()
    if kind == "transparent":
        Image.fromarray(np.repeat(np.where(is_road, 255, 0).astype(np.uint8)[..., None], 4, axis=2)).save(path)
    else:
        write_image(path, np.where(is_road, 1, np.nan).astype(np.float32))
    error = stage(root).error
    assert "expected labels of train to hold two classes, found road alone beside pixels without a value" in error
    if kind == "transparent":
        shell(re.search(COMMAND, error)[0].replace("LABEL.png", "a.png"), path.parent)
        run = stage(root)
        assert run.status == 0, run.err
        dataset = run.dataset()
        np.testing.assert_array_equal(dataset.read_label("train", dataset.tiles("train")[0]), is_road)
