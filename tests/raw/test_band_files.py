"""Images of which each band is a file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gdal_files import write_gdal
from raw_tiles import random_image, random_label, write_config, write_image, write_label

BANDS = ("B02", "B03", "B10")


def write_bands(root: Path, name: str = "{id}_{band}.tif", *, tiles: int = 2, labels: bool = True, **options) -> None:
    for split in ("train", "val") if labels else ("test",):
        for tile in range(tiles):
            image = random_image(tile + len(split), bands=3)
            for number, band in enumerate(BANDS):
                path = root / split / "images" / name.format(id=f"t{tile}", band=band)
                write_gdal(path, image[:, :, number : number + 1], **options)
            if labels:
                write_label(root / split / "labels" / f"t{tile}.png", random_label(tile))


@pytest.mark.parametrize("name", ["{id}_{band}.tif", "{band}_{id}.TIF", "{id}.{band}.jp2"])
def test_the_pattern_is_recognised_and_following_the_advice_reads_it(name, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    options = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"} if name.endswith("jp2") else {}
    write_bands(root, name, **options)
    error = stage(root).error
    first = name.format(id="t0", band="B02")
    assert f"{root}: expected one image per tile, found one file per band: {first}" in error
    line = error.split("write ")[1].split(" into dataset.yaml")[0]
    (root / "dataset.yaml").write_text(f"{(root / 'dataset.yaml').read_text()}{line}\n")
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    assert [tile.id for tile in dataset.tiles("train")] == ["t0", "t1"]
    np.testing.assert_array_equal(dataset.read_image("train", dataset.tiles("train")[1]), random_image(6))
    assert stage(root).loaded == run.loaded

    path = root / "train/images" / name.format(id="t1", band="B03")
    write_gdal(path, random_image(99, bands=1), **options)
    changed = stage(root).dataset()
    np.testing.assert_array_equal(
        changed.read_image("train", changed.tiles("train")[1])[:, :, 1:2], random_image(99, bands=1)
    )


def test_images_without_labels_are_recognised_by_the_names_of_bands(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    write_bands(root, labels=False)
    assert 'write bands: ["{id}_B02.tif", "{id}_B03.tif", "{id}_B10.tif"]' in stage(root).error


def test_rows_and_columns_of_a_grid_are_no_bands(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    for row in range(2):
        for column in range(2):
            write_image(root / f"test/images/s_{row}_{column}.tif", random_image(row * 2 + column))
    assert len(stage(root).dataset().tiles("test")) == 4


def test_order_and_choice_are_those_of_dataset_yaml(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, bands=["{id}_B10.tif", "{id}_B02.tif"])
    write_bands(root)
    run = stage(root)
    dataset = run.dataset()
    np.testing.assert_array_equal(dataset.read_image("train", dataset.tiles("train")[0]), random_image(5)[:, :, [2, 0]])
    assert any("4 .tif files among the images are called like none of bands" in line for line in run.checks["warnings"])


def test_bands_of_one_file_and_of_others(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, bands=["{id}.tif", "{id}_nir.tif"])
    write_image(root / "test/images/a.tif", random_image(1))
    write_gdal(root / "test/images/a_nir.tif", random_image(2, bands=1))
    dataset = stage(root).dataset()
    image = dataset.read_image("test", dataset.tiles("test")[0])
    np.testing.assert_array_equal(image, np.dstack([random_image(1), random_image(2, bands=1)]))


def test_what_does_not_fit_together(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, bands=[f"{{id}}_{band}.tif" for band in BANDS])
    write_bands(root)
    path = root / "train/images/t0_B03.tif"
    path.unlink()
    assert f"{path}: expected a file of this band, found none" in stage(root).error
    write_gdal(path, random_image(1, 12, bands=1))
    assert "expected bands of one size, found 12x12 and 24x24 px" in stage(root).error
    write_gdal(path, random_image(1, bands=1, dtype="uint16"))
    assert "expected bands of one type, found uint16, uint8" in stage(root).error
    write_config(root, bands=["B02.tif", "{id}_B03.tif"])
    assert "with {id}" in stage(root).error
    write_config(root, bands=["{id}_B02.tif", 3])
    assert "numbers of bands or names of files" in stage(root).error


def test_bands_in_folders_of_their_own_are_staged_in_the_order_of_bands(tmp_path, stage):
    root = tmp_path / "raw"
    for split, count in {"train": 2, "test": 1}.items():
        for tile in range(count):
            image = random_image(tile + len(split))
            for number, band in enumerate(("red", "green", "nir")):
                write_gdal(root / f"A_{split}/{split}_{band}/{band}_t{tile}.tif", image[:, :, number : number + 1])
            if split == "train":
                write_label(root / f"A_{split}/{split}_gt/gt_t{tile}.png", random_label(tile))
    write_config(root)
    error = stage(root).error
    assert 'write bands: ["*_green/green_{id}.tif", "*_nir/nir_{id}.tif", "*_red/red_{id}.tif"] in' in error
    write_config(root, bands=["*_red/red_{id}.tif", "*_nir/nir_{id}.tif"])
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    assert [tile.id for tile in dataset.tiles("train")] == ["t0", "t1"]
    for split, tiles in (("train", 2), ("test", 1)):
        for number, tile in enumerate(dataset.tiles(split)):
            expected = random_image(number + len(split))[:, :, [0, 2]]
            np.testing.assert_array_equal(dataset.read_image(split, tile), expected)
        assert number == tiles - 1
    np.testing.assert_array_equal(dataset.read_label("train", dataset.tiles("train")[1]), random_label(1))

    (root / "A_train/train_nir/nir_t1.tif").unlink()
    assert f"{root}/A_train/train_nir/nir_t1.tif: expected a file of this band, found none" in stage(root).error


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        (["red/{id}.tif", "{id}.tif"], "each after its folder's name"),
        (["{id}/{id}.tif"], "files' names with {id}"),
        (["{id}/red.tif", "red/{id}.tif"], "or of the folder around all"),
        (["../{id}.tif"], "each after its folder's name"),
        (["red/{id}.tif", "rot/{id}.tif"], "bands: expected a folder with images or labels called rot"),
    ],
)
def test_folders_of_bands_that_cannot_be_meant(bands, expected, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, bands=bands)
    write_image(root / "train/red/a.tif", random_image(1, bands=1))
    write_label(root / "train/gt/a.png", random_label(1))
    assert expected in stage(root).err


def test_a_folder_of_bands_for_each_tile(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    images = {f"t{tile}": random_image(tile) for tile in range(2)}
    for tile, image in images.items():
        for number, band in enumerate(BANDS):
            write_gdal(root / f"train/images/{tile}/{band}.tif", image[:, :, number : number + 1])
        write_label(root / f"train/labels/{tile}.png", random_label(1))
    error = stage(root).error
    assert "found a folder of bands per tile: train/images/t0/B02.tif, train/images/t0/B03.tif, ..." in error
    assert 'write bands: ["{id}/B02.tif", "{id}/B03.tif", "{id}/B10.tif"] in dataset.yaml' in error
    write_config(root, bands=["{id}/B10.tif", "{id}/B02.tif"])
    run = stage(root)
    assert run.status == 0 and "2 .tif files next to bands are called like none of bands and are not used" in run.err
    dataset = run.dataset()
    for tile in dataset.tiles("train"):
        np.testing.assert_array_equal(dataset.read_image("train", tile), images[tile.id][:, :, [2, 0]])
        np.testing.assert_array_equal(dataset.read_label("train", tile), random_label(1))
    assert stage(root).loaded == run.loaded

    (root / "train/images/t1/B02.tif").unlink()
    assert f"{root}/train/images/t1/B02.tif: expected a file of this band, found none (add it" in stage(root).error


def test_bands_deep_in_the_folder_of_a_tile(tmp_path, stage):
    """As in Sentinel-2 products; what says that it is a label is no band."""
    root = tmp_path / "raw"
    write_config(root, bands=["{id}.SAFE/*/R10m/*_B04_10m.tif", "{id}.SAFE/*/R10m/*_B03_10m.tif"])
    image = random_image(1)
    for number, band in enumerate(("B04", "B03", "B02")):
        path = root / f"train/S2A_{number // 9}.SAFE/GRANULE/R10m/T33_{band}_10m.tif"
        write_gdal(path, image[:, :, number : number + 1])
    write_label(root / "train/labels/S2A_0.png", random_label(1))
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    np.testing.assert_array_equal(dataset.read_image("train", dataset.tiles("train")[0]), image[:, :, :2])
