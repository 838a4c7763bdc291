"""Virtual images are read with the files of the dataset that they refer to, and open nothing else."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from gdal_files import UTM, read_gdal, vrt, write_gdal
from raw_tiles import random_image, random_label, write_config, write_label


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    write_config(root)
    for number in range(3):
        write_gdal(root / f"bands/B0{number}.tif", random_image(number, bands=1), crs="EPSG:32633", transform=UTM)
    write_label(root / "train/labels/a.png", random_label(1))
    (root / "train/images").mkdir(parents=True)
    return root


BANDS = ["../../bands/B00.tif", "../../bands/B01.tif", "../../bands/B02.tif"]


def test_a_virtual_image_is_read_from_a_folder_and_from_an_archive(raw, tmp_path, stage):
    path = raw / "train/images/a.vrt"
    path.write_text(vrt(BANDS))
    run = stage(raw)
    assert run.status == 0, run.err
    dataset = run.dataset()
    (tile,) = dataset.tiles("train")
    np.testing.assert_array_equal(dataset.read_image("train", tile), read_gdal(path))
    assert tile.geo.transform == (10.0, 0.0, 600000.0, 0.0, -10.0, 5400000.0)

    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for file in raw.rglob("*.*"):
            archive.write(file, file.relative_to(raw))
    assert stage(tmp_path / "raw.zip").loaded == run.loaded

    write_gdal(raw / "bands/B01.tif", random_image(7, bands=1))  # the XML stays the same, the image does not
    changed = stage(raw).dataset()
    assert changed.manifest.dataset_id != dataset.manifest.dataset_id
    np.testing.assert_array_equal(changed.read_image("train", changed.tiles("train")[0]), read_gdal(path))


def test_virtual_images_of_virtual_images(raw, stage):
    (raw / "bands/all.vrt").write_text(vrt(["B00.tif", "B01.tif"]))
    (raw / "train/images/a.vrt").write_text(vrt(["../../bands/all.vrt"] * 3, band=2))
    dataset = stage(raw).dataset()
    image = dataset.read_image("train", dataset.tiles("train")[0])
    np.testing.assert_array_equal(image, np.repeat(random_image(1, bands=1), 3, axis=2))


OUTSIDE = "expected a VRT of files inside the dataset"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (vrt(["../../../secret.tif"]), OUTSIDE),
        (vrt(["{secret}"], relative=0), OUTSIDE),
        (vrt(["/vsicurl/http://127.0.0.1:9/a.tif"], relative=0), OUTSIDE),
        (vrt(["http://127.0.0.1:9/a.tif"]), OUTSIDE),
        (vrt(["C:\\\\a.tif"]), OUTSIDE),
        (vrt(["vrt://../secret.tif"]), OUTSIDE),
        (vrt(["../../bands/link.tif"]), "link that leaves it"),
        (vrt(["../../bands/no.tif"]), "refers to bands/no.tif, which is not in the dataset"),
        (vrt(["../../bands/polyglot.jpg"]), "no image of a kind that is read"),
        (vrt(["../../dataset.yaml"]), "no image of a kind that is read"),
        (vrt(["a.vrt"]), "refers to itself"),
        (vrt(BANDS).replace("<VRTRasterBand", '<VRTRasterBand subClass="VRTDerivedRasterBand"'), "is not read"),
        (vrt(BANDS, extra="<GDALWarpOptions/>"), "a VRT with GDALWarpOptions is not read"),
        (vrt(BANDS).replace("</SourceFilename>", "</SourceFilename><OpenOptions/>"), "OpenOptions"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + vrt(BANDS), "image"),
        ('<VRTDataset><!DOCTYPE a [<!ENTITY b "c">]></VRTDataset>', "without a document type"),
        ("<VRTDataset", "the VRT is damaged"),
    ],
)
def test_nothing_outside_of_the_dataset_is_opened(text, expected, raw, tmp_path, stage):
    secret = tmp_path / "secret.tif"
    write_gdal(secret, random_image(1, bands=1))
    if "link" in text:
        (raw / "bands/link.tif").symlink_to(secret)
    inner = vrt([str(secret)], relative=0).encode()
    (raw / "bands/polyglot.jpg").write_bytes(b"\xff\xd8\xff\xfe\x20\x20" + inner)
    (raw / "train/images/a.vrt").write_text(text.replace("{secret}", str(secret)))
    run = stage(raw)
    assert run.status == 2
    assert expected in run.error
    assert len([line for line in run.err.splitlines() if not line.startswith(("staging ", "warning"))]) == 1
