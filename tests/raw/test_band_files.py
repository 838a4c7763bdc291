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
