"""Formats that GIS programs write besides TIFF: the pixels and the place that GDAL reads, and nothing but the file."""

from __future__ import annotations

import re
import shlex
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from followed_advice import COMMAND, shell
from gdal_files import UTM, read_gdal, stored, write_gdal, write_tile
from PIL import Image
from rasterio.rio.main import main_group
from rasterio.shutil import copy
from raw_tiles import CLASSES, random_image, random_label, write_config, write_label

pytestmark = pytest.mark.filterwarnings("ignore")

PLACED = {"crs": "EPSG:32633", "transform": UTM}
KINDS = {
    "a.img": {"driver": "HFA", **PLACED},
    "b.dat": {"driver": "ENVI", **PLACED},
    "c.bil": {"driver": "ENVI", "INTERLEAVE": "BIL"},
    "d.bip": {"driver": "ENVI", "INTERLEAVE": "BIP", "SUFFIX": "ADD"},  # d.bip.hdr
    "e.BSQ": {"driver": "ENVI"},
    "f.img": {"driver": "ENVI", **PLACED},
    "g.bil": {"driver": "EHdr", **PLACED},  # its CRS is in a .prj
    "h.ppm": {"driver": "PNM"},
    "i.tif": {},
}


def tiles_of(run) -> dict:
    assert run.status == 0, run.err
    dataset = run.dataset()
    return {tile.id: (tile, stored(dataset, tile)) for tile in dataset.tiles("train")}


def test_pixels_and_places_are_those_of_gdal(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    paths = {
        name[0]: write_tile(root, name, random_image(seed), **kind) for seed, (name, kind) in enumerate(KINDS.items())
    }
    (root / "notes.dat").write_text("no image: it has no header")
    tiles = tiles_of(stage(root))
    assert tiles.keys() == paths.keys()
    for name, path in paths.items():
        tile, values = tiles[name]
        np.testing.assert_array_equal(values, read_gdal(path), name)
        has_place = "crs" in KINDS[path.name]
        assert (tile.geo is not None and tile.geo.transform == tuple(UTM)[:6]) == has_place, name


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    [
        ("a.img", {"driver": "HFA", "COMPRESSED": "YES"}, "int16"),
        ("a.dat", {"driver": "ENVI"}, "int16"),
        ("a.asc", {"driver": "AAIGrid"}, "int32"),
        ("a.pgm", {"driver": "PNM"}, "uint16"),
    ],
)
def test_other_types_of_values(name, kind, dtype, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, scale={"method": "range", "low": 0, "high": 65535 if dtype != "int16" else 4000})
    image = random_image(1, bands=1, dtype="uint16").astype(dtype)
    write_tile(root, "a.tif", image, crs=PLACED["crs"], transform=UTM)
    source = root / "train/images/a.tif"
    copy(source, root / "train/images" / name, **kind)
    source.unlink()
    ((tile, values),) = tiles_of(stage(root)).values()
    np.testing.assert_array_equal(values.astype(int) - (32768 if dtype == "int16" else 0), image)
    if name != "a.pgm":
        assert tile.geo.transform == tuple(UTM)[:6]


def test_a_gif_shows_its_colours_and_a_transparent_one_has_no_data(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    indexes = random_label(3)
    image = Image.fromarray(indexes, "P")
    image.putpalette([9, 8, 7, 255, 0, 0, 0, 0, 255])
    write_label(root / "train/labels/a.png", random_label(1))
    (root / "train/images").mkdir()
    image.save(root / "train/images/a.gif", transparency=2)
    run = stage(root)
    ((tile, values),) = tiles_of(run).values()
    valid = run.dataset().read_valid("train", tile)
    np.testing.assert_array_equal(valid, indexes != 2)
    np.testing.assert_array_equal(values[valid], np.array([[9, 8, 7], [255, 0, 0], [0, 0, 255]])[indexes[valid]])


@pytest.mark.parametrize(
    ("name", "driver"), [("a.img", "HFA"), ("a.asc", "AAIGrid"), ("a.pgm", "PNM"), ("a.gif", "GIF")]
)
def test_labels(name, driver, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    write_tile(root, "a.tif", random_image(1), **PLACED)
    png, label = root / "train/labels/a.png", root / "train/labels" / name
    if driver == "GIF":
        Image.open(png).save(label)
    else:
        write_gdal(tmp_path / "label.tif", random_label(1)[:, :, np.newaxis], **PLACED)
        copy(tmp_path / "label.tif", label, driver=driver)
    png.unlink()
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    np.testing.assert_array_equal(dataset.read_label("train", dataset.tiles("train")[0]), random_label(1))


def test_one_erdas_file_for_all_labels(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, labels="all.img")
    write_gdal(root / "train/images/a.tif", random_image(1), **PLACED)
    write_gdal(root / "all.img", random_label(1, 40)[:, :, np.newaxis], driver="HFA", **PLACED)
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    np.testing.assert_array_equal(dataset.read_label("train", dataset.tiles("train")[0]), random_label(1, 40)[:24, :24])


@pytest.mark.parametrize("name", ["a.img", "b.dat", "c.bil", "g.bil", "h.ppm"])
@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_a_truncated_file_is_no_image_with_zeros(name, kept, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    path = write_tile(root, name, random_image(1), **KINDS[name])
    kept = 0.5 if name == "a.img" else kept  # the end of its last block is beyond the image
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    run = stage(root)
    assert run.status == 2
    assert "truncated" in run.error


def follow(command: str, folder: Path, monkeypatch) -> str:
    """What a command of an error line prints, run in this process."""
    program, *arguments = shlex.split(command)
    monkeypatch.chdir(folder)
    if program == "rio":
        result = CliRunner().invoke(main_group, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout
    assert (program, arguments[0]) == ("python", "-c")
    monkeypatch.setattr(sys, "argv", ["-c", *arguments[2:]])
    exec(arguments[1], {})
    return ""


PALETTE = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def several(path: Path) -> None:
    """Two images, one after the other, in one file."""
    frames = [Image.fromarray(random_label(seed), "P") for seed in (1, 2)]
    for frame in frames:
        frame.putpalette(PALETTE.ravel().tolist())
    if path.suffix == ".webp":
        frames = [frame.convert("RGB") for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("role", ["images", "labels"])
@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif", ".tiff"])
def test_of_several_images_in_a_file_the_first_is_written_as_the_line_says(role, suffix, tmp_path, stage):
    root = tmp_path / "raw"
    colours = {f"{r},{g},{b}": name for (r, g, b), name in zip(PALETTE.tolist(), CLASSES, strict=True)}
    write_config(root, **({"label_colours": colours} if (role, suffix) == ("labels", ".webp") else {}))
    write_tile(root, "a.tif", random_image(1))
    (old,) = (root / "train" / role).iterdir()
    old.unlink()
    path = old.with_suffix(suffix)
    several(path)
    error = stage(root).error
    found = " in the TIFF, found 2" if suffix.startswith(".tif") else ", found an animation of 2 frames"
    assert f"{role}/a{suffix}: expected one image{found}" in error
    shell(re.search(rf"move this one out: {COMMAND}", error)[1], path.parent)
    path.unlink()
    run = stage(root)
    ((tile, values),) = tiles_of(run).values()
    if role == "labels":
        np.testing.assert_array_equal(run.dataset().read_label("train", tile), random_label(1))
    else:
        np.testing.assert_array_equal(values, PALETTE[random_label(1)])


def test_a_file_of_all_labels_or_of_a_band_holds_one_image_too(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, labels="all.tif")
    write_gdal(root / "train/images/a.tif", random_image(1), **PLACED)
    several(root / "all.tif")
    assert "all.tif: expected one image in the TIFF, found 2" in stage(root).error
    root = tmp_path / "bands"
    write_config(root, bands=["{id}_1.tif", "{id}_2.tif"])
    write_tile(root, "a_1.tif", random_image(1, bands=1))
    several(root / "train/images/a_2.tif")
    (root / "train/labels/a_1.png").rename(root / "train/labels/a.png")
    assert "expected one image in the TIFF, found 2" in stage(root).error


def test_an_animation_of_one_frame_is_an_image(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    path = write_tile(root, "a.png", random_image(1), driver="PNG")
    data = path.read_bytes()
    frame = struct.pack(">IIIIIHHBB", 0, 24, 24, 0, 0, 1, 1, 0, 0)
    chunks = [(b"acTL", struct.pack(">II", 1, 0)), (b"fcTL", frame)]
    added = [
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    ]
    path.write_bytes(data[:33] + b"".join(added) + data[33:])
    ((_, values),) = tiles_of(stage(root)).values()
    np.testing.assert_array_equal(values, random_image(1))


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".ntf", lambda tif, new: copy(tif, new, driver="NITF")),
        (".nc", lambda tif, new: copy(tif, new, driver="netCDF")),
        (
            ".h5",
            lambda tif, new: (
                copy(tif, f"{new}.nc", driver="netCDF", FORMAT="NC4", WRITE_BOTTOMUP="NO"),
                Path(f"{new}.nc").rename(new),
            ),
        ),
        (".npy", lambda tif, new: np.save(new, random_image(1))),
    ],
)
def test_what_is_not_read_is_converted_as_the_line_says(suffix, write, tmp_path, stage, monkeypatch):
    root = tmp_path / "raw"
    write_config(root)
    path = write_tile(root, "a.tif", random_image(1), **PLACED)
    write(path, path.with_suffix(suffix))
    path.unlink()
    first, *then = re.findall(r"((?:rio|python -c) (?:(?! writes| lists|, and move).)*)", stage(root).error)
    names = follow(first, root, monkeypatch).split()
    for command in then:
        follow(command.replace("NAME NAME", " ".join(map(shlex.quote, names))), root, monkeypatch)
    path.with_suffix(suffix).rename(tmp_path / "out")
    ((_, values),) = tiles_of(stage(root)).values()
    np.testing.assert_array_equal(values, random_image(1))


def test_pixels_in_another_file_are_not_followed(tmp_path, stage, monkeypatch):
    root = tmp_path / "raw"
    write_config(root)
    path = write_tile(root, "a.img", random_image(1), driver="HFA", USE_SPILL="YES")
    assert path.with_suffix(".ige").exists()
    error = stage(root).error
    assert "found one whose pixels are in another file (.ige)" in error
    follow(error.split("has all: ")[1].split(", and move")[0], path.parent, monkeypatch)
    for suffix in (".img", ".ige"):
        path.with_suffix(suffix).unlink()
    ((_, values),) = tiles_of(stage(root)).values()
    np.testing.assert_array_equal(values, random_image(1))
