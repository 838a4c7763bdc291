"""Commands of error lines, pasted into a shell: names of files stay names, whatever they hold."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
import yaml
from followed_advice import COMMAND, IMAGE, IMAGES, LABEL, LABELS, add_lines, base, shell
from gdal_files import read_gdal, write_gdal
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from raw_tiles import write_label

from landseg.contracts.errors import DataError
from landseg.raw.commands import cutting_command
from landseg.raw.images.formats import check_one_image
from landseg.raw.tiff.checks import too_many_bands

pytestmark = pytest.mark.filterwarnings("ignore")

STEM = "o'hare $(touch PWNED) `touch PWNED`;touch PWNED;\"&"
ONE_HOT = np.eye(5, dtype=np.uint8)[LABELS]


def in_a_shell(command: str, folder: Path) -> None:
    shell(command, folder)
    assert not list(folder.rglob("PWNED*"))


def animation(path: Path) -> None:
    frames = [Image.fromarray(values, "L") for values in (LABELS, 4 - LABELS)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def masked(path: Path) -> None:
    write_gdal(path, IMAGES)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(np.full(LABELS.shape, 255, np.uint8))


class Case(NamedTuple):
    """A fault in a file, what its line says to run, and what that writes."""

    folder: str
    suffix: str
    write: Callable[[Path], object]
    written: str
    expected: np.ndarray


CASES = {
    "cut": Case("images", ".tif", lambda p: (write_gdal(p, IMAGES), os.truncate(p, (2 << 30) + 1)), "_0_0.tif", IMAGES),
    "half the size": Case("labels", ".png", lambda p: write_label(p, LABELS[::2, ::2].copy()), ".png", LABELS),
    "one-hot": Case("labels", ".tif", lambda p: write_gdal(p, ONE_HOT), ".png", LABELS),
    "mask": Case("images", ".tif", masked, ".tiff", IMAGES),
    "animation": Case("images", ".gif", animation, ".png", LABELS),
    "array": Case("images", ".npy", lambda p: np.save(p, IMAGES), ".tif", IMAGES),
}


@pytest.mark.parametrize("name", CASES)
def test_names_in_a_command_are_no_code(name, tmp_path, stage):
    case, root = CASES[name], tmp_path / "raw"
    base(root)
    old = root / (IMAGE if case.folder == "images" else LABEL)
    for path in (root / IMAGE, root / LABEL):
        path.rename(path.with_stem(STEM))
    old.with_stem(STEM).unlink()
    case.write(old.with_name(STEM + case.suffix))
    run = stage(root)
    match = re.search(COMMAND, run.error)
    assert match, run.error
    in_a_shell(match[1], root if case.suffix == ".npy" else old.parent)
    found = read_gdal(old.with_name(STEM + case.written))
    expected = case.expected if name != "half the size" else LABELS[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_the_name_of_polygons_is_no_code(tmp_path, stage):
    stem = STEM.partition(";")[0]  # pyogrio reads no name with a semicolon
    root = tmp_path / "raw"
    base(root)
    (root / LABEL).unlink()
    ring = "<LinearRing><coordinates>1,1,0 2,1,0 2,2,0 1,1,0</coordinates></LinearRing>"
    mark = f"<Placemark><Polygon><outerBoundaryIs>{ring}</outerBoundaryIs></Polygon></Placemark>"
    text = f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document>{mark}</Document></kml>'
    (root / f"{stem}.kml").write_text(text)
    add_lines(root, yaml.safe_dump({"labels": f"{stem}.kml"}))
    match = re.search(COMMAND, stage(root).error)
    assert match
    in_a_shell(match[1], root)
    assert (root / f"{stem}.gpkg").is_file()


def test_names_in_commands_of_rio_are_no_code(tmp_path):
    write_gdal(tmp_path / f"{STEM}.tif", IMAGES)
    calculate = re.search(r"(rio calc .*) for bands 3, 2 and 1", str(too_many_bands(20, f"here/{STEM}.tif")))
    assert calculate
    in_a_shell(calculate[1], tmp_path)
    np.testing.assert_array_equal(read_gdal(tmp_path / f"{STEM}_bands.tif"), IMAGES[..., 2::-1])
    write_gdal(tmp_path / f"{STEM}.img", IMAGES, driver="HFA")
    (tmp_path / f"{STEM}.tif").unlink()
    with pytest.raises(DataError) as error:
        check_one_image(b"ExternalRasterDMS\0", "HFA", f"here/{STEM}.img")
    convert = re.search(r"(rio convert .*), and move", error.value.hint)
    assert convert
    in_a_shell(convert[1], tmp_path)
    np.testing.assert_array_equal(read_gdal(tmp_path / f"{STEM}.tif"), IMAGES)


def cut(path: Path) -> Path:
    """The last of the parts of 4 px that the command makes of a file of 9 x 7 px."""
    in_a_shell(cutting_command(path).replace("n = 4096", "n = 4"), path.parent)
    assert len(list(path.parent.glob(f"{path.stem}_*_*.???"))) == 6
    return path.with_stem(f"{path.stem}_8_4")


VALUES = np.arange(9 * 7, dtype=np.uint8).reshape(9, 7)


def test_cut_images_keep_their_masks(tmp_path):
    write_gdal(tmp_path / "a.tif", VALUES[..., None])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_mask((VALUES % 3 > 0).astype(np.uint8) * 255)
    with rasterio.open(cut(tmp_path / "a.tif")) as part:
        np.testing.assert_array_equal(part.read(1), VALUES[8:, 4:])
        np.testing.assert_array_equal(part.read_masks(1) > 0, VALUES[8:, 4:] % 3 > 0)
    assert not list(tmp_path.glob("*.msk"))


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_cut_labels_keep_their_palettes(name, tmp_path):
    label = Image.fromarray(VALUES, "P")
    label.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    label.save(tmp_path / name)
    with Image.open(cut(tmp_path / name)) as part:
        assert part.mode == "P"
        np.testing.assert_array_equal(np.asarray(part), VALUES[8:, 4:])
        np.testing.assert_array_equal(np.asarray(part.convert("RGB"))[..., 0], VALUES[8:, 4:])
        assert np.all(np.asarray(part.convert("RGB"))[..., 2] == 7)


def test_cut_images_keep_their_control_points(tmp_path):
    points = [GroundControlPoint(row, column, 10.0 + column, 50.0 - row) for row, column in ((0, 0), (0, 7), (9, 0))]
    write_gdal(tmp_path / "a.tif", VALUES[..., None])
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.gcps = points, rasterio.CRS.from_epsg(4326)
    with rasterio.open(cut(tmp_path / "a.tif")) as part:
        found = [(point.row + 8, point.col + 4, point.x, point.y) for point in part.gcps[0]]
    assert found == [(point.row, point.col, point.x, point.y) for point in points]


def test_cut_images_keep_their_rpcs(tmp_path):
    numbers = [1.0] * 20
    write_gdal(tmp_path / "a.tif", VALUES[..., None])
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.rpcs = RPC(0, 1, 0, 1, numbers, numbers, 100, 50, 0, 1, numbers, numbers, 200, 60)
    with rasterio.open(cut(tmp_path / "a.tif")) as part:
        assert (part.rpcs.line_off, part.rpcs.samp_off) == (92, 196)


def test_what_cannot_be_cut_without_loss_becomes_a_tiff(tmp_path):
    write_gdal(tmp_path / "a.jpg", VALUES[..., None], driver="JPEG")
    whole = read_gdal(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_gdal(cut(tmp_path / "a.jpg").with_suffix(".tif")), whole[8:, 4:])
