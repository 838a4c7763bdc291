"""What files say of their bands: images that contradict each other are refused or told, whatever format says it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from followed_advice import COMMAND, shell
from gdal_files import stored, write_gdal
from raw_tiles import random_image, random_label, write_config, write_label

from landseg.raw.images.band_tags import BandTags
from landseg.raw.images.values import Kind
from landseg.raw.probing import _most_frequent

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ["red", "green", "blue"]


def tile(root: Path, stem: str, names=(), units=(), split: str = "train", **options) -> np.ndarray:
    """Write an image whose bands are called so, with scale and offset of each; returns its values."""
    values = random_image(len(stem) + ord(stem[0]))
    path = root / split / "images" / f"{stem}.tif"
    write_gdal(path, values, **options)
    with rasterio.open(path, "r+") as file:
        for band, name in enumerate(names, 1):
            file.set_band_description(band, name)
        if units:
            file.scales, file.offsets = zip(*units, strict=True)
    write_label(root / split / "labels" / f"{stem}.png", random_label(ord(stem[0])))
    return values


def warnings_of(run) -> list[str]:
    assert run.status == 0, run.err
    return [
        f"{found['where']}: {found['problem']}" for found in run.checks["problems"] if found["severity"] == "warning"
    ]


@pytest.mark.parametrize("options", [{}, {"compress": "LERC"}], ids=["plain", "by GDAL"])
def test_bands_in_another_order_are_refused_until_the_line_is_followed(options, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    for stem in "abc":
        tile(root, stem, NAMES)
    values = tile(root, "odd", ["Blue", "green", "RED"], **options)
    error = stage(root).error
    assert "train/images/odd.tif: expected the bands red, green, blue, in this order, found Blue, green, RED" in error
    shell(re.search(COMMAND, error)[0], root / "train/images")
    run = stage(root)
    assert not warnings_of(run)
    dataset = run.dataset()
    found = next(one for one in dataset.tiles("train") if one.id == "odd")
    np.testing.assert_array_equal(stored(dataset, found), values[:, :, ::-1])


def test_images_that_join_a_dataset_later_are_compared_with_it(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    for stem in "abc":
        tile(root, stem, NAMES)
    assert stage(root).status == 0
    tile(root, "odd", NAMES[::-1])
    assert "in this order, found blue, green, red" in stage(root).error


def test_the_order_of_dataset_yaml_counts_and_bands_that_no_model_sees_do_not(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, band_names=NAMES)
    for stem in "ab":
        tile(root, stem, NAMES[::-1])
    assert "expected the bands red, green, blue, in this order, found blue, green, red" in stage(root).error
    write_config(root, band_names=NAMES, bands=[2])
    assert not warnings_of(stage(root))


def test_other_names_are_a_warning_and_no_names_or_numbers_are_none(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    for stem, names in {"a": NAMES, "b": NAMES, "c": (), "d": ["Band 1", "Band 2", "Band 3"], "e": ["Red"]}.items():
        tile(root, stem, names)
    tile(root, "odd", ["nir", "red", "green"])
    (warning,) = warnings_of(stage(root))
    assert re.search(r"odd.tif: its bands are called nir, red, green, those of most images red, green, blue$", warning)


@pytest.mark.parametrize("beside", [False, True])
def test_another_scale_or_offset_is_a_warning(beside, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    for stem in "abc":
        tile(root, stem, units=[(0.0001, 0)] * 3)
    tile(root, "plain")
    tile(root, "odd", units=() if beside else [(0.0001, -0.1)] * 3)
    if beside:
        band = '<PAMRasterBand band="{}"><Offset>-0.1</Offset><Scale>1E-4</Scale></PAMRasterBand>'
        text = "".join(map(band.format, (1, 2, 3)))
        (root / "train/images/odd.tif.aux.xml").write_text(f"<PAMDataset>{text}</PAMDataset>")
    (warning,) = warnings_of(stage(root))
    assert warning.endswith(
        "odd.tif: it declares scale 0.0001 and offset -0.1, most images scale 0.0001 and offset 0: values are taken as "
        "they are stored"
    )


def test_what_most_images_say_is_taken_of_those_that_say_something():
    named, other = Kind(3, "uint8", 0, BandTags(("r", "g", "b"))), Kind(3, "uint8", 0, BandTags((), ((2, 0),) * 3))
    found = _most_frequent([Kind(3, "uint8"), named, Kind(4, "uint8"), other, Kind(3, "uint8")])
    assert found == Kind(3, "uint8", 0, BandTags(("r", "g", "b"), ((2, 0),) * 3))
