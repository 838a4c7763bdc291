"""The sample data: its files, how a run resumes, what the tiles show, and the randomness behind them."""

import argparse
import hashlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from landseg.contracts.errors import ConfigError
from landseg.raw.config.dataset_yaml import parse_config
from landseg.sample import noise as sample_noise
from landseg.sample import tiles as sample
from landseg.sample.covers import CLASSES
from landseg.sample.tiles import COMPRESSIONS, PALETTE, SampleOptions, draw_tile, make_sample_dataset
from landseg.stages import make_sample_data

TINY = SampleOptions(train=3, val=2, test=1, size_px=48)
WATER, GRASS, BUILDING = CLASSES.index("water"), CLASSES.index("grass"), CLASSES.index("building")


def digests(directory):
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn():
    """(images, labels) of tiles of two splits."""
    options = SampleOptions()
    splits = {}
    for split, number in (("train", 72), ("val", 32)):
        tiles = [draw_tile(options, split, index) for index in range(number)]
        splits[split] = np.stack([image for image, _ in tiles]), np.stack([labels for _, labels in tiles])
    return splits


# The files


def test_the_tree_is_the_raw_dataset_contract(tmp_path):
    make_sample_dataset(tmp_path / "new" / "sample", TINY, num_processes=1)
    root = tmp_path / "new" / "sample"
    assert sorted(digests(root)) == [
        ".landseg-sample.json",
        "dataset.yaml",
        "test/images/300000.tif",
        "train/images/100000.tif",
        "train/images/100001.tif",
        "train/images/100002.tif",
        "train/labels/100000.png",
        "train/labels/100001.png",
        "train/labels/100002.png",
        "val/images/200000.tif",
        "val/images/200001.tif",
        "val/labels/200000.png",
        "val/labels/200001.png",
    ]
    image = tifffile.imread(root / "train/images/100001.tif")
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    with Image.open(root / "train/labels/100001.png") as label:
        assert (label.mode, label.size) == ("P", (48, 48))
        assert label.getpalette()[:27] == [value for colour in PALETTE for value in colour]
        assert np.asarray(label).max() < len(CLASSES)


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_description_is_a_valid_schema(bands, dtype):
    config = parse_config(sample.dataset_description(SampleOptions(bands=bands, dtype=dtype)).encode(), "dataset.yaml")
    schema = config.class_schema(config.selected_bands(bands), config.scale_for(bands))
    assert config.name == "sample"
    assert schema.classes[0] == "background"
    assert schema.num_classes == 9
    assert schema.bands == tuple(range(1, bands + 1))
    assert (schema.ignore_index, schema.label_offset) == (255, 0)
    assert (schema.scale is None) == (dtype == "uint8")


def test_an_empty_split_is_left_out(tmp_path):
    make_sample_dataset(tmp_path, SampleOptions(train=1, val=0, test=0, size_px=32))
    assert not (tmp_path / "val").exists()
    assert not (tmp_path / "test").exists()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(("bands", "dtype"), [(3, "uint8"), (4, "uint16")])
def test_every_compression_stores_the_same_pixels(tmp_path, compression, bands, dtype):
    options = SampleOptions(train=1, val=0, test=0, size_px=40, bands=bands, dtype=dtype, compression=compression)
    make_sample_dataset(tmp_path, options)
    path = tmp_path / "train/images/100000.tif"
    with tifffile.TiffFile(path) as tiff:
        stored = tiff.pages[0].compression.name.lower()
        assert compression in {"none": {"none"}, "adobe_deflate": {"deflate"}}.get(stored, {stored})
        image = tiff.asarray()
    expected, labels = draw_tile(options, "train", 0)
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "train/labels/100000.png")), labels)
    assert str(image.dtype) == dtype


# Determinism


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    make_sample_dataset(tmp_path / "one", TINY, num_processes=1)
    make_sample_dataset(tmp_path / "two", TINY, num_processes=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_tile_depends_on_seed_split_and_number_only():
    image, labels = draw_tile(TINY, "train", 1)
    more = SampleOptions(train=9, val=0, test=0, size_px=48, compression="none")
    np.testing.assert_array_equal(draw_tile(more, "train", 1)[0], image)
    others = [
        draw_tile(TINY, "train", 2)[0],
        draw_tile(TINY, "val", 1)[0],
        draw_tile(SampleOptions(size_px=48, seed=1), "train", 1)[0],
    ]
    assert all((other != image).mean() > 0.5 for other in others)
    four, same_labels = draw_tile(SampleOptions(size_px=48, bands=4), "train", 1)
    assert four.shape == (48, 48, 4)
    np.testing.assert_array_equal(same_labels, labels)


# Killed and rerun


def test_a_finished_dataset_is_left_alone(tmp_path):
    make_sample_dataset(tmp_path, TINY, num_processes=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    make_sample_dataset(tmp_path, TINY, num_processes=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_killed_run_is_not_taken_for_complete_and_is_finished_by_a_rerun(tmp_path, monkeypatch):
    make_sample_dataset(tmp_path / "whole", TINY, num_processes=1)
    write, written = sample._write, []

    def killed(path, content):
        if len(written) == 6:
            path.with_name(path.name + ".part").write_bytes(content[: len(content) // 2])
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    monkeypatch.setattr(sample, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        make_sample_dataset(tmp_path / "cut", TINY, num_processes=1)
    assert not (tmp_path / "cut" / "dataset.yaml").exists()
    monkeypatch.undo()
    kept = (tmp_path / "cut/train/images/100000.tif").stat().st_mtime_ns
    make_sample_dataset(tmp_path / "cut", TINY, num_processes=1)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert (tmp_path / "cut/train/images/100000.tif").stat().st_mtime_ns == kept


def test_a_lost_tile_is_drawn_again(tmp_path):
    make_sample_dataset(tmp_path, TINY, num_processes=1)
    before = digests(tmp_path)
    (tmp_path / "val/labels/200001.png").unlink()
    make_sample_dataset(tmp_path, TINY, num_processes=1)
    assert digests(tmp_path) == before


def test_what_is_not_ours_is_refused(tmp_path):
    (tmp_path / "holiday.txt").write_text("photos")
    with pytest.raises(ConfigError, match="expected an empty directory"):
        make_sample_dataset(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]
    with pytest.raises(ConfigError, match="cannot be written"):
        make_sample_dataset(tmp_path / "holiday.txt", TINY)


def test_other_options_are_refused(tmp_path):
    make_sample_dataset(tmp_path, TINY, num_processes=1)
    with pytest.raises(ConfigError, match="other options"):
        make_sample_dataset(tmp_path, SampleOptions(train=3, val=2, test=1, size_px=48, seed=1))


def test_a_changed_description_is_refused(tmp_path):
    make_sample_dataset(tmp_path, TINY, num_processes=1)
    (tmp_path / "dataset.yaml").write_text("version: 1\n")
    with pytest.raises(ConfigError, match="was changed"):
        make_sample_dataset(tmp_path, TINY)


# Options


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": -1}, "--train: expected 0 to 99999, found -1"),
        ({"size_px": 8}, "--size: expected 32 to 2048, found 8"),
        ({"bands": 5}, "--bands: expected one of 3, 4, found 5"),
        ({"dtype": "float32"}, "--dtype: expected one of uint8, uint16, found 'float32'"),
        ({"compression": "jpeg"}, "--compression: expected one of"),
        ({"seed": -1}, "--seed: expected 0 to"),
        ({"train": 0, "val": 0, "test": 0}, "expected at least one tile"),
    ],
)
def test_wrong_options_are_named(wrong, message):
    with pytest.raises(ConfigError) as caught:
        SampleOptions(**wrong)
    assert message in str(caught.value)


def test_the_verb_passes_every_option_on(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    make_sample_data.add_arguments(parser)
    flags = "--train 1 --val 1 --test 0 --size 32 --bands 4 --dtype uint16 --compression zstd --seed 7"
    make_sample_data.run(parser.parse_args([str(tmp_path), *flags.split()]))
    assert capsys.readouterr().out == f"{tmp_path}: 1 train, 1 val and 0 test tiles\n"
    options = SampleOptions(1, 1, 0, 32, 4, "uint16", "zstd", 7)
    image = tifffile.imread(tmp_path / "val/images/200000.tif")
    np.testing.assert_array_equal(image, draw_tile(options, "val", 0)[0])


def test_the_verb_has_the_core_s_defaults():
    parser = argparse.ArgumentParser()
    make_sample_data.add_arguments(parser)
    args = vars(parser.parse_args(["somewhere"]))
    del args["directory"]
    assert SampleOptions(**args) == SampleOptions()


# The land


def test_every_class_is_frequent_in_every_split(drawn):
    for _, labels in drawn.values():
        share = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
        assert len(share) == len(CLASSES)
        assert share.min() > 0.025, dict(zip(CLASSES, share, strict=True))
        assert share.max() < 0.3


def test_colour_alone_does_not_tell_the_classes(drawn):
    """A Bayes classifier on a fine colour histogram: no classifier of single pixels does much better."""

    def bins(images):
        red, green, blue = np.moveaxis(images.astype(int) // 22, -1, 0)
        return (red * 12 + green) * 12 + blue

    images, labels = drawn["train"]
    counts = np.zeros((12**3, len(CLASSES)))
    np.add.at(counts, (bins(images), labels), 1)
    images, labels = drawn["val"]
    predicted = counts.argmax(1)[bins(images)]
    confusion = np.bincount(labels.ravel() * 9 + predicted.ravel(), minlength=81).reshape(9, 9)
    hits = np.diag(confusion)
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    assert iou.mean() < 0.33
    assert hits.sum() / confusion.sum() < 0.5


def test_near_infrared_is_bright_on_plants_and_dark_on_water():
    tiles = [draw_tile(SampleOptions(bands=4), "train", number) for number in range(12)]
    images = np.stack([image for image, _ in tiles]).astype(float)
    labels = np.stack([labels for _, labels in tiles])
    plants, water = images[labels == GRASS].mean(0), images[labels == WATER].mean(0)
    assert plants[3] > 1.3 * plants[:3].max()
    assert water[3] < 0.6 * water[:3].min()


def test_uint16_is_the_same_scene_in_reflectance():
    image = draw_tile(SampleOptions(), "val", 3)[0]
    reflectance = draw_tile(SampleOptions(dtype="uint16"), "val", 3)[0]
    assert reflectance.dtype == np.uint16
    assert 255 < reflectance.max() <= 10_000
    np.testing.assert_allclose(np.clip(reflectance / 5000 * 255, 0, 255), image, atol=0.6)


def test_larger_tiles_show_more_land_not_larger_things(drawn):
    def border_density(labels):
        return (labels[..., 1:] != labels[..., :-1]).mean()

    large = np.mean([border_density(draw_tile(SampleOptions(size_px=384), "train", i)[1]) for i in range(5)])
    assert large == pytest.approx(border_density(drawn["train"][1]), rel=0.3)


def test_palette_is_told_apart_with_any_colour_vision():
    """CIE76 differences as seen by dichromats: the matrices are Machado, Oliveira, Fernandes 2009, severity 1."""
    views = {
        "normal": np.eye(3),
        "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    }
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    linear = (np.array(PALETTE) / 255) ** 2.2
    for view in views.values():
        xyz = np.clip(linear @ np.array(view).T, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
        lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(9)
        assert apart.min() > 20


# The randomness


def test_keys_give_even_and_independent_draws():
    keys = sample_noise.combine(np.asarray(5, np.uint64), np.arange(-20_000, 20_000))
    first, second = sample_noise.uniform(keys, 0), sample_noise.uniform(keys, 1)
    assert 0 <= first.min() < first.max() < 1
    np.testing.assert_allclose(np.histogram(first, 10, (0, 1))[0], 4000, rtol=0.08)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    picks = np.bincount(sample_noise.choose(keys, 2, np.array([1, 0, 3])), minlength=3) / len(keys)
    np.testing.assert_allclose(picks, [0.25, 0, 0.75], atol=0.01)


def test_a_place_looks_the_same_however_it_is_asked_for():
    key = np.asarray(11, np.uint64)
    x, y = (a.astype(np.float32) for a in np.meshgrid(np.arange(500, 560), np.arange(-30, 30)))
    part = np.s_[17:40, 5:50]
    noise = sample_noise.value_noise(x, y, 9, key)
    np.testing.assert_array_equal(sample_noise.value_noise(x[part], y[part], 9, key), noise[part])
    assert -1 <= noise.min() < -0.3 < 0.3 < noise.max() <= 1
    whole, cut = sample_noise.voronoi(x, y, 14, key), sample_noise.voronoi(x[part], y[part], 14, key)
    for name in whole._fields:
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[part], err_msg=name)


def test_voronoi_borders_lie_between_cells():
    key = np.asarray(3, np.uint64)
    x, y = (a.astype(np.float32) for a in np.meshgrid(np.arange(100), np.arange(100)))
    cells = sample_noise.voronoi(x, y, 20, key)
    assert cells.border.min() >= 0
    change = cells.key[:, 1:] != cells.key[:, :-1]
    assert change.any()
    assert np.minimum(cells.border[:, 1:], cells.border[:, :-1])[change].max() <= 1.0
