"""Images of any kind become plain TIFFs with the pixels that GDAL reads."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from gdal_files import FORMATS, UTM, read_gdal, staged_bytes, stored, write_tile
from PIL import Image
from raw_tiles import random_image, random_label, write_config, write_image, write_label, write_raw

from landseg.raw.images import gdal
from landseg.raw.sources import reading
from landseg.raw.sources.source import FolderSource
from landseg.raw.sources.source_file import SourceFile


@pytest.mark.filterwarnings("ignore")
def test_pixels_are_those_of_gdal(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    paths = {}
    for seed, (name, options) in enumerate(FORMATS.items()):
        image = random_image(seed) // (2 if "NBITS" in options else 1)
        paths[name[0]] = write_tile(root, name, image, **options)
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    tiles = {tile.id: tile for tile in dataset.tiles("train")}
    assert tiles.keys() == paths.keys()
    for name, path in paths.items():
        np.testing.assert_array_equal(dataset.read_image("train", tiles[name]), read_gdal(path), name)
        assert (tiles[name].source_image_sha256 is None) == (name == "a")
    assert tiles["g"].geo.transform == (10.0, 0.0, 600000.0, 0.0, -10.0, 5400000.0)
    assert dataset.manifest.source_values is None  # the same values in another file

    assert stage(root).loaded == run.loaded
    write_tile(root, "k.png", random_image(50), driver="PNG")
    more = stage(root)  # with what was transcoded before taken over
    assert [shard.path for shard in more.loaded.document.splits["train"].shards[:1]] == [
        shard.path for shard in run.loaded.document.splits["train"].shards
    ]


def test_plain_tiles_are_stored_as_they_are_without_gdal(tmp_path, stage, monkeypatch):
    raw = write_raw(tmp_path / "raw", dtype="uint16")
    monkeypatch.setattr(gdal, "load", lambda: pytest.fail("opened by GDAL"))
    run = stage(raw)
    assert run.status == 0, run.err
    dataset = run.dataset()
    (tile, *_) = dataset.tiles("train")
    source = (raw / "train/images" / f"{tile.id}.tif").read_bytes()
    assert staged_bytes(dataset, tile) == source
    assert "rules" not in dataset.manifest.model_dump()


@pytest.mark.parametrize(("dtype", "offset"), [("int16", 32768), ("int8", 128)])
def test_signed_values_are_stored_exactly_and_scaled_in_their_own_units(dtype, offset, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, scale={"method": "range", "low": -100, "high": 100})
    limits = np.iinfo(dtype)
    image = np.random.default_rng(0).integers(limits.min, limits.max + 1, (24, 24, 2)).astype(dtype)
    image[0, :4, 0] = limits.min, limits.max, -100, 100
    write_tile(root, "a.tif", image)
    dataset = stage(root).dataset()
    (tile,) = dataset.tiles("train")
    np.testing.assert_array_equal(stored(dataset, tile).astype(np.int64) - offset, image)
    assert dataset.manifest.source_values.first == (-offset, -offset)
    expected = np.floor(np.clip((image.astype(float) + 100) * 255 / 200, 0, 255) + 0.5)
    np.testing.assert_array_equal(dataset.read_image("train", tile), expected)


def test_percentiles_of_signed_values_are_told_in_their_own_units(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    write_tile(root, "a.tif", np.full((24, 24, 3), -300, np.int16) + np.arange(24, dtype=np.int16)[:, None, None])
    run = stage(root)
    assert "(-300 to -277, -300 to -277, -300 to -277) become 0-255" in run.checks["warnings"][-1]
    assert run.checks["splits"]["train"]["band_mean"] == [-288.5] * 3


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint32", "int32"])
def test_wide_values_need_a_scale_and_the_one_that_is_proposed_works(dtype, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    image = np.random.default_rng(0).random((24, 24, 3)) * 1000
    image[:2] = np.nan if dtype.startswith("f") else 0
    path = write_tile(root, "a.tif", image.astype(dtype))
    run = stage(root)
    assert run.status == 2
    assert f"{dtype} images need a scale: values of train run from" in run.error
    line = run.error.split("write ")[1].split(" (percentiles")[0]
    config = root / "dataset.yaml"
    config.write_text(f"{config.read_text()}\n{line}\n")
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    (tile,) = dataset.tiles("train")
    values, source = stored(dataset, tile), dataset.manifest.source_values
    low, high = (np.array(side) for side in (source.first, np.array(source.first) + 65535 * np.array(source.step)))
    truth = read_gdal(path).astype(float)
    back = source.first + values * np.array(source.step)
    known = np.isfinite(truth)
    np.testing.assert_allclose(
        back[known], np.clip(truth, low, high)[known], atol=1e-6 if source.step[0] == 1 else source.step[0] / 2 + 1e-6
    )
    valid = dataset.read_valid("train", tile)
    assert (valid is None) if not dtype.startswith("f") else (valid == known.all(axis=2)).all()


def test_eight_bits_saved_as_wider_integers_come_back(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    write_tile(root, "a.tif", random_image(1).astype(np.int32))
    line = stage(root).error.split("write ")[1].split(" (all values of 8 bits)")[0]
    (root / "dataset.yaml").write_text(f"{(root / 'dataset.yaml').read_text()}{line}\n")
    dataset = stage(root).dataset()
    np.testing.assert_array_equal(dataset.read_image("train", dataset.tiles("train")[0]), random_image(1))


def test_a_compression_that_gdal_lacks_is_named(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    path = write_tile(root, "a.tif", random_image(1, bands=1))
    write_image(path, random_image(1, bands=1)[:, :, 0], compression="jpegxl")
    run = stage(root)
    assert run.status == 0 or "the compression JXL is not supported by the GDAL that is installed" in run.error


def test_single_bits_are_zeros_and_ones(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    path = write_tile(root, "a.tif", random_image(1, bands=1))
    write_image(path, random_image(1, bands=1)[:, :, 0] > 99)
    dataset = stage(root).dataset()
    image = dataset.read_image("train", dataset.tiles("train")[0])
    np.testing.assert_array_equal(image, random_image(1, bands=1) > 99)


def test_percentiles_of_floats(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, scale={"method": "percentile", "low": 10, "high": 90})
    image = np.linspace(0, 100, 24 * 24).astype(np.float32).reshape(24, 24, 1)
    image[0, 0] = np.nan
    write_tile(root, "a.tif", image)
    dataset = stage(root).dataset()
    source = dataset.manifest.source_values
    assert source.first[0] == pytest.approx(10, abs=0.3)
    assert source.first[0] + 65535 * source.step[0] == pytest.approx(90, abs=0.3)
    (tile,) = dataset.tiles("train")
    assert dataset.read_image("train", tile)[[1, 12, 23], 0, 0].tolist() == pytest.approx([0, 128, 255], abs=2)


def test_a_scale_in_other_units_is_warned_of(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", dtype="uint16", scale={"method": "range", "low": 0, "high": 1})
    warnings = [line for line in stage(raw).checks["warnings"] if "clips" in line]
    assert len(warnings) == 3  # one for each split
    assert "100 % of band 2 (values from 0 to 3999, scale 0-1)" in warnings[0]
    write_config(raw, scale={"method": "range", "low": 0, "high": 4000})
    assert not [line for line in stage(raw).checks["warnings"] if "clips" in line]


@pytest.mark.parametrize("name", ["b.png", "c.jpg", "d.jp2", "e.webp", "f.bmp", "g.tif", "h.tiff", "j.tif"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_one_line(name, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    path = write_tile(root, name, random_image(1) // 2, **FORMATS[name])
    write_tile(root, "whole.tif", random_image(2))
    data = path.read_bytes()
    for cut in (len(data) // 2, 40):
        path.write_bytes(data[:cut])
        run = stage(root)
        assert run.status == 2
        assert str(path) in run.error
        assert "damaged" in run.error or "truncated" in run.error
        assert "vsimem" not in run.error
        assert len([line for line in run.err.splitlines() if not line.startswith(("staging ", "reading "))]) == 1


@pytest.mark.filterwarnings("ignore")
def test_gdal_writes_nothing_to_stderr(tmp_path):
    raw = write_raw(tmp_path / "raw")
    for name in ("b.png", "c.jpg", "d.jp2", "g.tif"):
        path = write_tile(raw, name, random_image(1), **FORMATS[name])
        path.write_bytes(path.read_bytes()[:-100])
    argv = ["stage-data", "--source", str(raw), "--storage-uri", str(tmp_path / "store"), "--num-workers", "1"]
    run = subprocess.run([sys.executable, "-m", "landseg", *argv], capture_output=True, text=True, check=False)
    lines = [line for line in run.stderr.splitlines() if not line.startswith("staging ")]
    assert len(lines) == 1
    assert "4 problems" in lines[0]


def test_large_headers_are_refused_before_pixels_are_read(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", scenes={"max_px": 65536, "tile_px": 512, "overlap_px": 64})
    (raw / "train/images/t0000.tif").unlink()
    path = raw / "train/images/t0000.png"
    Image.fromarray(random_image(1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 16384, 16384)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert "at most 512 MiB decoded, the header asks for 768 MiB" in stage(raw).error


def test_bands_that_were_saved_as_pages(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    array = random_image(1, bands=5)
    path = write_tile(root, "a.tif", array)
    tifffile.imwrite(path, array)
    error = stage(root).error
    assert "found 24 of 24x5, which look like the rows of an array of shape (24, 24, 5)" in error
    exec(error.split("as one image: ")[1].rstrip(")") + ")", {"tifffile": tifffile, "path": path, "array": array})
    dataset = stage(root).dataset()
    np.testing.assert_array_equal(dataset.read_image("train", dataset.tiles("train")[0]), array)

    tifffile.imwrite(path, array.transpose(2, 0, 1))
    error = stage(root).error
    assert "found 5 of 24x24" in error
    code = error.split("if they are bands, ")[1].split(", of shape")[0]
    exec(code, {"tifffile": tifffile, "path": path, "array": array.transpose(2, 0, 1)})
    dataset = stage(root).dataset()
    np.testing.assert_array_equal(dataset.read_image("train", dataset.tiles("train")[0]), array)


SCENES = {"max_px": 64, "tile_px": 64, "overlap_px": 8}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "dtype"), [("a.png", "uint8"), ("a.tif", "int16"), ("a.tif", "float32")])
def test_scenes_of_any_kind_are_cut(name, dtype, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, scenes=SCENES, scale={"method": "range", "low": 0, "high": 65535})
    image = (np.random.default_rng(1).integers(0, 250, (90, 70, 3))).astype(dtype)
    options = {"driver": "PNG"} if name.endswith("png") else {"nodata": 7, "crs": "EPSG:32633", "transform": UTM}
    image[10:20, 30:60] = 7
    write_tile(root, name, image, **options)
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    tiles = dataset.tiles("train")
    assert len(tiles) == 4
    for tile in tiles:
        window = np.s_[tile.scene.y : tile.scene.y + 64, tile.scene.x : tile.scene.x + 64]
        valid = dataset.read_valid("train", tile)
        lacks = (image[window] == 7).any(axis=2) if dtype == "float32" else (image[window] == 7).all(axis=2)
        if name.endswith("png"):
            lacks[:] = False
            np.testing.assert_array_equal(stored(dataset, tile), image[window])
        else:
            assert tile.geo.transform[2] == 600000 + 10 * tile.scene.x
            source = dataset.manifest.source_values
            back = source.first + stored(dataset, tile) * np.array(source.step)
            np.testing.assert_array_equal(back[~lacks], image[window][~lacks])
        np.testing.assert_array_equal(np.ones(lacks.shape, bool) if valid is None else valid, ~lacks)
        assert (dataset.read_label("train", tile)[lacks] == 255).all()


def test_an_image_beside_a_plain_one_of_another_size_is_its_own(tmp_path, stage):
    """A uint16 PNG among uint16 TIFFs is one of them."""
    raw = write_raw(tmp_path / "raw", dtype="uint16")
    write_tile(raw, "z.png", random_image(9, dtype="uint16"), driver="PNG")
    assert stage(raw).status == 0
    write_image(raw / "train/images/t0000.tif", random_image(1))
    assert "expected 3 bands of uint16, as in most images, found 3 bands of uint8" in stage(raw).error


@pytest.mark.filterwarnings("ignore")
def test_large_files_are_mapped(tmp_path, stage, monkeypatch):
    """What is staged is the same whether files are read or mapped: plain ones, and those that GDAL decodes."""
    root = tmp_path / "raw"
    write_config(root, scenes=SCENES)
    for seed, (name, options) in enumerate({**FORMATS, "k.tif": {"compress": "LZW"}, "l.tif": {"nodata": 7}}.items()):
        write_tile(root, name, random_image(seed) // (2 if "NBITS" in options else 1), **options)
    write_tile(root, "scene.tif", np.tile(random_image(60), (4, 4, 1)))
    expected = stage(root).dataset().manifest
    were_read = []

    def read(source: FolderSource, file: SourceFile) -> bytes:
        were_read.append(file.path)
        return Path(source.where(file.path)).read_bytes()

    monkeypatch.setattr(reading, "MAPPED_BYTES", 0)
    monkeypatch.setattr(FolderSource, "read", read)
    shutil.rmtree(tmp_path / "store")
    assert stage(root).dataset().manifest.dataset_id == expected.dataset_id
    assert were_read and not [path for path in were_read if "/images/" in path]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_palettes_become_the_colours_that_gdal_sees(suffix, tmp_path, stage):
    colours = np.random.default_rng(2).integers(0, 256, (16, 3)).astype(np.uint8)
    indexes = np.random.default_rng(3).integers(0, 16, (24, 24)).astype(np.uint8)
    write_config(tmp_path / "raw")
    path = tmp_path / f"raw/train/images/t{suffix}"
    path.parent.mkdir(parents=True)
    image = Image.fromarray(indexes, "P")
    image.putpalette(colours.tobytes())
    image.save(path, **({"transparency": 5} if suffix == ".png" else {}))
    write_label(tmp_path / "raw/train/labels/t.png", random_label(1))
    with rasterio.open(path) as file:
        seen = np.array([file.colormap(1)[index] for index in range(16)], np.uint8)[file.read(1)]
    run = stage(tmp_path / "raw")
    assert run.status == 0, run.error
    assert "its values are indexes of a palette: the palette's red, green and blue take their place" in run.out
    dataset = run.dataset()
    (tile,) = dataset.tiles("train")
    np.testing.assert_array_equal(stored(dataset, tile), seen[:, :, :3])
    np.testing.assert_array_equal(stored(dataset, tile), colours[indexes])
    valid = dataset.read_valid("train", tile)
    np.testing.assert_array_equal(np.ones((24, 24), bool) if valid is None else valid, seen[:, :, 3] > 0)
    if suffix == ".png":
        assert valid is not None
        np.testing.assert_array_equal(valid, indexes != 5)
