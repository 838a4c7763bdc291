"""Labels and single bands with a header in a file of its own, as of ENVI: read with it, and checked as any other."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from gdal_files import UTM, stored, write_gdal
from raw_tiles import random_image, random_label, write_config

pytestmark = pytest.mark.filterwarnings("ignore")

PLACED = {"crs": "EPSG:32633", "transform": UTM}
IMAGES, LABELS = random_image(1), random_label(1)


def dataset(root: Path, label: str, driver: str, **options) -> Path:
    """One tile, with a label of another format."""
    write_config(root)
    write_gdal(root / "train/images/a.tif", IMAGES, **PLACED)
    write_gdal(root / label, LABELS[..., None], driver=driver, **{**PLACED, **options})
    return root / label


@pytest.mark.parametrize(
    ("name", "driver"), [("a.dat", "ENVI"), ("a.img", "ENVI"), ("a.bsq", "ENVI"), ("a.bil", "EHdr")]
)
def test_a_label_is_read_with_the_header_next_to_it(name, driver, tmp_path, stage):
    dataset(tmp_path / "raw", f"train/labels/{name}", driver)
    run = stage(tmp_path / "raw")
    assert run.status == 0, run.err
    staged = run.dataset()
    np.testing.assert_array_equal(staged.read_label("train", next(iter(staged.tiles("train")))), LABELS)


def test_a_header_that_changes_changes_the_dataset(tmp_path, stage):
    """The same bytes mean other pixels with another header, so that staging again must look at it."""
    label = dataset(tmp_path / "raw", "train/labels/a.dat", "ENVI")
    before = stage(tmp_path / "raw").loaded.document
    header = label.with_suffix(".hdr")
    header.write_text(header.read_text() + "data ignore value = 2\n")
    after = stage(tmp_path / "raw")
    assert after.status == 0 and after.loaded.document != before
    assert "declares nodata 2" in after.err


def test_a_classification_with_colours_keeps_them(tmp_path, stage):
    label = dataset(tmp_path / "raw", "train/labels/a.dat", "ENVI")
    header = label.with_suffix(".hdr")
    text = header.read_text().replace("ENVI Standard", "ENVI Classification")
    header.write_text(text + "classes = 3\nclass lookup = {9, 9, 9, 255, 0, 0, 0, 0, 255}\n")
    colours = {"255,0,0": "background", "9,9,9": "field", "0,0,255": "water"}
    write_config(tmp_path / "raw", label_colours=colours)
    run = stage(tmp_path / "raw")
    assert run.status == 0, run.err
    staged = run.dataset()
    swapped = np.array([1, 0, 2], np.uint8)[LABELS]
    np.testing.assert_array_equal(staged.read_label("train", next(iter(staged.tiles("train")))), swapped)


def test_a_truncated_label_is_called_that(tmp_path, stage):
    label = dataset(tmp_path / "raw", "train/labels/a.dat", "ENVI")
    label.write_bytes(label.read_bytes()[:-1])
    run = stage(tmp_path / "raw")
    assert run.status == 2
    assert "train/labels/a.dat: the file is truncated: expected 576 bytes for 24x24 px, found 575" in run.error


@pytest.mark.parametrize(("name", "driver"), [("a.dat", "ENVI"), ("a.img", "HFA")])
def test_a_label_that_lies_elsewhere_is_an_error_in_every_format(name, driver, tmp_path, stage):
    dataset(tmp_path / "raw", f"train/labels/{name}", driver, transform=UTM @ rasterio.Affine.translation(3, 0))
    run = stage(tmp_path / "raw")
    assert run.status == 2
    assert "expected a label that lies on its image, found one 3 px to the right" in run.error


def test_one_raster_for_all_images_is_read_with_its_header(tmp_path, stage):
    root = tmp_path / "raw"
    dataset(root, "all.dat", "ENVI", transform=UTM @ rasterio.Affine.translation(-8, 0))
    write_config(root, labels="all.dat")
    run = stage(root)
    assert run.status == 0, run.err
    staged = run.dataset()
    expected = np.pad(LABELS[:, 8:], ((0, 0), (0, 8)), constant_values=255)
    np.testing.assert_array_equal(staged.read_label("train", next(iter(staged.tiles("train")))), expected)


def test_bands_are_read_with_the_headers_next_to_them(tmp_path, stage):
    root = tmp_path / "raw"
    dataset(root, "train/labels/a.dat", "ENVI")
    (root / "train/images/a.tif").unlink()
    write_config(root, bands=["{id}_B4.dat", "{id}_B3.dat", "{id}_B2.dat"])
    for band, name in enumerate(("B4", "B3", "B2")):
        write_gdal(root / f"train/images/a_{name}.dat", IMAGES[..., band : band + 1], driver="ENVI", **PLACED)
    run = stage(root)
    assert run.status == 0, run.err
    staged = run.dataset()
    np.testing.assert_array_equal(stored(staged, next(iter(staged.tiles("train")))), IMAGES)


def test_a_fault_of_many_tiles_called_by_numbers_is_one_line(tmp_path, stage):
    write_config(tmp_path / "raw")
    for tile in range(5):
        place = UTM @ rasterio.Affine.translation(24 * tile, 0)
        write_gdal(tmp_path / f"raw/train/images/{tile}.tif", random_image(tile), crs="EPSG:32633", transform=place)
        moved = place @ rasterio.Affine.translation(3, 0)
        label = random_label(tile)[..., None]
        write_gdal(tmp_path / f"raw/train/labels/{tile}.tif", label, crs="EPSG:32633", transform=moved)
    run = stage(tmp_path / "raw")
    assert "5 problems: train/labels/0.tif and 4 others (" in run.error


@pytest.mark.parametrize("name", ["a", "a.bin", "a.2024-05"])
@pytest.mark.parametrize("role", ["images", "labels"])
def test_a_file_without_a_suffix_of_images_is_to_be_renamed(role, name, tmp_path, stage):
    root = tmp_path / "raw"
    dataset(root, "train/labels/a.tif", "GTiff")
    (root / f"train/{role}/a.tif").unlink()
    array = IMAGES if role == "images" else LABELS[..., None]
    write_gdal(
        root / f"train/{role}/{name}", array, driver="ENVI", SUFFIX="ADD" if "." in name else "REPLACE", **PLACED
    )
    error = stage(root).error
    match = re.search(r"1 files have a header .*?: rename (\S+) to (\S+), with its header as \S+, and so on", error)
    assert match, error
    header = next((root / f"train/{role}").glob("*.hdr"))
    (root / match[1]).rename(root / f"train/{role}/a.dat")
    header.rename(root / f"train/{role}/a.hdr")
    assert match[2] == match[1].removesuffix(".bin").removesuffix(".2024-05") + ".dat"
    run = stage(root)
    assert run.status == 0, run.err
    tile = next(iter(run.dataset().tiles("train")))
    np.testing.assert_array_equal(stored(run.dataset(), tile), IMAGES)
    np.testing.assert_array_equal(run.dataset().read_label("train", tile), LABELS)
