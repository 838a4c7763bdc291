"""What error lines say to do about damaged files, places of labels, polygons and archives leads to the right tiles."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from followed_advice import (
    COMMAND,
    IMAGE,
    IMAGES,
    LABEL,
    LABELS,
    PLACED,
    Case,
    add_lines,
    base,
    check,
    image,
    other_label,
    png,
    write_bytes,
    zipped,
    zipped_with,
)
from gdal_files import UTM, write_gdal
from rasterio.warp import transform_geom
from raw_tiles import write_image

pytestmark = pytest.mark.filterwarnings("ignore")

SQUARE = [[600000, 5400000], [600120, 5400000], [600120, 5399760], [600000, 5399760], [600000, 5400000]]
DRAWN = np.repeat(np.array([1, 255], np.uint8), 12)[None].repeat(24, axis=0)


def polygons(root: Path, name: str = "all.geojson", kind: str = "Polygon", crs: str | None = "32633", **fields) -> None:
    """One file of polygons for all images, as a GeoJSON whatever its name."""
    shutil.rmtree(root / "train/labels")
    write_gdal(root / IMAGE, IMAGES, **PLACED)
    named = {} if crs is None else {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{crs}"}}}
    shape = {"type": kind, "coordinates": [SQUARE] if kind == "Polygon" else SQUARE}
    feature = {"type": "Feature", "properties": {"kind": "field"}, "geometry": shape}
    (root / name).write_text(json.dumps({"type": "FeatureCollection", **named, "features": [feature]}))
    add_lines(root, yaml.safe_dump({"labels": {"file": name, "class_field": "kind", **fields}}))


def written_by_pyogrio(root: Path, name: str, crs: str | None, **options) -> None:
    import pyogrio

    meta, _, geometry, columns = pyogrio.raw.read(root / "all.geojson")
    pyogrio.raw.write(
        root / name, geometry, columns, fields=["kind"], geometry_type=meta["geometry_type"], crs=crs, **options
    )


def kml(root: Path) -> None:
    polygons(root)
    degrees = transform_geom("EPSG:32633", "EPSG:4326", {"type": "Polygon", "coordinates": [SQUARE]})
    points = " ".join(f"{x},{y},0" for x, y in degrees["coordinates"][0])
    ring = f"<LinearRing><coordinates>{points}</coordinates></LinearRing>"
    shape = f"<Polygon><outerBoundaryIs>{ring}</outerBoundaryIs></Polygon>"
    mark = f"<Document><Placemark><name>field</name>{shape}</Placemark></Document>"
    (root / "all.kml").write_text(f'<kml xmlns="http://www.opengis.net/kml/2.2">{mark}</kml>')
    add_lines(root, "labels: all.kml")


def a_shapefile(root: Path) -> None:
    polygons(root)
    written_by_pyogrio(root, "all.shp", None)
    add_lines(root, "labels: {file: all.shp, class_field: kind}")


def two_layers(root: Path, *labels: str) -> None:
    polygons(root)
    for layer in ("fields", "roads"):
        written_by_pyogrio(root, "all.gpkg", "EPSG:32633", layer=layer, append=layer == "roads")
    add_lines(root, f"labels: {{file: all.gpkg, class_field: kind{''.join(labels)}}}")


def layer_said(root: Path, match: re.Match[str]) -> None:
    labels = yaml.safe_load((root / "dataset.yaml").read_text())["labels"]
    add_lines(root, yaml.safe_dump({"labels": labels | yaml.safe_load(match[1])}))


def shortened(path: str, by: int) -> Callable[[Path], object]:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:by])


CASES = {
    "an image that was not copied whole": Case(shortened(IMAGE, -100), "copy or write the file again", image()),
    "a label that was not copied whole": Case(shortened(LABEL, -20), "copy or write the file again", png(LABELS)),
    "an empty image": Case(shortened(IMAGE, 0), "copy or download it again", image()),
    "zeros in place of an image": Case(
        lambda r: (r / IMAGE).write_bytes(bytes(2000)), "copy or download it again", image()
    ),
    "a page in place of an image": Case(
        lambda r: (r / IMAGE).write_text("<html><body>Sign in</body></html>"), "download it again, signed in", image()
    ),
    "a label that lies elsewhere": Case(
        lambda r: (
            write_gdal(r / IMAGE, IMAGES, **PLACED),
            other_label(
                r,
                "a.tif",
                lambda p: write_gdal(
                    p, LABELS[..., None], crs="EPSG:32633", transform=UTM @ rasterio.Affine.translation(-3, 0)
                ),
            ),
        ),
        r"or write (labels: \{resample: nearest\}) in dataset.yaml",
        lambda r, match: add_lines(r, match[1]),
        label=np.pad(LABELS[:, 3:], ((0, 0), (0, 3)), constant_values=255),
    ),
    "a label whose georeference is wrong": Case(
        lambda r: (
            write_gdal(r / IMAGE, IMAGES, **PLACED),
            other_label(
                r,
                "a.tif",
                lambda p: write_gdal(p, LABELS[..., None], crs="EPSG:32632", transform=UTM),
            ),
        ),
        "if its pixels fit and its georeference is wrong, remove it, world files included",
        png(LABELS),
    ),
    "a label of another size that covers a part": Case(
        lambda r: (
            write_gdal(r / IMAGE, IMAGES, **PLACED),
            other_label(r, "a.tif", lambda p: write_gdal(p, LABELS[:20, :, None], **PLACED)),
        ),
        r"to ignore these px, write (labels: \{resample: nearest\}) in dataset.yaml",
        lambda r, match: add_lines(r, match[1]),
        label=np.pad(LABELS[:20], ((0, 4), (0, 0)), constant_values=255),
    ),
    "a label that covers a part": Case(
        lambda r: (
            write_gdal(r / IMAGE, IMAGES, **PLACED),
            other_label(r, "a.tif", lambda p: write_gdal(p, LABELS[:20, :, None], **PLACED)),
        ),
        "cut the image to its label",
        lambda r, _: write_gdal(r / IMAGE, IMAGES[:20], **PLACED),
        image=IMAGES[:20],
        label=LABELS[:20],
    ),
    "polygons without a CRS": Case(
        a_shapefile,
        r"write the file with one \((\.prj) of a Shapefile",
        lambda r, match: (r / f"all{match[1]}").write_text(rasterio.crs.CRS.from_epsg(32633).to_wkt("WKT1_ESRI")),
        label=DRAWN,
    ),
    "polygons whose CRS lies at an address": Case(
        lambda r: (
            polygons(r),
            (r / "all.geojson").write_text(
                (r / "all.geojson")
                .read_text()
                .replace('{"name": "urn:', '{"href": "http://localhost/')
                .replace("::", "")
            ),
        ),
        "write the file with a named CRS, such as (urn:ogc:def:crs:EPSG::32633)",
        lambda r, _: (shutil.rmtree(r), base(r), polygons(r)),
        label=DRAWN,
    ),
    "polygons called otherwise": Case(
        lambda r: polygons(r, "all.gpkg"),
        "give it the suffix of its format",
        lambda r, _: (
            (r / "all.gpkg").rename(r / "all.geojson"),
            add_lines(r, "labels: {file: all.geojson, class_field: kind}"),
        ),
        label=DRAWN,
    ),
    "polygons as KML": Case(
        kml,
        r"write them as one, and name it in dataset.yaml: " + COMMAND,
        lambda r, match: (
            subprocess.run([sys.executable, *shlex.split(match[1])[1:]], cwd=r, check=True),
            add_lines(r, "labels: {file: all.gpkg, class_field: Name}"),
        ),
        label=DRAWN,
    ),
    "lines in place of polygons": Case(
        lambda r: polygons(r, kind="LineString"),
        "draw them as polygons",
        lambda r, _: (shutil.rmtree(r), base(r), polygons(r)),
        label=DRAWN,
    ),
    "polygons in two layers": Case(two_layers, r"write (layer: fields) into labels", layer_said, label=DRAWN),
    "polygons in a layer of another name": Case(
        lambda r: two_layers(r, ", layer: field"), r"write (layer: fields) into labels", layer_said, label=DRAWN
    ),
    "polygons and an image without a place": Case(
        lambda r: (polygons(r), write_image(r / IMAGE, IMAGES)),
        "no transform in the image .write the image with one",
        lambda r, _: write_gdal(r / IMAGE, IMAGES, **PLACED),
        label=DRAWN,
    ),
    "polygons that were not copied whole": Case(
        lambda r: (polygons(r), shortened("all.geojson", -20)(r)),
        "copy or write the file again",
        lambda r, _: (shutil.rmtree(r), base(r), polygons(r)),
        label=DRAWN,
    ),
    "a link in a zip": Case(
        lambda r: zipped_with(r, lambda info: setattr(info, "external_attr", 0o120777 << 16)),
        "pack the files themselves",
        lambda r, _: zipped(r),
    ),
    "a password": Case(
        lambda r: zipped_with(r, lambda info: setattr(info, "flag_bits", 1)),
        "pack it without a password",
        lambda r, _: zipped(r),
    ),
    "something else called zip": Case(
        lambda r: write_bytes(r.parent / "data.zip", b"hello"), "pack the folder again", lambda r, _: zipped(r)
    ),
    "an empty list": Case(
        lambda r: [
            (r / "train/images").rename(r / "images"),
            (r / "train/labels").rename(r / "labels"),
            (r / "train").rmdir(),
            (r / "train.txt").write_text("a\n"),
            (r / "val.txt").write_text("# none\n"),
        ],
        "remove the list",
        lambda r, _: (r / "val.txt").unlink(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_line_says_to_do_leads_to_the_right_tile(name, tmp_path, stage):
    check(CASES[name], tmp_path / "raw", stage)
