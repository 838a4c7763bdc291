"""Pixels without data are nobody's class: left out of statistics, ignored in labels, carried along as a mask."""

from __future__ import annotations

import re

import numpy as np
import pytest
import rasterio
import yaml
from gdal_files import UTM, stored, write_gdal, write_tile
from raw_tiles import random_image, random_label, write_config, write_image, write_label

from landseg.contracts.dataset import SPLITS


def stats(dataset, split="train"):
    return dataset.manifest.splits[split]


@pytest.mark.parametrize("how", ["tag", "yaml", "list", "mask", "alpha", "aux of a TIFF", "aux of a PNG"])
def test_pixels_without_data(how, tmp_path, stage):
    root = tmp_path / "raw"
    fields = {"yaml": {"nodata": 0}, "list": {"nodata": [0, 0, 0]}, "alpha": {"alpha": "mask"}}.get(how, {})
    write_config(root, **fields)
    lacks = np.zeros((24, 24), bool)
    lacks[:, :8] = True
    image = np.maximum(random_image(1), 1)
    image[lacks] = 0
    image[3, 20] = (0, 9, 9)  # a dark value in one band is a value
    options = {"tag": {"nodata": 0}, "mask": {"mask": ~lacks}, "alpha": {"alpha": "YES", "photometric": "RGB"}}
    written = np.dstack([image, np.where(lacks, 0, 255).astype(np.uint8)]) if how == "alpha" else image
    if how.startswith("aux"):
        options[how] = {"driver": "PNG"} if how.endswith("PNG") else {}
        bands = "".join(
            f'<PAMRasterBand band="{band}"><NoDataValue>0.00000000000000E+00</NoDataValue></PAMRasterBand>'
            for band in (1, 2, 3)
        )
    path = write_tile(root, "a.png" if how.endswith("PNG") else "a.tif", written, **options.get(how, {}))
    if how.startswith("aux"):
        path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    write_tile(root, "b.tif", np.dstack([random_image(2), np.full((24, 24), 255, np.uint8)])[:, :, : written.shape[2]])
    label = random_label(1)

    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    first, second = dataset.tiles("train")
    np.testing.assert_array_equal(dataset.read_valid("train", first), ~lacks)
    assert dataset.read_valid("train", second) is None
    np.testing.assert_array_equal(dataset.read_image("train", first), image)  # all bands, alpha not among them
    np.testing.assert_array_equal(dataset.read_label("train", first), np.where(lacks, 255, label))
    known = np.concatenate([image[~lacks], random_image(2).reshape(-1, 3)]).astype(float)
    np.testing.assert_allclose(stats(dataset).band_mean, known.mean(axis=0))
    np.testing.assert_allclose(stats(dataset).band_std, known.std(axis=0))
    counts = {int(value): int(count) for value, count in zip(*np.unique(label[lacks], return_counts=True), strict=True)}
    assert dict(first.unused_labels) == counts
    warnings = run.checks["warnings"]
    assert any(line.startswith("192 px of train are labelled where the image has no data") for line in warnings)
    assert any(line.startswith("192 px of train (16.7 %) have no data") for line in warnings)
    again = stage(root)
    assert again.loaded == run.loaded
    assert again.checks["warnings"] == warnings


def test_declared_nodata_is_a_value_where_dataset_yaml_says_so(tmp_path, stage):
    root = tmp_path / "raw"
    image = random_image(1)
    image[:5] = 0
    write_config(root)
    write_tile(root, "a.tif", image, nodata=0)
    assert stage(root).dataset().tiles("train")[0].validity is not None
    write_config(root, nodata="none")
    dataset = stage(root).dataset()
    (tile,) = dataset.tiles("train")
    assert tile.validity is None
    assert tile.source_label_sha256 is None
    np.testing.assert_array_equal(dataset.read_label("train", tile), random_label(1))
    write_config(root, nodata=7)
    assert stage(root).dataset().tiles("train")[0].validity is None  # in place of what the file declares
    write_config(root, nodata="some")
    assert "field nodata" in stage(root).error


def test_nodata_is_left_out_of_percentiles(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    image = (200 + random_image(1, dtype="uint16") % 100).astype(np.uint16)
    image[:, :10] = 65535
    image[:5, :, 0] = 65535  # bands that do not begin in the same column
    write_tile(root, "a.tif", image, nodata=65535)
    dataset = stage(root).dataset()
    assert min(dataset.schema.scale.low) >= 200
    assert max(dataset.schema.scale.high) < 300


def test_other_nodata_rules_store_tiles_anew(tmp_path, stage):
    """The files are the same, what is stored of them is not."""
    root = tmp_path / "raw"
    image = random_image(1)
    image[:5] = 9
    write_config(root, nodata=9)
    for name in "abc":
        write_tile(root, f"{name}.tif", image)
    first = stage(root).dataset()
    write_config(root, nodata=10)
    second = stage(root).dataset()
    write_config(root, nodata=9)
    assert [dataset.tiles("train")[0].validity is None for dataset in (first, second)] == [False, True]
    assert stage(root).dataset().manifest == first.manifest


def test_parts_that_were_never_written_are_nodata_where_that_is_declared(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    image = np.maximum(random_image(3, 48), 1)
    path = root / "train/images/a.tif"
    write_tile(root, "a.tif", image)
    profile = {"driver": "GTiff", "count": 3, "height": 48, "width": 48, "dtype": "uint8", "sparse_ok": True}
    profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "crs": "EPSG:32633", "transform": UTM}
    for nodata in (0, None):
        with rasterio.open(path, "w", **profile, nodata=nodata) as file:
            file.write(image[:, 16:].transpose(2, 0, 1), window=rasterio.windows.Window(16, 0, 32, 48))
        run = stage(root)
        if nodata is None:
            assert "3 of 9 parts of the TIFF were never written" in run.error
            (root / "dataset.yaml").write_text((root / "dataset.yaml").read_text() + "nodata: 0\n")  # as it says
            assert "say nodata: 0 in dataset.yaml" in run.error
            run = stage(root)
        dataset = run.dataset()
        (tile,) = dataset.tiles("train")
        valid = dataset.read_valid("train", tile)
        assert not valid[:, :16].any()
        assert valid[:, 16:].all()
        np.testing.assert_array_equal(stored(dataset, tile)[:, 16:], image[:, 16:])


def test_alpha_is_told(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    write_tile(root, "a.tif", random_image(1, bands=4), alpha="YES", photometric="RGB")
    (note,) = [line for line in stage(root).checks["warnings"] if "alpha" in line]
    assert "band 4 is alpha by its tag" in note
    line = note.split("sees it: ")[1].split(" leaves")[0]
    (root / "dataset.yaml").write_text((root / "dataset.yaml").read_text() + line + "\n")
    run = stage(root)
    assert run.dataset().schema.bands == (1, 2, 3)
    assert not [line for line in run.checks["warnings"] if "alpha" in line]


def test_tiles_without_any_data(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    for split in SPLITS[:2]:
        write_tile(root, "a.tif", random_image(1), split)
    write_gdal(root / "train/images/empty.tif", np.zeros((24, 24, 3), np.uint8), nodata=0)
    write_label(root / "train/labels/empty.png", random_label(1))
    run = stage(root)
    assert run.status == 0, run.err
    assert "1 image of train without any data (empty)" in run.checks["warnings"]
    np.testing.assert_allclose(stats(run.dataset()).band_mean, random_image(1).reshape(-1, 3).mean(axis=0))


def test_a_label_that_declares_a_class_as_nodata(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    label = random_label(1)
    for split in SPLITS[:2]:
        write_tile(root, "a.tif", random_image(len(split)), split)
        (root / split / "labels/a.png").unlink()
        write_gdal(root / split / "labels/a.tif", label[:, :, None], nodata=0)
    (warning,) = [line for line in stage(root).checks["warnings"] if "declare" in line]
    assert warning.startswith(
        "2 labels declare nodata 0, which dataset.yaml calls class background: if these pixels are"
    )
    write_config(root, classes=["field", "water"])
    lines = warning.split("and write ")[1]
    (root / "dataset.yaml").write_text((root / "dataset.yaml").read_text() + lines + "\n")  # as it says
    run = stage(root)
    assert run.status == 0, run.err
    assert not [line for line in run.checks["warnings"] if "declare" in line]
    dataset = run.dataset()
    expected = np.where(label == 0, 255, label - 1)
    np.testing.assert_array_equal(dataset.read_label("train", dataset.tiles("train")[0]), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_rare_value_that_looks_like_no_data_is_told(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, scale={"method": "percentile"})
    image = (random_image(1) / 255).astype(np.float32)
    image[0, 0] = -9999
    write_tile(root, "a.tif", image)
    run = stage(root)
    assert run.status == 0
    assert "images of train hold -9999: no data?" in run.err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("value", "dtype"), [(-9999, "int16"), (-32768, "int16"), (65535, "uint16")])
def test_a_percentile_that_looks_like_no_data_is_refused_until_dataset_yaml_says_what_it_is(
    value, dtype, tmp_path, stage
):
    root = tmp_path / "raw"
    write_config(root)
    image = random_image(1, dtype="uint16").astype(dtype)
    image[:, :8] = value
    write_tile(root, "a.tif", image)
    run = stage(root)
    assert f"write nodata: {value} in dataset.yaml if it stands for no data" in run.error
    write_config(root, nodata=value)
    run = stage(root)
    assert run.status == 0, run.err
    scale = run.loaded.document.class_schema.scale
    assert max(scale.high) - min(scale.low) < 4000
    write_config(root, nodata="none")
    assert stage(root).status == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("high", "dtype", "scale", "is_told"),
    [
        (4000, "uint16", {"method": "range", "low": 0, "high": 65535}, True),
        (4000, "uint16", {"method": "range", "low": 0, "high": 10000}, False),
        (4, "uint8", None, True),
        (40, "uint8", None, False),
    ],
)
def test_values_that_take_few_levels_are_told(high, dtype, scale, is_told, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, **({} if scale is None else {"scale": scale}))
    write_tile(root, "a.tif", np.random.default_rng(1).integers(1, high, (24, 24, 3)).astype(dtype))
    assert ("take few of the 256 levels that a model sees" in stage(root).err) == is_told


def test_white_pixels_are_told_where_there_are_many(tmp_path, stage):
    root = tmp_path / "raw"
    image = np.minimum(random_image(1), 254)
    image[:, :8] = 255
    write_tile(root, "a.tif", image)
    write_config(root)
    (problem,) = stage(root).checks["problems"]
    assert problem["problem"] == "33 % of its pixels are 255 in all bands: no data?"
    assert problem["action"] == "then write nodata: 255 in dataset.yaml, else nodata: none"


@pytest.mark.parametrize("bands", [1, 3])
def test_pixels_that_are_black_all_through_are_told_until_dataset_yaml_says_what_they_are(bands, tmp_path, stage):
    root = tmp_path / "raw"
    image = np.maximum(random_image(1, bands=bands), 1)
    image[:, :3] = 0
    image[0, :, 0] = 0  # of one band alone

    def told(**fields) -> str:
        write_config(root, **fields)
        write_image(root / "train/images/a.tif", image)
        write_label(root / "train/labels/a.png", random_label(1))
        return " ".join(problem["problem"] for problem in stage(root).checks["problems"])

    assert ("12 % of its pixels are 0 in all bands: no data?" in told()) == (bands > 1)
    for nodata in (0, "none"):
        assert "no data?" not in told(nodata=nodata)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scale", [None, {"method": "percentile"}])
@pytest.mark.parametrize("value", [-3.4028234663852886e38, -9999.0, 65535.0])
def test_a_value_that_looks_like_no_data_and_is_not_declared(value, scale, tmp_path, stage):
    """Otherwise everything measured would become one level of the scale, without a word."""
    root = tmp_path / "raw"
    fields = {} if scale is None else {"scale": scale}
    write_config(root, **fields)
    image = (random_image(1) / 255).astype(np.float32)
    image[:, :8] = value
    write_tile(root, "a.tif", image)
    run = stage(root)
    lines = re.search(
        r"(scale: \{.*?\}|) ?(?:\(percentiles 1 and 99 of the others\), and )?(nodata: [-0-9.e+]+)", run.err
    )
    assert lines, run.err
    assert run.status == 2
    write_config(root, **fields | yaml.safe_load("\n".join(lines.groups())))
    run = stage(root)
    assert run.status == 0 and "no data?" not in run.err
    dataset = run.dataset()
    tile = dataset.tiles("train")[0]
    np.testing.assert_array_equal(dataset.read_valid("train", tile), np.arange(24)[None] >= np.full((24, 1), 8))
    middle = dataset.read_image("train", tile)[:, 8:].astype(float)
    assert np.unique(middle).size > 200  # the values that were measured take the whole scale
