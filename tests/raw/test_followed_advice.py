"""What error lines say to do is done here, to the input that caused them, and leads to the right tiles.

What they say about folders, names and lists is followed in `test_layout_advice.py`, about `dataset.yaml` in
`test_dataset_yaml.py`, about formats in `test_image_formats.py`, and about damaged files, polygons and more archives in
`test_followed_advice_files.py`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from followed_advice import (
    IMAGE,
    IMAGES,
    LABEL,
    LABELS,
    PLACED,
    Case,
    add_lines,
    check,
    image,
    other_label,
    packed,
    png,
    renamed,
    rio,
    zipped,
)
from gdal_files import UTM, vrt, write_gdal
from PIL import Image
from raw_tiles import random_image, random_label, write_config, write_image, write_label

pytestmark = pytest.mark.filterwarnings("ignore")


def smoothed(path: Path) -> None:
    alpha = np.full(LABELS.shape, 255, np.uint8)
    alpha[0, 0] = 128
    Image.fromarray(np.dstack([LABELS, alpha]), "LA").save(path)


def opaque(root: Path, _: object) -> None:
    Image.fromarray(np.dstack([LABELS, np.full(LABELS.shape, 255, np.uint8)]), "LA").save(root / LABEL)


COLOURS = np.array([[10, 0, 0], [0, 20, 0], [0, 0, 30]], np.uint8)
MAPPED = {"background": "10,0,0", "field": "0,20,0", "water": "0,0,30"}


def colours_of_16_bits(root: Path) -> None:
    write_config(root, label_colours=MAPPED)
    (root / LABEL).unlink()
    write_image(root / "train/labels/a.tif", COLOURS[LABELS].astype(np.uint16) * 256)


def colours_of_8_bits(root: Path, _: object) -> None:
    write_image(root / "train/labels/a.tif", COLOURS[LABELS])


def shared(root: Path, array: np.ndarray = LABELS, *, place: bool = True, **options) -> None:
    """One raster for all images."""
    shutil.rmtree(root / "train/labels")
    write_gdal(root / IMAGE, IMAGES, **PLACED)
    write_gdal(root / "all.tif", np.atleast_3d(array), **(PLACED if place else {}), **options)
    add_lines(root, "labels: all.tif")


def give_place(root: Path, match: re.Match[str]) -> None:
    place = str(list(UTM)[:6])
    rio(match[1].replace("CODE", "32633").replace("[A, B, C, D, E, F]", place), root)


def links_packed(root: Path) -> Path:
    (root / IMAGE).rename(root / "real.tif")
    (root / IMAGE).symlink_to("../../real.tif")
    return packed(root, "data.tar")


def followed_links(root: Path, _: object) -> Path:
    (root / IMAGE).unlink()
    (root / "real.tif").rename(root / IMAGE)
    return packed(root, "data.tar", dereference=True)


CASES = {
    "smoothed edges": Case(
        lambda r: other_label(r, "a.png", smoothed), "export the label again without smoothing", opaque
    ),
    "colours of 16 bits": Case(colours_of_16_bits, "export it with 8 bits", colours_of_8_bits),
    "fractions": Case(
        lambda r: other_label(r, "a.tif", lambda p: write_image(p, LABELS + np.float32(0.5))),
        "store one class value per pixel, without interpolation",
        png(LABELS),
    ),
    "two bands of labels": Case(
        lambda r: other_label(r, "a.tif", lambda p: write_image(p, np.dstack([LABELS, LABELS]), planarconfig="contig")),
        "store one class value per pixel",
        png(LABELS),
    ),
    "complex labels": Case(
        lambda r: other_label(r, "a.tif", lambda p: write_image(p, LABELS.astype(np.complex64))),
        "write it as PNG, with one class value per pixel",
        png(LABELS),
    ),
    "a JPEG called PNG": Case(
        lambda r: other_label(r, "a.png", lambda p: Image.fromarray(LABELS).save(p, "JPEG")),
        "write the labels again from their source as PNG",
        png(LABELS),
    ),
    "labels compressed as JPEG": Case(
        lambda r: other_label(r, "a.tif", lambda p: write_gdal(p, LABELS[..., None], compress="JPEG")),
        "or as TIFF with the compression LZW, Deflate or ZSTD",
        lambda r, _: write_gdal(r / "train/labels/a.tif", LABELS[..., None], compress="ZSTD"),
    ),
    "a text as a label": Case(lambda r: (r / LABEL).write_text("hello"), "write it as PNG", png(LABELS)),
    "sizes that differ": Case(
        lambda r: write_label(r / LABEL, random_label(1, 30)),
        "cut both to the same ground, and to the same size",
        png(random_label(1, 30)[:24, :24]),
        label=random_label(1, 30)[:24, :24],
    ),
    "a palette that gives two classes one colour": Case(
        lambda r: (
            write_config(r, palette=[[1, 1, 1], [1, 1, 1], [2, 2, 2]]),
            write_label(r / LABEL, np.repeat(LABELS[..., None], 3, axis=2)),
        ),
        "map colours to classes by label_colours in dataset.yaml",
        lambda r, _: add_lines(r, "label_colours: {'0,0,0': background, '1,1,1': field, '2,2,2': water}"),
    ),
    "an image as a label": Case(
        lambda r: write_label(r / LABEL, random_image(3, 64)[:24, :24]),
        r"dataset.yaml does not say what they mean|this looks like an image",
        png(LABELS),
    ),
    "labels that are not there": Case(
        lambda r: (shared(r), (r / "all.tif").rename(r / "landcover.tif")),
        "add it, or write the name of the file that has them",
        lambda r, _: add_lines(r, "labels: landcover.tif"),
    ),
    "one raster without a place": Case(
        lambda r: shared(r, place=False), r"give it one: (rio edit-info .*? all\.tif), or a world file", give_place
    ),
    "an image without a place": Case(
        lambda r: (shared(r), write_image(r / IMAGE, IMAGES)),
        r"give it one: (rio edit-info .*? a\.tif), or a world file",
        lambda r, match: rio(
            match[1].replace("CODE", "32633").replace("[A, B, C, D, E, F]", str(list(UTM)[:6])), (r / IMAGE).parent
        ),
    ),
    "one raster half a pixel off": Case(
        lambda r: shared(
            r, np.pad(LABELS, 2), transform=UTM @ rasterio.Affine.translation(-2.2, -1.8), place=False, crs="EPSG:32633"
        ),
        r"write (labels: \{file: all.tif, resample: nearest\})",
        lambda r, match: add_lines(r, match[1]),
    ),
    "one raster with many bands": Case(
        lambda r: shared(r, random_image(1, bands=5)),
        "store one class value per pixel",
        lambda r, _: write_gdal(r / "all.tif", LABELS[..., None], **PLACED),
    ),
    "one raster that changes values": Case(
        lambda r: shared(r, compress="JPEG"),
        "as TIFF with the compression LZW",
        lambda r, _: write_gdal(r / "all.tif", LABELS[..., None], compress="LZW", **PLACED),
    ),
    "labels in folders and one raster": Case(
        lambda r: (shared(r), write_label(r / LABEL, LABELS)),
        "remove labels from dataset.yaml, or the folder of labels",
        lambda r, _: shutil.rmtree(r / "train/labels"),
    ),
    "bands of several types": Case(
        lambda r: (
            add_lines(r, "bands: ['{id}_1.tif', '{id}_2.tif', '{id}_3.tif']"),
            (r / IMAGE).unlink(),
            [
                write_image(r / f"train/images/a_{n + 1}.tif", IMAGES[..., n].astype(["u1", "u1", "u2"][n]))
                for n in range(3)
            ],
        ),
        "convert them to one type",
        lambda r, _: write_image(r / "train/images/a_3.tif", IMAGES[..., 2]),
    ),
    "bands of several sizes": Case(
        lambda r: (
            add_lines(r, "bands: ['{id}_1.tif', '{id}_2.tif', '{id}_3.tif']"),
            (r / IMAGE).unlink(),
            [write_image(r / f"train/images/a_{n + 1}.tif", IMAGES[: [24, 24, 12][n], :, n]) for n in range(3)],
        ),
        "resample them to one grid first",
        lambda r, _: write_image(r / "train/images/a_3.tif", IMAGES[..., 2]),
    ),
    "a band that is missing": Case(
        lambda r: (
            add_lines(r, "bands: ['{id}_1.tif', '{id}_2.tif', '{id}_3.tif']"),
            (r / IMAGE).unlink(),
            [write_image(r / f"train/images/a_{n + 1}.tif", IMAGES[..., n]) for n in range(2)],
        ),
        r"images/(a_3\.tif): expected a file of this band, found none \(add it, or change bands\)",
        lambda r, match: write_image(r / "train/images" / match[1], IMAGES[..., 2]),
    ),
    "complex images": Case(
        lambda r: write_gdal(r / IMAGE, IMAGES.astype(np.complex64)), "store amplitude or intensity", image()
    ),
    "CMYK": Case(
        lambda r: write_image(r / IMAGE, random_image(1, bands=4), photometric="separated"),
        "write it as RGB",
        image(),
    ),
    "a compression that is missing": Case(
        lambda r: (r / IMAGE).write_bytes(
            (r / IMAGE).read_bytes().replace(b"\x03\x01\x03\0\1\0\0\0\1\0", b"\x03\x01\x03\0\1\0\0\0\x42\xc7")
        ),
        "write it again with the compression ZSTD or Deflate|write it again as ZSTD",
        image(compress="ZSTD"),
    ),
    "many bands": Case(
        lambda r: write_image(r / IMAGE, np.dstack([IMAGES] * 6), planarconfig="contig", photometric="minisblack"),
        r"move this one out: (rio calc .* a\.tif a_bands\.tif) for bands 3, 2 and 1",
        lambda r, match: (rio(match[1], (r / IMAGE).parent), (r / "train/images/a_bands.tif").replace(r / IMAGE)),
        image=IMAGES[:, :, ::-1],
    ),
    "a VRT of a file elsewhere": Case(
        lambda r: (
            (r / IMAGE).rename(r.parent / "elsewhere.tif"),
            (r / "train/images/a.vrt").write_text(vrt([str(r.parent / "elsewhere.tif")] * 3, relative=0)),
        ),
        r"move it out: (rio convert -f GTiff) IMAGE\.vrt IMAGE\.tif",
        lambda r, match: (
            rio(f"{match[1]} a.vrt a.tif", r / "train/images"),
            (r / "train/images/a.vrt").unlink(),
        ),
        image=np.repeat(IMAGES[:, :, :1], 3, axis=2),
    ),
    "pages that are bands": Case(
        lambda r: tifffile.imwrite(r / IMAGE, IMAGES.transpose(2, 0, 1), photometric="minisblack", metadata=None),
        r"if they are bands, .*(tifffile\.imwrite\(.*\)), of shape \(bands, H, W\)",
        lambda r, match: eval(match[1], {"tifffile": tifffile, "path": r / IMAGE, "array": IMAGES.transpose(2, 0, 1)}),
    ),
    "an image that is not like the others": Case(
        lambda r: (
            [
                (write_image(r / f"train/images/{n}.tif", IMAGES), write_label(r / f"train/labels/{n}.png", LABELS))
                for n in "bc"
            ],
            write_image(r / IMAGE, IMAGES.astype(np.uint16)),
        ),
        "convert it like them, or move it out",
        lambda r, _: write_image(r / IMAGE, IMAGES),
    ),
    "parts that were never written": Case(
        lambda r: write_gdal(
            r / IMAGE,
            np.where(np.arange(24)[:, None, None] < 16, 0, IMAGES).astype(np.uint8),
            SPARSE_OK="TRUE",
            tiled=True,
            blockxsize=16,
            blockysize=16,
        ),
        r"say (nodata: 0) in dataset\.yaml",
        lambda r, match: add_lines(r, match[1]),
        image=np.where(np.arange(24)[:, None, None] < 16, 0, IMAGES).astype(np.uint8),
        label=np.where(np.arange(24)[:, None] < 16, 255, LABELS),
    ),
    "two descriptions": Case(
        lambda r: [shutil.copy(r / "dataset.yaml", r / "dataset.yml")],
        "keep one",
        lambda r, _: (r / "dataset.yml").unlink(),
    ),
    "a description in a split": Case(
        lambda r: [(r / "dataset.yaml").rename(r / "train/dataset.yaml")],
        "move it up",
        renamed("train/dataset.yaml", "dataset.yaml"),
    ),
    "two datasets": Case(
        lambda r: (
            shutil.copytree(r, r.parent / "b"),
            shutil.move(r, r.parent / "one"),
            r.mkdir(),
            shutil.move(r.parent / "one", r / "one"),
            shutil.move(r.parent / "b", r / "two"),
        ),
        "give the folder of one",
        lambda r, _: r / "one",
    ),
    "an odd character": Case(
        lambda r: (
            renamed(IMAGE, "train/images/a\u200b.tif")(r, None),
            renamed(LABEL, "train/labels/a\u200b.png")(r, None),
        ),
        "rename it without them",
        lambda r, _: (
            renamed("train/images/a\u200b.tif", IMAGE)(r, None),
            renamed("train/labels/a\u200b.png", LABEL)(r, None),
        ),
    ),
    "two images of one name": Case(
        lambda r: Image.fromarray(IMAGES).save(r / "train/images/a.png"),
        "one image and one label per tile",
        lambda r, _: (r / "train/images/a.png").unlink(),
    ),
    "an empty split": Case(
        lambda r: (r / "val/images").mkdir(parents=True),
        "add images, or remove the folder of val",
        lambda r, _: shutil.rmtree(r / "val"),
    ),
    "a list in another encoding": Case(
        lambda r: ((r / "train").rename(r / "all"), (r / "train.txt").write_bytes("a\nß\n".encode("latin-1"))),
        "save it as UTF-8",
        lambda r, _: (r / "train.txt").write_text("a\n"),
    ),
    "a link that leaves": Case(
        lambda r: ((r / IMAGE).rename(r.parent / "real.tif"), (r / IMAGE).symlink_to(r.parent / "real.tif")),
        "put a copy in the link's place",
        lambda r, _: ((r / IMAGE).unlink(), shutil.copy(r.parent / "real.tif", r / IMAGE)),
    ),
    "a link to a folder around it": Case(
        lambda r: (r / "train/images/again").symlink_to(r),
        "remove the link",
        lambda r, _: (r / "train/images/again").unlink(),
    ),
    "a file in place of its folder": Case(
        lambda r: r / "dataset.yaml", "give the folder that holds it", lambda r, _: r
    ),
    "archives in the place of folders": Case(
        lambda r: (
            [shutil.make_archive(str(r / p), "zip", r / p) for p in ("train/images", "train/labels")],
            [shutil.rmtree(r / p) for p in ("train/images", "train/labels")],
        ),
        r"\(unpack train/images\.zip, train/labels\.zip into folders of their names",
        lambda r, _: [shutil.unpack_archive(r / f"{p}.zip", r / p) for p in ("train/images", "train/labels")],
    ),
    "an archive in the place of the images": Case(
        lambda r: (
            shutil.make_archive(str(r / "train/images"), "zip", r / "train/images"),
            shutil.rmtree(r / "train/images"),
        ),
        r"unpack (train/images)\.zip into a folder of its name",
        lambda r, match: shutil.unpack_archive(r / f"{match[1]}.zip", r / match[1]),
    ),
    "a compressed tar": Case(
        lambda r: packed(r, "data.tar.gz", mode="w:gz"),
        "give a .zip or a plain .tar",
        lambda r, _: packed(r, "data.tar"),
    ),
    "a tar of links": Case(links_packed, "tar --dereference --hard-dereference", followed_links),
    "a zip called tar": Case(
        lambda r: zipped(r).rename(r.parent / "data.tar"),
        r"rename it to (\.zip)",
        lambda r, match: (r.parent / "data.tar").rename(r.parent / f"data{match[1]}"),
    ),
    "paths from the root": Case(
        lambda r: zipped(r, lambda name: f"/{name}"), "pack relative paths only", lambda r, _: zipped(r)
    ),
    "members that climb": Case(
        lambda r: zipped(r, lambda name: f"../{name}"), "pack relative paths only", lambda r, _: zipped(r)
    ),
    "members twice": Case(lambda r: zipped(r, twice=True), "pack it again", lambda r, _: zipped(r)),
    "a truncated zip": Case(
        lambda r: ((path := zipped(r)), path.write_bytes(path.read_bytes()[:-100]))[0],
        "copy or pack it again",
        lambda r, _: zipped(r),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_line_says_to_do_leads_to_the_right_tile(name, tmp_path, stage):
    check(CASES[name], tmp_path / "raw", stage)
