"""Every bad input ends with one clear line on stderr, exit status 2, and nothing published."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from raw_tiles import random_image, random_label, write_config, write_image, write_label, write_raw

from landseg.cli.main import main


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def replace_label(raw: Path, array: np.ndarray) -> None:
    write_label(raw / "train/labels/t0001.png", array)


def no_images(raw: Path) -> None:
    shutil.rmtree(raw / "val/images")
    shutil.rmtree(raw / "val/labels")
    (raw / "val/images").mkdir()
    (raw / "val/images/readme.txt").write_text("nothing here")


def rgb_label(raw: Path) -> None:
    Image.fromarray(random_image(1)).save(raw / "train/labels/t0001.png")


def float_image(raw: Path) -> None:
    write_image(raw / "train/images/t0001.tif", random_image(1).astype(np.float32))


def two_images(raw: Path) -> None:
    tifffile.imwrite(raw / "train/images/t0001.tif", np.stack([random_image(1)] * 2), photometric="rgb")


def bomb(raw: Path) -> None:
    path = raw / "train/images/t0001.tif"
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages.first.tags
        for code in (256, 257):
            data[tags[code].valueoffset : tags[code].valueoffset + 2] = b"\xff\xff"
    path.write_bytes(data)


IMAGE, LABEL = "train/images/t0001.tif", "train/labels/t0001.png"
CASES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no such dataset": (shutil.rmtree, ("no such dataset folder",)),
    "no dataset.yaml": (lambda raw: (raw / "dataset.yaml").unlink(), ("has no dataset.yaml",)),
    "no splits": (lambda raw: [shutil.rmtree(raw / s) for s in ("train", "val", "test")], ("train, val, test",)),
    "image without label": (lambda raw: (raw / LABEL).unlink(), (IMAGE, "image without label")),
    "label without image": (lambda raw: (raw / IMAGE).unlink(), (LABEL, "label without image")),
    "size mismatch": (lambda raw: replace_label(raw, random_label(1, 20)), (LABEL, "24x24", "20x20")),
    "value outside": (
        lambda raw: replace_label(raw, random_label(1) + np.uint8(2)),
        (LABEL, "outside the class list: 3 (", "4 (", "0-2 for the 3 classes, or 255"),
    ),
    "truncated TIFF": (lambda raw: truncate(raw / IMAGE), (IMAGE, "truncated")),
    "truncated PNG": (lambda raw: truncate(raw / LABEL), (LABEL, "truncated or damaged")),
    "not a TIFF": (
        lambda raw: (raw / IMAGE).write_bytes(b"%PDF-1.7, or so"),
        (IMAGE, "expected an image, found a PDF"),
    ),
    "an empty file": (lambda raw: (raw / IMAGE).write_bytes(b""), (IMAGE, "an empty file")),
    "not a PNG": (lambda raw: (raw / LABEL).write_bytes(b"hello"), (LABEL, "expected a PNG or TIFF label")),
    "colour label": (rgb_label, (LABEL, "dataset.yaml does not say what they mean")),
    "wrong bands": (lambda raw: write_image(raw / IMAGE, random_image(1, bands=4)), (IMAGE, "3 bands", "4 bands")),
    "bands not there": (lambda raw: write_config(raw, bands=[1, 2, 5]), ("band 5", "have 3")),
    "uint16 among uint8": (
        lambda raw: write_image(raw / IMAGE, random_image(1, dtype="uint16")),
        (IMAGE, "expected 3 bands of uint8", "uint16"),
    ),
    "float TIFF": (float_image, (IMAGE, "3 bands of uint8", "3 bands of float32")),
    "two images in a TIFF": (two_images, (IMAGE, "one image in the TIFF")),
    "decompression bomb": (bomb, (IMAGE, "at most 512 MiB", "12287 MiB")),
    "empty split": (no_images, ("val/images", "empty split")),
    "same stem twice": (lambda raw: shutil.copy(raw / IMAGE, raw / "train/images/t0001.TIFF"), ("same stem",)),
}


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_one_clear_line_and_nothing_published(case, tmp_path, capsys):
    spoil, expected = CASES[case]
    raw = write_raw(tmp_path / "raw")
    spoil(raw)
    store = tmp_path / "store"
    argv = ["stage-data", "--source", str(raw), "--storage-uri", str(store), "--num-workers", "1"]

    assert main(argv) == 2

    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("staging ")]
    assert len(errors) == 1, errors
    assert errors[0].startswith("landseg stage-data: error: ")
    for part in expected:
        assert part in errors[0]
    # no manifest, no index: at most the report
    assert not [path for path in store.rglob("*.json*") if path.parent.name != "refused"]
    assert not list(store.rglob("*.tar"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 2\nname: a\nclasses: [a, b]\n", "field version"),
        ("version: 1\nname: a\n", "field classes"),
        ("version: 1\nname: a\nclasses: [a, b]\nclases: []\n", "clases"),
        ("version: 1\nname: a\nclasses: [a, a]\n", "class names must differ"),
        ("version: 1\nname: a\nclasses: [a, b]\npalette: [[1, 2, 3]]\n", "palette"),
        ("version: 1\nname: a\nclasses: [a, b]\nbands: [0]\n", "field bands"),
        ("version: 1\nname: a\nclasses: [a, b]\nignore_index: 1\n", "also the label value of a class"),
        ("version: 1\nname: a\nclasses: [a, b]\nscale: {low: 0, high: 1}\n", "field scale"),
        ("version: 1\nname: a\nclasses: [a, b]\nscale: {method: range, low: 5, high: 5}\n", "below its high"),
        ("version: 1\nname: a\nclasses: [a, b]\nscale: {method: range, low: [1, 2], high: [3, 4]}\n", "1 or 3"),
        ("- a\n- b\n", "expected a mapping"),
        ("!!python/object/apply:os.system [ls]", "expected YAML"),
        ("version: [", "expected YAML"),
        ("", "found an empty file (docs/contracts.md shows what it holds)"),
        ("# nothing\n", "expected a mapping"),
        ("version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer"),
        ("<!DOCTYPE html>", "found an HTML page"),
    ],
)
def test_dataset_yaml(text, expected, tmp_path, capsys):
    raw = write_raw(tmp_path / "raw", train=1, val=0, test=0)
    (raw / "dataset.yaml").write_text(text)
    argv = ["stage-data", "--source", str(raw), "--storage-uri", str(tmp_path / "s"), "--num-workers", "1"]
    assert main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "dataset.yaml" in error
    assert expected in error


def test_all_problems_are_collected(tmp_path, capsys):
    raw = write_raw(tmp_path / "raw", train=12)
    for index in range(8):
        truncate(raw / f"train/images/t{index:04}.tif")
    (raw / "val/labels/t0000.png").unlink()
    argv = ["stage-data", "--source", str(raw), "--storage-uri", str(tmp_path / "s"), "--num-workers", "2"]
    assert main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "9 problems" in error
    assert "images/t0000.tif and 7 others (t0001.tif, t0002.tif, t0003.tif, t0004.tif, ...): the TIFF is trunc" in error
    assert error.count("truncated") == 1


@pytest.mark.parametrize(("flag", "value"), [("--shard-bytes", "5"), ("--num-workers", "0")])
def test_flags(flag, value, tmp_path, capsys):
    raw = write_raw(tmp_path / "raw")
    assert main(["stage-data", "--source", str(raw), "--storage-uri", str(tmp_path / "s"), flag, value]) == 2
    assert flag in capsys.readouterr().err
