"""What error lines say to do about labels of other sizes and kinds, and about masks, leads to the right tiles."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from followed_advice import COMMAND, IMAGE, IMAGES, LABEL, LABELS, Case, add_lines, base, check, other_label, png
from gdal_files import UTM, read_gdal, stored, write_gdal
from PIL import Image, ImageOps
from raw_tiles import write_config, write_image, write_label

from landseg.raw.commands import cutting_command

pytestmark = pytest.mark.filterwarnings("ignore")

NOISE = np.random.default_rng(8).normal(0, 5, LABELS.shape)
LACKS = np.arange(24)[:, None].repeat(24, axis=1) < 8
ONE_HOT = np.eye(5, dtype=np.uint8)[LABELS]


def command(folder: str, *move_out: str) -> Callable[[Path, re.Match[str]], None]:
    """Runs the command of a line in a folder, and removes what the line says to move out."""

    def follow(root: Path, match: re.Match[str]) -> None:
        words = shlex.split(match[1])
        assert words[:2] == ["python", "-c"]
        subprocess.run([sys.executable, *words[1:]], cwd=root / folder, check=True)
        for name in move_out:
            (root / folder / name).unlink()

    return follow


def write_msk(path: Path) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(np.where(LACKS, 0, 255).astype(np.uint8))


def mask_beside(path: str) -> Case:
    """An image or label whose mask is another file, joined with it: what it leaves out is ignored."""
    folder, _, name = path.rpartition("/")
    return Case(
        lambda r: write_msk(r / path),
        r"write one that has both, and move these out: " + COMMAND,
        command(folder, name, f"{name}.msk"),
        label=np.where(LACKS, 255, LABELS),
    )


def masked_band(root: Path) -> None:
    (root / IMAGE).unlink()
    for band in range(IMAGES.shape[2]):
        write_gdal(root / f"train/images/a_{band}.tif", IMAGES[..., band : band + 1])
    write_msk(root / "train/images/a_0.tif")
    add_lines(root, yaml.safe_dump({"bands": [f"{{id}}_{band}.tif" for band in range(IMAGES.shape[2])]}))


def exchanged(root: Path) -> None:
    write_image(root / IMAGE, IMAGES[:, :16])
    write_label(root / LABEL, np.ascontiguousarray(LABELS[:, :16].T))


def turned_by_viewers(orientation: int) -> Callable[[Path], None]:
    """An image of an Orientation, and a label that was drawn on what viewers show of it."""

    def fault(root: Path) -> None:
        write_image(root / IMAGE, IMAGES[:, :16], extratags=[(274, 3, 1, orientation, True)])
        shown = Image.fromarray(LABELS[:, :16])
        exif = shown.getexif()
        exif[274] = orientation
        ImageOps.exif_transpose(shown).save(root / LABEL)

    return fault


def smoothed(root: Path, values: list[int]) -> None:
    drawn = np.array(values)[LABELS] + NOISE
    write_label(root / LABEL, drawn.round().clip(0, 255).astype(np.uint8))


def black_and_white(root: Path) -> None:
    write_config(root, classes=["background", "field"])
    smoothed(root, [0, 255, 255])


def packed_label(root: Path) -> None:
    (root / f"{LABEL}.gz").write_bytes(gzip.compress((root / LABEL).read_bytes()))
    (root / LABEL).unlink()


def unpack(root: Path, match: re.Match[str]) -> None:
    path = root / match[1]
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()


CASES = {
    "a label of half the size": Case(
        lambda r: write_label(r / LABEL, np.ascontiguousarray(LABELS[::2, ::2])),
        r"if it covers the same ground, give it the image's size: " + COMMAND,
        command("train/labels"),
        label=LABELS[::2, ::2].repeat(2, axis=0).repeat(2, axis=1),
    ),
    "a label of twice the size": Case(
        lambda r: write_label(r / LABEL, LABELS.repeat(2, axis=0).repeat(2, axis=1)),
        r"if it covers the same ground, give it the image's size: " + COMMAND,
        command("train/labels"),
    ),
    "rows and columns exchanged": Case(
        exchanged,
        r"saved with rows and columns exchanged, exchange them: " + COMMAND,
        command("train/labels"),
        image=IMAGES[:, :16],
        label=LABELS[:, :16],
    ),
    **{
        f"an Orientation of {orientation}, which the label follows": Case(
            turned_by_viewers(orientation),
            r"if the label fits what viewers show, turn it back: " + COMMAND,
            command("train/labels"),
            image=IMAGES[:, :16],
            label=LABELS[:, :16],
        )
        for orientation in (5, 6, 7, 8)
    },
    "a band for each class": Case(
        lambda r: other_label(r, "a.tif", lambda p: write_gdal(p, ONE_HOT)),
        r"write the numbers of the bands, from 0, and move this one out: " + COMMAND,
        command("train/labels", "a.tif"),
    ),
    "four bands for four classes, which are no colours": Case(
        lambda r: other_label(r, "a.tif", lambda p: write_gdal(p, ONE_HOT[..., :4], photometric="RGB", alpha="YES")),
        r"write the numbers of the bands, from 0, and move this one out: " + COMMAND,
        command("train/labels", "a.tif"),
    ),
    "class values divided by 255": Case(
        lambda r: other_label(r, "a.tif", lambda p: write_image(p, (LABELS / 255).astype(np.float32))),
        "these are class values divided by 255: store 0, 1, 2 in their place",
        png(LABELS),
    ),
    "a mask that is not black and white any more": Case(
        black_and_white,
        r"write (label_values: \{.*?\})",
        lambda r, match: add_lines(r, match[1]),
        label=LABELS.clip(0, 1),
    ),
    "grey masks with noise": Case(
        lambda r: smoothed(r, [10, 120, 250]),
        r"write (label_values: \{.*?\})",
        lambda r, match: add_lines(r, match[1]),
    ),
    "an image whose mask is another file": mask_beside(IMAGE),
    "an image whose mask is another file and says nothing": Case(
        lambda r: write_msk(r / IMAGE),
        r"or write (nodata: none) in dataset.yaml",
        lambda r, match: add_lines(r, match[1]),
    ),
    "a label whose mask is another file": mask_beside(LABEL),
    "a band whose mask is another file": Case(
        masked_band,
        r"write one that has both, move these out, and call it as the first: " + COMMAND,
        lambda r, match: (
            command("train/images", "a_0.tif", "a_0.tif.msk")(r, match),
            (r / "train/images/a_0.tiff").rename(r / "train/images/a_0.tif"),
        ),
        label=np.where(LACKS, 255, LABELS),
    ),
    "a label that is packed by itself": Case(packed_label, r"unpack (train/labels/a\.png\.gz) where it is", unpack),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_line_says_to_do_leads_to_the_right_tile(name, tmp_path, stage):
    check(CASES[name], tmp_path / "raw", stage)


@pytest.mark.parametrize("which", ["image", "label", "both", "label of a scene"])
def test_files_that_are_too_large_are_cut_with_the_command_of_the_line(which, tmp_path, stage):
    """A hole at the end makes a file as large as any, and changes nothing of what it holds."""
    root = tmp_path / "raw"
    base(root)
    large = [path for path, word in ((IMAGE, "image"), (LABEL, "label")) if word in which or which == "both"]
    if which == "label of a scene":  # one that asks for more than its image's size, by its header
        write_label(root / LABEL, LABELS)
        data = bytearray((root / LABEL).read_bytes())
        data[16:24] = struct.pack(">II", 1 << 16, 1 << 16)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        (root / LABEL).write_bytes(data)
    else:
        for path in large:
            os.truncate(root / path, (2 << 30) + 1)
    run = stage(root)
    assert run.status == 2
    match = re.search(r"cut it, its label or image alike, and move both out: " + COMMAND, run.error)
    assert match, run.error
    if which == "label of a scene":
        write_label(root / LABEL, LABELS)
    for path in (root / IMAGE, root / LABEL):
        *words, _ = shlex.split(match[1])
        subprocess.run([sys.executable, *words[1:], path.name], cwd=path.parent, check=True)
        path.unlink()
    run = stage(root)
    assert run.status == 0, run.err
    (tile,) = run.dataset().tiles("train")
    assert tile.id == "a_0_0"
    np.testing.assert_array_equal(stored(run.dataset(), tile), IMAGES)
    np.testing.assert_array_equal(run.dataset().read_label("train", tile), LABELS)


def test_the_command_that_cuts_leaves_nothing_out(tmp_path):
    write_gdal(tmp_path / "a.tif", np.arange(9 * 7, dtype=np.uint16).reshape(9, 7, 1), crs="EPSG:32633", transform=UTM)
    words = shlex.split(cutting_command("here/a.tif").replace("n = 4096", "n = 4"))
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
    whole = np.zeros((9, 7), np.uint16)
    for path in tmp_path.glob("a_*_*.tif"):
        row, column = map(int, path.stem.split("_")[1:])
        with rasterio.open(path) as part:
            whole[row : row + part.height, column : column + part.width] = part.read(1)
            assert part.transform == UTM @ rasterio.Affine.translation(column, row)
    np.testing.assert_array_equal(whole, np.arange(9 * 7).reshape(9, 7))
    write_label(tmp_path / "a.png", whole.astype(np.uint8))
    words = shlex.split(cutting_command("here/a.png").replace("n = 4096", "n = 4"))
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
    assert not list(tmp_path.glob("*.aux.xml")), "what lies nowhere is given no place"
    np.testing.assert_array_equal(read_gdal(tmp_path / "a_4_4.png")[:, :, 0], whole[4:8, 4:])
