"""Maps as a GIS opens them: GeoTIFFs that are cloud optimized, with palette, names, nodata and where they come from."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import struct
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import tifffile
from ensembles import export, make_spec, open_dataset
from PIL import Image
from rasterio.crs import CRS
from rasterio.features import rasterize
from raw_tiles import random_image, random_label, write_config, write_image, write_label

import landseg.ensemble.maps.polygons
from landseg import storage
from landseg.cli.main import main
from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError, ContractError, StorageError
from landseg.contracts.labels import LabelsManifest
from landseg.contracts.tile import ControlPoints, Geo, Rpc
from landseg.ensemble.averaging import confidence, disagreement, entropy
from landseg.ensemble.maps.files import remove_maps
from landseg.ensemble.maps.geotiff import encode_map, encode_names, label_style, value_style, write_map
from landseg.ensemble.maps.mosaic import write_mosaic
from landseg.ensemble.maps.polygons import write_polygons
from landseg.ensemble.maps.together import check_together
from landseg.raw.georeference.crs import keys_of, rpc_of
from landseg.raw.georeference.tags import geo_tags
from landseg.stages.shared.map_folder import MapFolder

UTM = CRS.from_epsg(32633)
LISTED = (keys_of(UTM),)
NORTH_UP = (0.5, 0.0, 100.0, 0.0, -0.5, 900.0)
TURNED = (0.5, 0.1, 3.0, 0.1, -0.5, 9.0)
NAMES, COLOURS = ("water", "Bäume & Büsche", "a < b"), ((0, 0, 255), (0, 128, 0), (200, 0, 1))


def schema(**fields) -> ClassSchema:
    return ClassSchema(classes=NAMES, palette=COLOURS, bands=(1,), **fields)


def assert_cloud_optimized(path) -> None:
    """As `rio cogeo validate` does: headers before pixels, overviews and tiles where a map is large."""
    with tifffile.TiffFile(path) as file:
        pages = list(file.pages)
        headers = [page.offset for page in pages]
        assert headers == sorted(headers)
        assert all(header < min(page.dataoffsets) for page in pages for header in headers)
        first = pages[0]
        assert max(first.shape) <= 512 or first.is_tiled
        sides = [max(page.shape) for page in pages]
        assert sides[-1] <= 512
        starts = [min(page.dataoffsets) for page in pages]
        assert starts == sorted(starts, reverse=True), "the smallest overview comes first"
        assert all(page.subfiletype & 1 for page in pages[1:])


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED], ids=["north up", "turned"])
@pytest.mark.parametrize("shape", [(700, 1300), (512, 512), (3, 5)])
def test_label_maps(tmp_path, shape, transform):
    labels = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    labels[:2, :2] = 255
    style, geo = label_style(schema(), {"LANDSEG_IMAGE": "a & b"}), Geo(crs=0, transform=transform)
    path = tmp_path / "map.tif"
    write_map(path, np.array_split(labels, 3), shape, style, geo, LISTED)
    assert path.read_bytes() == encode_map(labels, style, geo, LISTED) == encode_map(labels, style, geo, LISTED)
    assert list(tmp_path.iterdir()) == [path]
    assert_cloud_optimized(path)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), labels)
        assert tuple(file.transform)[:6] == pytest.approx(transform)
        assert file.crs == UTM
        assert file.nodata == 255
        assert (file.read_masks(1) == np.where(labels == 255, 0, 255)).all()
        assert [file.colormap(1)[value][:3] for value in range(3)] == list(COLOURS)
        assert file.colormap(1)[255][3] == 0
        assert file.overviews(1) == ([2, 4] if shape[0] == 700 else [])
        tags = file.tags()
        assert [tags[f"CLASS_{value}"] for value in range(3)] == list(NAMES)
        assert tags["LANDSEG_IMAGE"] == "a & b"
        assert tags["TIFFTAG_SOFTWARE"].startswith("landseg ")


def test_values_are_those_of_the_datasets_labels(tmp_path):
    style = label_style(schema(label_offset=10), {})
    geo = Geo(crs=0, transform=NORTH_UP)
    (tmp_path / "map.tif").write_bytes(encode_map(np.full((4, 5), 12, np.uint8), style, geo, LISTED))
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.colormap(1)[12][:3] == COLOURS[2]
        assert file.tags()["CLASS_12"] == NAMES[2]
    many = ClassSchema(classes=tuple(map(str, range(255))), palette=(COLOURS[0],) * 255, bands=(1,), label_offset=1)
    assert label_style(many, {}).nodata == 0
    assert label_style(many.model_copy(update={"label_offset": 0}), {}).nodata == 255


def test_gdal_reads_the_class_names(tmp_path):
    style = label_style(schema(label_offset=1), {})
    path = tmp_path / "map.tif"
    path.write_bytes(encode_map(np.full((4, 5), 1, np.uint8), style, Geo(crs=0, transform=NORTH_UP), LISTED))
    (tmp_path / "map.tif.aux.xml").write_bytes(encode_names(style))
    rasterio.shutil.copy(path, tmp_path / "map.vrt", driver="VRT")  # which repeats what GDAL knows of the map
    band = ET.parse(tmp_path / "map.vrt").getroot().find("VRTRasterBand")
    assert [item.text for item in band.find("CategoryNames")] == [None, *NAMES]
    rows = [[cell.text for cell in row] for row in band.find("GDALRasterAttributeTable").findall("Row")]
    assert rows == [[str(n + 1), NAMES[n], *map(str, COLOURS[n])] for n in range(3)]


def test_maps_of_values(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (600, 40)).astype(np.uint8)
    (tmp_path / "map.tif").write_bytes(encode_map(values, value_style({}), Geo(crs=0, transform=NORTH_UP), LISTED))
    assert_cloud_optimized(tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.nodata == 255
        assert file.scales == (pytest.approx(1 / 254),)
        np.testing.assert_array_equal(file.read(1), values)
        assert file.overviews(1) == [2]


SIZES = {"scene": (150, 100), "tile": (64, 50), "bare": (64, 64)}
SCENES = {"max_px": 64, "tile_px": 64, "overlap_px": 16}


@pytest.fixture
def staged(tmp_path):
    """A scene, a tile, and a tile without a georeference."""
    root = tmp_path / "raw"
    write_config(root, scenes=SCENES, label_offset=1)
    for seed, (name, (height, width)) in enumerate(SIZES.items()):
        geo = None if name == "bare" else Geo(crs=0, transform=(10.0, 0.0, 5e5 + 1e4 * seed, 0.0, -10.0, 5e6))
        image = np.ascontiguousarray(random_image(seed, 150)[:height, :width])
        write_image(root / f"test/images/{name}.tif", image, extratags=geo_tags(geo, LISTED))
        write_label(root / f"test/labels/{name}.png", random_label(seed, 150)[:height, :width] + np.uint8(1))
    args = ["stage-data", "--source", str(root), "--storage-uri", str(tmp_path), "--output-dir", str(tmp_path)]
    assert main([*args, "--num-workers", "1"]) == 0
    return str(tmp_path / "dataset.json")


def average(staged, refs, tmp_path, *flags) -> storage.Loaded[LabelsManifest]:
    common = ["--dataset", staged, "--storage-uri", str(tmp_path), "--run-id", "r", "--num-workers", "1"]
    probs = [argument for ref in refs for argument in ("--probs", ref)]
    assert main(["average-probs", *common, *probs, "--output-dir", str(tmp_path / "out"), *flags]) == 0
    return storage.read_document(LabelsManifest, str(tmp_path / "out/labels.json"))


def made_up(dataset, split, tile, model):
    rng = np.random.default_rng([*tile.id.encode(), *model.encode()])
    return rng.dirichlet(np.ones(3), (tile.height, tile.width)).transpose(2, 0, 1).astype(np.float32)


def test_every_input_with_a_place_has_a_geotiff(staged, tmp_path):
    dataset = open_dataset(staged, tmp_path)
    refs = [export(tmp_path / model, dataset, model, splits=("test",), probs=made_up) for model in ("x", "y")]
    maps = tmp_path / "maps"
    labels = average(staged, refs, tmp_path, "--png-dir", str(maps), "--layers", "entropy,disagreement,confidence")
    cut = {f"{tile.id}.png" for tile in dataset.tiles("test") if tile.scene}
    names = {"tile.tif", "bare.png"}
    assert {path.name for path in (maps / "test").iterdir()} == cut | names | {"tile.tif.aux.xml"}
    assert {path.name for path in (maps / "test-scenes").iterdir()} == {"scene.tif", "scene.tif.aux.xml"}
    found = {"scene": maps / "test-scenes/scene.tif", "tile": maps / "test/tile.tif"}
    checkpoint = make_spec(dataset, "x").checkpoint_sha256
    for name, path in found.items():
        assert_cloud_optimized(path)
        with rasterio.open(path) as file, rasterio.open(tmp_path / f"raw/test/images/{name}.tif") as image:
            assert (file.crs, file.transform, file.shape) == (image.crs, image.transform, image.shape)
            assert set(np.unique(file.read(1))) <= {1, 2, 3}
            assert file.tags()["LANDSEG_MODELS"].startswith(f"x {checkpoint[:12]} x 1, y ")
            assert file.tags()["LANDSEG_IMAGE"] == name
    for layer in ("entropy", "disagreement", "confidence"):
        assert {path.name for path in (maps / f"test-{layer}").iterdir()} == cut | names
        for path in (maps / f"test-{layer}/tile.tif", maps / f"test-scenes-{layer}/scene.tif"):
            with rasterio.open(path) as file, rasterio.open(found[path.stem]) as other:
                assert (file.crs, file.transform, file.shape) == (other.crs, other.transform, other.shape)
                assert (file.nodata, file.tags()["LANDSEG_LAYER"]) == (255, layer)
                assert file.read(1).max() <= 254
    # a scene's files in storage, with the names beside them; a second run finds them
    folder = storage.parent(labels.uri)
    scene = labels.document.scenes["test"][0]
    stored = storage.get_bytes(storage.join(folder, scene.path))
    assert stored == found["scene"].read_bytes()
    sidecar = storage.get_bytes(storage.join(folder, f"{scene.path}.aux.xml"))
    assert sidecar == (maps / "test-scenes/scene.tif.aux.xml").read_bytes()
    listed = set(json.loads((maps / "maps.json").read_text()))
    assert listed == {str(path.relative_to(maps)) for path in maps.rglob("*") if path.is_file()} - {"maps.json"}
    flat = tmp_path / "flat"
    flat.mkdir()
    MapFolder("--output-dir", flat, is_flat=True, mosaic=True, polygons=True).write(labels, dataset, tmp_path)
    assert {"mosaic.tif", "polygons.gpkg"} < set(json.loads((flat / "maps.json").read_text()))
    assert_cloud_optimized(flat / "mosaic.tif")
    meta, _, shapes, (ids, names, images) = pyogrio.raw.read(flat / "polygons.gpkg", layer="labels")
    assert (meta["crs"], meta["geometry_type"]) == ("EPSG:32633", "Polygon")
    assert list(meta["fields"]) == ["class_id", "class", "image"]
    assert set(images) == {"scene", "tile"}
    assert {(i, name) for i, name in zip(ids, names, strict=True)} == set(enumerate(dataset.schema.classes))
    for name in ("scene", "tile"):  # drawn again, the polygons are the map
        with rasterio.open(flat / f"{name}.tif") as own:
            chosen = [(from_wkb(s), 1 + i) for s, i, image in zip(shapes, ids, images, strict=True) if image == name]
            drawn = rasterize(chosen, own.shape, fill=255, transform=own.transform, dtype="uint8")
            np.testing.assert_array_equal(drawn, own.read(1))
    with rasterio.open(flat / "mosaic.tif") as file:  # the scene, and the tile 10 km to the east
        for name, column in (("scene", 0), ("tile", 1000)):
            with rasterio.open(flat / f"{name}.tif") as own:
                part = file.read(1, window=((0, own.height), (column, column + own.width)))
                np.testing.assert_array_equal(part, own.read(1))
    remove_maps(flat)
    assert not [path for path in flat.rglob("*") if path.is_file()]
    again = average(staged, refs, tmp_path, "--layers", "entropy,disagreement,confidence")
    assert again.sha256 == labels.sha256
    assert main(["verify", labels.uri]) == 0


def test_maps_have_the_control_points_and_rpcs_of_their_images(tmp_path):
    """Of images that have no transform: a scene with overviews, and tiles."""
    root = tmp_path / "raw"
    write_config(root, scenes={"max_px": 300, "tile_px": 300, "overlap_px": 20})
    points = tuple((x, y, 5e5 + 9 * x + y, 5e6 - 10 * y, 3.0) for x in (0.0, 320.5, 600.0) for y in (0.0, 100.0))
    rpc = Rpc(coefficients=tuple((np.arange(92) - 1.5).tolist()))
    for name, size in (("scene", 600), ("tile", 90), ("rpc-tile", 90)):
        tags = geo_tags(rpc if "rpc" in name else ControlPoints(crs=0, points=points), LISTED)
        write_image(root / f"test/images/{name}.tif", random_image(1, size), extratags=tags)
        write_label(root / f"test/labels/{name}.png", random_label(1, size))
    args = ["stage-data", "--source", str(root), "--storage-uri", str(tmp_path), "--output-dir", str(tmp_path)]
    assert main([*args, "--num-workers", "1"]) == 0
    dataset = open_dataset(str(tmp_path / "dataset.json"), tmp_path)
    assert sum(tile.control_points is not None for tile in dataset.tiles("test")) == 2
    assert [tile.id for tile in dataset.tiles("test") if tile.rpc == rpc] == ["rpc-tile"]
    refs = [export(tmp_path / model, dataset, model, splits=("test",), probs=made_up) for model in ("x", "y")]
    maps = tmp_path / "maps"
    average(str(tmp_path / "dataset.json"), refs, tmp_path, "--png-dir", str(maps), "--layers", "entropy")
    for path in ("test-scenes/scene.tif", "test/tile.tif", "test-scenes-entropy/scene.tif", "test-entropy/tile.tif"):
        assert_cloud_optimized(maps / path)
        with rasterio.open(maps / path) as file:
            found, crs = file.gcps
            assert crs == UTM
            assert tuple((p.col, p.row, p.x, p.y, p.z) for p in found) == points
            assert file.transform.is_identity
    large = [np.zeros((600, 600), np.uint8)]
    write_map(maps / "large.tif", large, (600, 600), label_style(dataset.schema, {}), rpc, ())
    for path in ("large.tif", "test/rpc-tile.tif", "test-entropy/rpc-tile.tif"):
        assert_cloud_optimized(maps / path)
        with rasterio.open(maps / path) as file:
            assert rpc_of(file) == rpc.coefficients


def test_pixels_without_data_have_no_class(tmp_path):
    """In maps of scenes and tiles, with and without a place; they count in no share."""
    root, rng = tmp_path / "raw", np.random.default_rng(0)
    write_config(root, scenes=SCENES, label_offset=1)
    without = {}
    for seed, (name, (height, width)) in enumerate(SIZES.items()):
        geo = None if name == "bare" else Geo(crs=0, transform=(10.0, 0.0, 5e5 + 1e4 * seed, 0.0, -10.0, 5e6))
        image = np.maximum(np.ascontiguousarray(random_image(seed, 150)[:height, :width]), 1)
        image[:, :20] = 0
        without[name] = np.zeros((height, width), bool)
        without[name][:, :20] = True
        tags = [*geo_tags(geo, LISTED), (42113, 2, 0, "0", True)]
        write_image(root / f"test/images/{name}.tif", image, extratags=tags)
        label = rng.integers(1, 4, (height, width)).astype(np.uint8)
        write_label(root / f"test/labels/{name}.png", np.where(without[name], np.uint8(255), label))
    args = ["stage-data", "--source", str(root), "--storage-uri", str(tmp_path), "--output-dir", str(tmp_path)]
    assert main([*args, "--num-workers", "1"]) == 0
    staged = str(tmp_path / "dataset.json")
    dataset = open_dataset(staged, tmp_path)
    refs = [export(tmp_path / model, dataset, model, splits=("test",), probs=made_up) for model in ("x", "y")]
    maps = tmp_path / "maps"
    labels = average(staged, refs, tmp_path, "--png-dir", str(maps), "--layers", "entropy")
    total = 0
    for name, path in {"scene": "test-scenes/scene.tif", "tile": "test/tile.tif"}.items():
        with rasterio.open(maps / path) as file:
            np.testing.assert_array_equal(file.read(1) == 255, without[name])
            np.testing.assert_array_equal(file.read_masks(1) == 0, without[name])
        with rasterio.open(maps / path.replace("/", "-entropy/")) as file:
            np.testing.assert_array_equal(file.read(1) == 255, without[name])
        total += int((~without[name]).sum())
    with Image.open(maps / "test/bare.png") as png:
        values, colours = np.asarray(png), np.asarray(png.convert("RGBA"))
    np.testing.assert_array_equal(values == 255, without["bare"])
    np.testing.assert_array_equal(colours[..., 3] == 0, without["bare"])
    summary = json.loads(storage.get_bytes(storage.join(storage.parent(labels.uri), "summary.json")))
    assert np.sum(summary["confusion"]) == total + int((~without["bare"]).sum())


def test_layers_of_scenes_are_those_of_the_blended_probabilities(staged, tmp_path):
    """A scene of one window: its layers are the tile's."""
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (150, 100)).transpose(2, 0, 1).astype(np.float32)
    other = np.roll(probs, 1, axis=0)

    def of(scene_probs):
        def window(dataset, split, tile, model):
            y, x = (tile.scene.y, tile.scene.x) if tile.scene else (0, 0)
            return scene_probs[:, y : y + tile.height, x : x + tile.width]

        return window

    dataset = open_dataset(staged, tmp_path)
    refs = [
        export(tmp_path / model, dataset, model, splits=("test",), dtype="float32", probs=of(own))
        for model, own in (("x", probs), ("y", other))
    ]
    maps = tmp_path / "maps"
    average(staged, refs, tmp_path, "--png-dir", str(maps), "--layers", "entropy,disagreement,confidence")
    mean = (probs + other) / 2
    expected = {"entropy": entropy(mean), "confidence": confidence(mean), "disagreement": disagreement([probs, other])}
    for layer, values in expected.items():
        with rasterio.open(maps / f"test-scenes-{layer}/scene.tif") as file:
            np.testing.assert_allclose(file.read(1) * file.scales[0], values, atol=0.6 / 254)
        with rasterio.open(maps / f"test-{layer}/tile.tif") as file:
            np.testing.assert_allclose(file.read(1) * file.scales[0], values[:64, :50], atol=0.6 / 254)


def test_confidence():
    assert confidence(np.array([[[3.0]], [[1.0]]], np.float32)).item() == 0.75
    assert confidence(np.zeros((2, 1, 1), np.float32)).item() == 0


def from_wkb(data: bytes) -> dict:
    """A polygon as GeoJSON has it."""
    assert struct.unpack("<BI", data[:5]) == (1, 3)
    rings, position = [], 9
    for _ in range(struct.unpack_from("<I", data, 5)[0]):
        (count,) = struct.unpack_from("<I", data, position)
        rings.append(np.frombuffer(data, "<f8", 2 * count, position + 4).reshape(-1, 2).tolist())
        position += 4 + 16 * count
    assert position == len(data)
    return {"type": "Polygon", "coordinates": rings}


def test_a_mosaic_draws_all_maps(tmp_path):
    """In blocks that maps cross; the last one by path counts, and nodata does not hide what lies under it."""
    style, rng = label_style(schema(), {}), np.random.default_rng(0)
    (tmp_path / "b").mkdir()
    below, above = (rng.integers(0, 3, shape).astype(np.uint8) for shape in ((600, 530), (90, 700)))
    above[:, :4] = 255
    first, second = (10.0, 0.0, 1000.0, 0.0, -10.0, 5000.0), (10.0, 0.0, 6000.0, 0.0, -10.0, 5100.0)
    paths = ["b/c & d.tif", "a.tif", "turned.tif"]
    for path, values, transform in zip(paths, (above, below, above), (second, first, TURNED), strict=True):
        (tmp_path / path).write_bytes(encode_map(values, style, Geo(crs=0, transform=transform), LISTED))
    assert write_mosaic(tmp_path, paths, style) == (1, 0.0)
    expected = np.full((610, 1200), 255, np.uint8)
    expected[10:, :530] = below
    expected[:90, 504:] = above[:, 4:]
    expected[:10, 500:504] = 255
    assert_cloud_optimized(tmp_path / "mosaic.tif")
    with rasterio.open(tmp_path / "mosaic.tif") as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert (file.crs, file.nodata) == (UTM, 255)
        assert tuple(file.transform)[:6] == (10.0, 0.0, 1000.0, 0.0, -10.0, 5100.0)
        assert file.colormap(1)[2][:3] == COLOURS[2]
    assert (tmp_path / "mosaic.tif.aux.xml").read_bytes() == encode_names(style)
    moved = (10.0, 0.0, 1003.0, 0.0, -10.0, 5000.0)
    (tmp_path / "d.tif").write_bytes(encode_map(below, style, Geo(crs=0, transform=moved), LISTED))
    assert write_mosaic(tmp_path, ["a.tif", "d.tif"], style) == (0, pytest.approx(0.3))


def test_polygons_have_holes_and_end_at_windows(tmp_path, monkeypatch):
    style = label_style(schema(label_offset=1), {})
    labels = np.ones((40, 50), np.uint8)
    labels[10:20, 10:20] = 3
    labels[12:14, 12:14] = 1
    labels[30:, :] = 255
    for path, geo in (("a.tif", Geo(crs=None, transform=TURNED)), ("none.tif", None)):
        write_map(tmp_path / path, [labels], labels.shape, style, geo, ())
    assert write_polygons(tmp_path, ["a.tif", "none.tif"], style) == 1
    assert write_polygons(tmp_path, ["a.tif", "none.tif"], style) == 1  # in place of the first
    meta, _, shapes, (ids, names, images) = pyogrio.raw.read(tmp_path / "polygons.gpkg")
    assert not meta["crs"] or "Undefined" in meta["crs"]
    assert sorted(zip(ids, names, images, strict=True)) == [(0, NAMES[0], "a"), (0, NAMES[0], "a"), (2, NAMES[2], "a")]
    assert sorted(len(from_wkb(shape)["coordinates"]) for shape in shapes) == [1, 2, 2]
    monkeypatch.setattr(landseg.ensemble.maps.polygons, "WINDOW_PX", 16)
    write_polygons(tmp_path, ["a.tif"], style)
    _, _, shapes, (ids, *_) = pyogrio.raw.read(tmp_path / "polygons.gpkg")
    drawn = rasterize(
        [(from_wkb(shape), i + 1) for shape, i in zip(shapes, ids, strict=True)],
        labels.shape,
        fill=255,
        transform=rasterio.Affine(*TURNED),
        dtype="uint8",
    )
    np.testing.assert_array_equal(drawn, labels)
    assert len(shapes) > 8


@pytest.mark.parametrize(
    ("places", "option", "problem"),
    [
        ([None, None], "--mosaic", "expected an image with a transform, north up, found none"),
        ([TURNED, None], "--mosaic", "expected an image with a transform, north up, found none"),
        ([None, None], "--polygons", "expected an image with a transform, found none"),
        (
            [NORTH_UP, (0.5, 0.0, 0.0, 0.0, -0.4, 0.0)],
            "--mosaic",
            "of one size, found 0.5 x 0.5 (0) and 0.5 x 0.4",
        ),
        ([NORTH_UP, (0.5, 0.0, 1e9, 0.0, -0.5, 1e7)], "--mosaic", "from edge to edge"),
        ([NORTH_UP, 4326], "--mosaic", "images in one CRS, found EPSG:32633 (0) and EPSG:4326 (1)"),
        ([NORTH_UP, 4326], "--polygons", "images in one CRS, found EPSG:32633 (0) and EPSG:4326 (1)"),
    ],
)
def test_what_cannot_be_put_together_is_refused(places, option, problem):
    tiles = []
    for name, place in enumerate(places):
        geo = None if place is None else Geo(crs=int(place == 4326), transform=NORTH_UP if place == 4326 else place)
        tiles.append(SimpleNamespace(id=str(name), height=10, width=10, geo=geo))
    manifest = SimpleNamespace(crs=(*LISTED, keys_of(CRS.from_epsg(4326))))
    dataset = SimpleNamespace(manifest=manifest, index={"test": tiles}.__getitem__)
    with pytest.raises(ConfigError, match=re.escape(problem)) as error:
        check_together(dataset, ["test"], mosaic=option == "--mosaic", polygons=option == "--polygons")
    assert str(error.value).startswith(option)
    check_together(dataset, ["test"], mosaic=False, polygons=False)


@contextlib.contextmanager
def room_for(size_bytes):
    """A file system where no file may be larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path):
    """GDAL itself goes on, and leaves a map that cannot be read."""
    style, path = label_style(schema(label_offset=1), {}), tmp_path / "map.tif"
    labels = np.random.default_rng(0).integers(1, 4, (1200, 1200)).astype(np.uint8)
    what = [labels], labels.shape, style, Geo(crs=0, transform=NORTH_UP), LISTED
    write_map(path, *what)
    size = path.stat().st_size
    for part in (0.01, 0.5, 0.9, 0.99):
        with room_for(int(part * size)), pytest.raises((StorageError, OSError), match=r"map\.(plain\.)?tif|too large"):
            write_map(path, *what)
    with room_for(size - 1), pytest.raises(StorageError, match=r"map\.tif: the map cannot be written: "):
        write_map(path, *what)
    write_map(path, *what)
    with (
        room_for(100_000),
        pytest.raises(StorageError, match=r"polygons.gpkg: cannot be written: .* \(is the disk full"),
    ):
        write_polygons(tmp_path, ["map.tif"], style)


def test_maps_behind_a_link_stay(tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "map.tif").touch()
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "val").symlink_to(tmp_path / "others")
    (tmp_path / "maps" / "maps.json").write_text('["val/map.tif"]')
    with pytest.raises(ContractError, match=r"found .val/map\.tif. "):
        remove_maps(tmp_path / "maps")
    assert (tmp_path / "others" / "map.tif").exists()
