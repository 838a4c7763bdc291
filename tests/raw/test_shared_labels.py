"""One raster or one file of polygons for all images, and labels larger than their images."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
import yaml
from followed_advice import COMMAND
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin
from raw_tiles import random_image, write_config
from staging_cli import read_paths, settle, tree

from landseg import storage

UTM = CRS.from_epsg(32633)
ORIGIN = (500000.0, 5000000.0)
SIZE = 32
WHOLE = np.random.default_rng(3).integers(0, 3, (100, 120)).astype(np.uint8)


def write(path: Path, bands: np.ndarray, transform: Affine, crs: CRS | None = UTM, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = bands if bands.ndim == 3 else bands[np.newaxis]
    profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    with rasterio.open(path, "w", dtype=bands.dtype, crs=crs, transform=transform, **profile, **options) as file:
        file.write(bands)


def at(row: float, column: float, size: float = 10.0) -> Affine:
    """The transform of a window of the map."""
    return from_origin(ORIGIN[0] + 10 * column, ORIGIN[1] - 10 * row, size, size)


def dataset(root: Path, places: list[tuple[float, float]], **fields) -> Path:
    """Images of 32 px at these rows and columns of the map."""
    write_config(root, **fields)
    for index, place in enumerate(places):
        image = np.moveaxis(random_image(index, SIZE), 2, 0)
        write(root / f"train/images/t{index}.tif", image, at(*place))
    return root


def staged(run, split: str = "train") -> list[np.ndarray]:
    assert run.status == 0, run.error
    opened = run.dataset()
    return [opened.read_label(split, tile) for tile in opened.tiles(split)]


def configure(raw: Path, **fields) -> None:
    path = raw / "dataset.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))


def window(row: int, column: int) -> np.ndarray:
    return WHOLE[row : row + SIZE, column : column + SIZE]


def test_pixels_that_the_mask_of_the_raster_leaves_out_are_ignored(tmp_path, stage):
    root = dataset(tmp_path / "raw", [(0, 0), (40, 100)], labels="all.tif")
    write(root / "all.tif", WHOLE, at(0, 0))
    has_label = np.ones(WHOLE.shape, np.uint8)
    has_label[:, :10] = has_label[50:] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(root / "all.tif", "r+") as file:
        file.write_mask(has_label * 255)
    whole = np.pad(np.where(has_label, WHOLE, 255), ((0, 50), (0, 50)), constant_values=255)
    for label, (row, column) in zip(staged(stage(root)), [(0, 0), (40, 100)], strict=True):
        np.testing.assert_array_equal(label, whole[row : row + SIZE, column : column + SIZE])


@pytest.mark.parametrize("codes", [[0, 1, 2], [10, 20, -1]])
def test_one_raster_is_cut_to_each_image(codes, tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(0, 0), (17, 40), (68, 88)], labels="map.tif")
    if codes[0]:
        configure(raw, label_values={10: "background", 20: "field", -1: "ignore"})
    write(raw / "map.tif", np.array(codes, np.int16)[WHOLE], at(0, 0), tiled=True, blockxsize=16, blockysize=16)
    run = stage(raw)
    for values, place in zip(staged(run), [(0, 0), (17, 40), (68, 88)], strict=True):
        expected = window(*place)
        np.testing.assert_array_equal(values, expected if not codes[0] else np.where(expected == 2, 255, expected))
    assert run.loaded.document.label_source.file == "map.tif"
    assert "not used" not in "\n".join(run.checks["warnings"])
    assert stage(raw).loaded.sha256 == run.loaded.sha256
    # Other labels are another dataset.
    write(raw / "map.tif", np.array(codes, np.int16)[WHOLE[::-1]], at(0, 0))
    again = stage(raw)
    assert again.loaded.document.dataset_id != run.loaded.document.dataset_id
    np.testing.assert_array_equal(staged(again)[0] == 0, WHOLE[::-1][:SIZE, :SIZE] == 0)


def test_images_that_have_not_changed_are_not_read_again(tmp_path, stage, monkeypatch):
    raw = dataset(tmp_path / "raw", [(0, 0), (17, 40), (60, 80)], labels="map.tif")
    write(raw / "map.tif", WHOLE, at(0, 0))
    stage(settle(raw))
    write(raw / "train/images/t1.tif", np.moveaxis(random_image(9, SIZE), 2, 0), at(17, 40))
    read = read_paths(monkeypatch)
    changed = stage(settle(raw))
    assert read == ["train/images/t1.tif"]
    fresh = stage(raw, store=tmp_path / "fresh")
    assert changed.loaded.document.dataset_id == fresh.loaded.document.dataset_id
    write(raw / "map.tif", WHOLE[::-1], at(0, 0))
    changed = stage(settle(raw))
    fresh = stage(raw, store=tmp_path / "other")
    assert changed.loaded.document.dataset_id == fresh.loaded.document.dataset_id


def test_several_workers_share_the_images(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(10 * number, 12 * number) for number in range(6)], labels="map.tif")
    write(raw / "map.tif", WHOLE, at(0, 0))
    settle(raw)
    shards = ("--shard-bytes", "10000")
    assert stage(raw, *shards, store=tmp_path / "alone").status == 0
    for number in range(6, 9):  # the first dataset; then, what has changed
        runs = [stage(raw, *shards, "--worker", f"{share}/2") for share in (1, 2)]
        assert [run.status for run in runs] == [0, 0]
        assert runs[0].out == ""
        assert tree(stage.store) == tree(tmp_path / "alone")
        places = [(10 * number, 12 * number) for number in range(6)]
        for index, place in enumerate(places):
            write(raw / f"train/images/t{index}.tif", np.moveaxis(random_image(number, SIZE), 2, 0), at(*place))
        if number == 7:
            write(raw / "map.tif", WHOLE[::-1], at(0, 0))
        settle(raw)
        assert stage(raw, *shards, store=tmp_path / "alone").status == 0


def test_a_virtual_raster_of_several_files(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(10, 40)], labels="map.vrt")
    write(raw / "parts/left.tif", WHOLE[:, :60], at(0, 0))
    write(raw / "parts/right.tif", WHOLE[:, 60:], at(0, 60))
    sources = "".join(
        f"""<SimpleSource><SourceFilename relativeToVRT="1">parts/{name}.tif</SourceFilename><SourceBand>1</SourceBand>
        <SrcRect xOff="0" yOff="0" xSize="60" ySize="100"/><DstRect xOff="{x}" yOff="0" xSize="60" ySize="100"/>
        </SimpleSource>"""
        for name, x in (("left", 0), ("right", 60))
    )
    (raw / "map.vrt").write_text(
        f"""<VRTDataset rasterXSize="120" rasterYSize="100"><SRS>EPSG:32633</SRS>
        <GeoTransform>{ORIGIN[0]}, 10, 0, {ORIGIN[1]}, 0, -10</GeoTransform>
        <VRTRasterBand dataType="Byte" band="1">{sources}</VRTRasterBand></VRTDataset>"""
    )
    run = stage(raw)
    np.testing.assert_array_equal(staged(run)[0], window(10, 40))
    assert "not used" not in "\n".join(run.checks["warnings"])


def test_from_an_archive_it_is_the_same(tmp_path, stage):
    import tarfile

    raw = dataset(tmp_path / "raw", [(10, 40)], labels="map.tif")
    write(raw / "map.tif", WHOLE, at(0, 0))
    with tarfile.open(tmp_path / "raw.tar", "w") as archive:
        archive.add(raw, ".")
    assert stage(tmp_path / "raw.tar").loaded.document.dataset_id == stage(raw).loaded.document.dataset_id


def test_from_object_storage_it_is_the_same(tmp_path, stage, s3):
    raw = dataset(tmp_path / "raw", [(10, 40), (0, 0)], labels="map.tif")
    write(raw / "map.tif", WHOLE, at(0, 0))
    for path in raw.rglob("*.*"):
        storage.put_file(storage.join(s3.uri, "raw", *path.relative_to(raw).parts), path)
    run = stage(storage.join(s3.uri, "raw"))
    np.testing.assert_array_equal(staged(run)[0], window(10, 40))
    assert run.loaded.document.dataset_id == stage(raw).loaded.document.dataset_id


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (at(0.5, 0), "0.5 px down"),
        (at(0, 0, 20.0), "with pixels of 20 x 20 in place of 10 x 10"),
    ],
)
def test_other_grids_are_resampled_where_that_is_asked_for(transform, expected, tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(10, 20)], labels="map.tif")
    write(raw / "map.tif", WHOLE, transform)
    run = stage(raw)
    assert run.status == 2
    assert expected in run.error
    (advice,) = re.findall(r"write labels: (\{.*?\})", run.error)
    configure(raw, labels=yaml.safe_load(advice))
    rows, columns = np.mgrid[10:42, 20:52]
    if expected.startswith("0.5"):  # centres lie on the borders of rows; the one below holds them
        rows = rows + 0
    else:
        rows, columns = rows // 2, columns // 2
    np.testing.assert_array_equal(staged(stage(raw))[0], WHOLE[rows, columns])


def test_a_raster_in_another_crs(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(10, 20)], labels={"file": "map.tif", "resample": "nearest"})
    blocks = np.kron(np.arange(3).reshape(1, 3), np.ones((60, 20), int)).astype(np.uint8)
    degree = 10 / 111_320
    longitude, latitude = rasterio.warp.transform(UTM, CRS.from_epsg(4326), [ORIGIN[0]], [ORIGIN[1]])
    step = degree / np.cos(np.radians(latitude[0]))
    write(raw / "map.tif", blocks, Affine(step, 0, longitude[0], 0, -degree, latitude[0]), CRS.from_epsg(4326))
    (values,) = staged(stage(raw))
    assert (values == blocks[10:42, 20:52]).mean() > 0.9


def test_images_that_a_raster_does_not_cover(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(90, 100)], labels="map.tif")
    write(raw / "map.tif", WHOLE, at(0, 0))
    run = stage(raw)
    expected = np.full((SIZE, SIZE), 255)
    expected[:10, :20] = WHOLE[90:, 100:]
    np.testing.assert_array_equal(staged(run)[0], expected)
    assert f"{SIZE * SIZE - 200} label px have no value" in "\n".join(run.checks["warnings"])
    away = dataset(tmp_path / "away", [(0, 0), (500, 500)], labels="map.tif")
    write(away / "map.tif", WHOLE, at(0, 0))
    assert "t1.tif: expected map.tif to cover the image, found none of it there" in stage(away).error


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda raw: (raw / "map.tif").unlink(), "found no such file"),
        (lambda raw: write(raw / "map.tif", WHOLE, at(0, 0), compress="jpeg"), "compressed as JPEG"),
        (lambda raw: write(raw / "train/labels/t0.tif", WHOLE, at(0, 0)), "found 1 (remove labels from dataset.yaml"),
        (lambda raw: (raw / "map.tif").write_bytes(b"II*\0"), "damaged"),
        (lambda raw: (raw / "train").rename(raw / "test"), "expected images of train or val"),
        (lambda raw: write(raw / "map.tif", WHOLE + np.uint8(9), at(0, 0)), "9 ("),
        (lambda raw: write(raw / "map.tif", WHOLE.astype(np.float32) + 0.5, at(0, 0)), "expected whole numbers"),
        (lambda raw: write(raw / "map.tif", np.stack([WHOLE] * 5), at(0, 0)), "found 5 bands"),
        (lambda raw: configure(raw, labels={"file": "map.tif", "class_field": "kind"}), "a file of polygons"),
    ],
)
def test_what_cannot_be_the_labels_of_all_images(spoil, expected, tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(0, 0)], labels="map.tif")
    write(raw / "map.tif", WHOLE, at(0, 0))
    spoil(raw)
    run = stage(raw)
    assert run.status == 2
    assert expected in run.error


def test_labels_larger_than_their_images(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(20, 30)])
    label = raw / "train/labels/t0.tif"
    write(label, WHOLE, at(0, 0))
    np.testing.assert_array_equal(staged(stage(raw))[0], window(20, 30))
    write(label, WHOLE, at(0.25, 0))
    run = stage(raw)
    assert "expected a label on the grid of the image, found one" in run.error
    (advice,) = re.findall(r"write labels: (\{.*?\})", run.error)
    configure(raw, labels=yaml.safe_load(advice))
    np.testing.assert_array_equal(staged(stage(raw))[0], window(20, 30))
    write(label, WHOLE[:40], at(0, 0))
    (raw / "dataset.yaml").write_text((raw / "dataset.yaml").read_text().replace("labels:\n  resample: nearest\n", ""))
    run = stage(raw)
    assert f"found none for {12 * SIZE} px of it" in run.error
    (advice,) = re.findall(r"write labels: (\{.*?\})", run.error)
    configure(raw, labels=yaml.safe_load(advice))
    (values,) = staged(stage(raw))
    np.testing.assert_array_equal(values[:20], WHOLE[20:40, 30:62])
    assert (values[20:] == 255).all()


def test_scenes_take_their_labels_from_the_raster(tmp_path, stage):
    raw = tmp_path / "raw"
    write_config(raw, labels="map.tif", scenes={"max_px": 64, "tile_px": 64, "overlap_px": 8})
    write(raw / "train/images/s.tif", np.moveaxis(random_image(1, 90), 2, 0), at(5, 10))
    write(raw / "map.tif", WHOLE, at(0, 0))
    run = stage(raw)
    for tile, values in zip(run.dataset().tiles("train"), staged(run), strict=True):
        y, x = tile.scene.y + 5, tile.scene.x + 10
        np.testing.assert_array_equal(values, WHOLE[y : y + tile.height, x : x + tile.width])


def square(row: float, column: float, size: float) -> list[list[float]]:
    """A ring of the map, in map coordinates."""
    corners = [(0, 0), (0, size), (size, size), (size, 0), (0, 0)]
    return [[ORIGIN[0] + 10 * (column + x), ORIGIN[1] - 10 * (row + y)] for y, x in corners]


SQUARES = [(4, 4, 10, "field"), (20, 8, 6, "water"), (6, 6, 4, "water")]
DRAWN = np.full((SIZE, SIZE), 255)
for _row, _column, _size, _name in SQUARES:
    DRAWN[_row : _row + _size, _column : _column + _size] = {"field": 1, "water": 2}[_name]


def write_polygons(path: Path, driver: str, epsg: int, names: dict[str, object]) -> None:
    import pyogrio

    rings = [square(*place) for *place, _ in SQUARES]
    if epsg != 32633:
        moved = [rasterio.warp.transform(UTM, CRS.from_epsg(epsg), *zip(*ring, strict=True)) for ring in rings]
        rings = [np.transpose(ring).tolist() for ring in moved]
    wkb = [b"\x01" + np.array([3, 1, len(ring)], "<u4").tobytes() + np.array(ring, "<f8").tobytes() for ring in rings]
    kinds = np.array([names[name] for *_, name in SQUARES], None if isinstance(names["field"], int) else object)
    pyogrio.raw.write(
        path, np.array(wkb, object), [kinds], ["kind"], driver=driver, geometry_type="Polygon", crs=f"EPSG:{epsg}"
    )


@pytest.mark.parametrize(
    ("file", "driver", "epsg"),
    [
        ("map.gpkg", "GPKG", 32633),
        ("map.geojson", "GeoJSON", 4326),
        ("map.shp", "ESRI Shapefile", 32633),
        ("map.gpkg", "GPKG", 3857),
    ],
)
def test_polygons_are_drawn_onto_the_grid_of_the_image(file, driver, epsg, tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(0, 0), (200, 200)], labels={"file": file, "class_field": "kind"})
    write_polygons(raw / file, driver, epsg, {"field": "field", "water": "water"})
    run = stage(raw)
    first, second = staged(run)
    np.testing.assert_array_equal(first, DRAWN)
    assert (second == 255).all()
    assert "not used" not in "\n".join(run.checks["warnings"])
    assert stage(raw).loaded.sha256 == run.loaded.sha256
    configure(raw, labels={"file": file, "class_field": "kind", "outside": "background"})
    first, second = staged(stage(raw))
    np.testing.assert_array_equal(first, np.where(DRAWN == 255, 0, DRAWN))
    assert not second.any()


def test_field_and_values_of_polygons_are_proposed(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(0, 0)], labels="map.gpkg")
    write_polygons(raw / "map.gpkg", "GPKG", 32633, {"field": "Acker", "water": "See"})
    run = stage(raw)
    assert "expected class_field, the field that tells the classes, one of kind; found none" in run.error
    (advice,) = re.findall(r"write labels: (\{.*?\})", run.error)
    configure(raw, labels=yaml.safe_load(advice))
    run = stage(raw)
    assert "values of kind that are no classes: See (2 polygons), Acker (1 polygons)" in run.error
    (advice,) = re.findall(r"write labels: (\{.*\}), with a class", run.error)
    configure(raw, labels=yaml.safe_load(advice.replace("NAME", "field", 1).replace("NAME", "water", 1)))
    np.testing.assert_array_equal(staged(stage(raw))[0], DRAWN)


def test_numbers_in_a_field_are_label_values(tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(0, 0)], labels={"file": "map.gpkg", "class_field": "kind"})
    configure(raw, label_values={10: "field", 20: "water"})
    write_polygons(raw / "map.gpkg", "GPKG", 32633, {"field": 10, "water": 20})
    np.testing.assert_array_equal(staged(stage(raw))[0], DRAWN)


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        ({"type": "Point", "coordinates": [15, 45]}, "expected polygons, found points"),
        ({"type": "LineString", "coordinates": [[15, 45], [16, 45]]}, "expected polygons, found lines"),
        (None, "expected polygons, found none"),
    ],
)
def test_what_is_no_polygon_is_refused(geometry, expected, tmp_path, stage):
    raw = dataset(tmp_path / "raw", [(0, 0)], labels={"file": "map.geojson", "class_field": "kind"})
    feature = {"type": "Feature", "properties": {"kind": "field"}, "geometry": geometry}
    (raw / "map.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    run = stage(raw)
    assert run.status == 2
    assert expected in run.error
    (raw / "map.geojson").write_text("{")
    assert "cannot be read as polygons" in stage(raw).error


@pytest.mark.parametrize("outside", [None, "background"])
def test_polygons_that_lie_on_no_image(outside, tmp_path, stage):
    """Longitude and latitude exchanged, say: without a word, all would be background, or ignored."""
    label = {"file": "all.geojson", "class_name": "field", **({"outside": outside} if outside else {})}
    root = dataset(tmp_path / "raw", [(0, 0), (40, 0)], labels=label)
    shape = {"type": "Polygon", "coordinates": [[[45.1, 15], [45.2, 15], [45.2, 15.1], [45.1, 15]]]}
    feature = {"type": "Feature", "properties": {}, "geometry": shape}
    (root / "all.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    run = stage(root)
    assert run.status == 2
    assert "expected polygons that lie on images, found none of those of all.geojson on any" in run.error


def test_the_map_of_values_that_is_proposed_keeps_numbers_that_are_known(tmp_path, stage):
    root = dataset(tmp_path / "raw", [(0, 0)], labels={"file": "all.geojson", "class_field": "kind"})
    features = []
    for kind, left, right in ((1, 0, 10), (70, 10, 20)):
        corners = [at(0, 0) @ corner for corner in ((left, 0), (right, 0), (right, SIZE), (left, SIZE), (left, 0))]
        shape = {"type": "Polygon", "coordinates": [corners]}
        features.append({"type": "Feature", "properties": {"kind": kind}, "geometry": shape})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (root / "all.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    match = re.search(r"write labels: (\{.*\}), with a class or ignore in place of each NAME", stage(root).error)
    configure(root, labels=yaml.safe_load(match[1].replace("NAME", "water")))
    (label,) = staged(stage(root))
    np.testing.assert_array_equal(label[:, :20], np.repeat([1, 2], 10)[None].repeat(SIZE, axis=0))
    assert (label[:, 20:] == 255).all()


def test_a_mask_in_another_file_is_one_error_however_many_images_there_are(tmp_path, stage):
    root = dataset(tmp_path / "raw", [(0, 0), (0, 32), (32, 0)], labels="all.tif")
    write(root / "all.tif", WHOLE, at(0, 0))
    has_label = np.ones(WHOLE.shape, bool)
    has_label[:40, :20] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(root / "all.tif", "r+") as file:
        file.write_mask(has_label)
    run = stage(root)
    assert run.err.count("expected its mask inside of the file") == 1
    match = re.search(r"write one that has both, and name it in dataset.yaml: " + COMMAND, run.error)
    assert match, run.error
    subprocess.run([sys.executable, *shlex.split(match[1])[1:]], cwd=root, check=True)
    write_config(root, labels="all.tiff")
    labels = staged(stage(root))
    expected = np.where(has_label, WHOLE, 255)
    for label, (row, column) in zip(labels, [(0, 0), (0, 32), (32, 0)], strict=True):
        np.testing.assert_array_equal(label, expected[row : row + SIZE, column : column + SIZE])
