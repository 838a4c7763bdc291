"""The georeference of images and labels: read as GDAL reads it, and compared."""

from __future__ import annotations

import io
import shlex

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import Affine, from_origin
from rasterio.warp import Resampling, reproject
from raw_tiles import random_image, random_label, write_config, write_image, write_label

from landseg.contracts.tile import ControlPoints, Geo, Rpc
from landseg.raw.georeference.crs import crs_of, describe_crs, keys_of, rpc_of
from landseg.raw.georeference.tags import Georeference, geo_tags, read_georeference

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

TIE = (0.0, 0.0, 0.0, 500000.0, 5000000.0, 0.0)
MATRIX = (8.0, 6.0, 0.0, 500000.0, 6.0, -8.0, 0.0, 5000000.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def scale(*values: float):
    return (33550, 12, len(values), values, True)


def tie(*values: float):
    return (33922, 12, len(values), values, True)


def keys(raster_type: int = 1):
    return (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, raster_type, 3072, 0, 1, 32633), True)


matrix = (34264, 12, 16, MATRIX, True)
TAGS = {
    "plain": [scale(10, 10, 0), tie(*TIE)],
    "two numbers of scale": [scale(10, 20), tie(*TIE)],
    "tie point inside": [scale(10, 10, 0), tie(3, 2, *TIE[2:])],
    "negative ScaleY": [scale(10, -10, 0), tie(3, 2, *TIE[2:])],
    "negative ScaleX": [scale(-10, 10, 0), tie(*TIE)],
    "two tie points": [scale(10, 10, 0), tie(*TIE, 5, 4, 0, 500055.0, 4999944.0, 0)],
    "matrix": [matrix],
    "scale before matrix": [matrix, scale(10, 10, 0), tie(*TIE)],
    "scale of zero": [scale(0, 10, 0), tie(*TIE)],
    "zero and matrix": [scale(0, 10, 0), tie(*TIE), matrix],
    "control points": [tie(*TIE, 5, 0, 0, 500050.0, 5000000.0, 0, 0, 4, 0, 500000.0, 4999960.0, 0)],
    "nothing": [],
}


def tiff(tags, size=(4, 5)) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros(size, np.uint8), metadata=None, extratags=tags)
    return buffer.getvalue()


def georeference(data: bytes) -> Georeference:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return read_georeference(file.pages.first)


def of_gdal(data: bytes) -> tuple[tuple[float, ...] | None, CRS | None]:
    with MemoryFile(data, ext=".tif") as memory, memory.open() as dataset:
        return None if dataset.transform.is_identity else tuple(dataset.transform)[:6], dataset.crs


@pytest.mark.parametrize("raster_type", [1, 2])
@pytest.mark.parametrize("name", TAGS)
def test_tags_mean_what_gdal_says(name, raster_type):
    data = tiff([*TAGS[name], keys(raster_type)])
    found = georeference(data)
    transform, crs = of_gdal(data)
    assert found.transform == transform
    if transform is not None:
        assert crs_of(found.crs) == crs
        again = tiff(geo_tags(Geo(crs=0, transform=found.transform), (found.crs,)))
        assert of_gdal(again) == (transform, crs)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("raster_type", [1, 2])
def test_tie_points_without_a_transform_are_control_points(raster_type, few):
    data = tiff([TAGS["control points"][0] if few else tie(*np.arange(1200.0)), keys(raster_type)])
    found = georeference(data)
    again = tiff(geo_tags(ControlPoints(crs=0, points=found.control_points), (found.crs,)))
    for one in (data, again):
        with MemoryFile(one, ext=".tif") as memory, memory.open() as dataset:
            points, crs = dataset.gcps
            assert crs == crs_of(found.crs)
            assert tuple((p.col, p.row, p.x, p.y, p.z) for p in points) == found.control_points
    assert len(found.control_points) == (3 if few else 200)


RPC = tuple((np.arange(92) - 1.5).tolist())


def test_rpcs_are_kept_where_nothing_else_says_where_an_image_lies():
    data = tiff(geo_tags(Rpc(coefficients=RPC), ()))
    assert georeference(data) == Georeference(None, None, (), RPC)
    with MemoryFile(data, ext=".tif") as memory, memory.open() as dataset:
        assert rpc_of(dataset) == RPC
        written = dataset.rpcs
    with MemoryFile(ext=".tif") as memory:
        with memory.open(driver="GTiff", height=1, width=1, count=1, dtype="uint8") as dataset:
            dataset.rpcs = written
        assert georeference(memory.read()) == Georeference(None, None, (), RPC)
    rpc = (50844, 12, 92, RPC, True)
    assert georeference(tiff([*TAGS["plain"], rpc, keys()])).rpc == ()
    assert georeference(tiff([*TAGS["control points"], rpc, keys()])).rpc == ()
    for damaged in (RPC[:91], (np.nan, *RPC[1:])):
        assert georeference(tiff([(50844, 12, len(damaged), damaged, True)])) == Georeference()


def test_the_size_of_pixels_is_no_place():
    assert georeference(tiff([scale(10, 10, 0), keys()])).transform is None


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_crs_names_beyond_ascii(encoding):
    texts = ["Système côtier|", "Zürich|"]
    raw = [text.encode(encoding) for text in texts]
    entries = (1026, 34737, len(raw[0]), 0, 2049, 34737, len(raw[1]), len(raw[0]), 3072, 0, 1, 32633)
    directory = (1, 1, 0, 5, 1024, 0, 1, 1, 1025, 0, 1, 1, *entries)
    names = (34737, 2, 0, b"".join(raw), True)
    data = tiff([*TAGS["plain"], (34735, 3, len(directory), directory, True), names])
    found = georeference(data)
    assert found.crs.ascii == "".join(texts)
    again = tiff(geo_tags(Geo(crs=0, transform=found.transform), (found.crs,)))
    assert georeference(again) == found
    assert of_gdal(again) == of_gdal(data)


def test_a_scene_with_such_a_name_is_cut(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root, scenes={"max_px": 64, "tile_px": 64, "overlap_px": 8})
    text = "Système côtier|".encode()
    directory = (1, 1, 0, 3, 1024, 0, 1, 1, 1026, 34737, len(text), 0, 3072, 0, 1, 32633)
    tags = [*TAGS["plain"], (34735, 3, len(directory), directory, True), (34737, 2, 0, text, True)]
    write_image(root / "train/images/a.tif", random_image(1, 100), extratags=tags)
    write_label(root / "train/labels/a.png", random_label(1, 100))
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    tile = dataset.tiles("train")[-1]
    with dataset.shard_path("train", tile.shard).open("rb") as file:
        file.seek(tile.image[0])
        transform, crs = of_gdal(file.read(tile.image[1]))
    assert transform == (10.0, 0.0, 500360.0, 0.0, -10.0, 4999640.0)
    assert crs == CRS.from_epsg(32633)


@pytest.mark.parametrize("code", [4326, 3857, 25832, 2154, 31370, 5514, 3035])
def test_a_crs_becomes_keys_and_comes_back(code):
    crs = CRS.from_epsg(code)
    assert crs_of(keys_of(crs)) == crs
    assert describe_crs(keys_of(crs)) == f"EPSG:{code}"


def write_gtiff(path, array, transform, crs) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = array.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, transform=transform, crs=crs) as file:
        file.write(array)


UTM = CRS.from_epsg(32633)
GRID = from_origin(500000, 5000000, 10, 10)


def dataset_with_label(root, transform, crs, *, grid=GRID, image_crs=UTM, size=24, **config):
    write_config(root, **config)
    write_gtiff(root / "train/images/t.tif", random_image(1, size).transpose(2, 0, 1), grid, image_crs)
    write_gtiff(root / "train/labels/t.tif", random_label(1, size)[None], transform, crs)
    return root


PROJ_STRING = "+proj=utm +zone=33 +datum=WGS84 +units=m"


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (GRID, UTM),
        (GRID, CRS.from_proj4(PROJ_STRING)),
        (GRID, CRS.from_wkt(UTM.to_wkt(version="WKT1_ESRI"))),
        (GRID, CRS.from_epsg(25833)),
        (GRID, None),
        (from_origin(500000.05, 4999999.95, 10, 10), UTM),
        (Affine.identity(), None),
    ],
    ids=["same", "PROJ string", "Esri's names", "ETRS89, less than a metre away", "no CRS", "rounded", "none"],
)
def test_a_label_on_its_image(tmp_path, stage, transform, crs):
    run = stage(dataset_with_label(tmp_path / "raw", transform, crs))
    assert run.status == 0, run.err


@pytest.mark.parametrize(
    ("transform", "crs", "found"),
    [
        (from_origin(500100, 5000000, 10, 10), UTM, "found one 10 px to the right (origin 500100, 5000000, the imag"),
        (from_origin(500000, 4999998, 10, 10), UTM, "found one 0.2 px down (origin"),
        (from_origin(499990, 5000010, 10, 10), UTM, "found one 1 px to the left and 1 px up (origin"),
        (
            from_origin(500000, 5000000, 20, 20),
            UTM,
            "found one with pixels of 20 x 20 in place of 10 x 10, with the same upper left corner (or",
        ),
        (GRID, CRS.from_epsg(32632), "found one in EPSG:32632 in place of EPSG:32633, 4"),
    ],
)
@pytest.mark.parametrize("size", [24, 100])
def test_a_label_off_its_image(tmp_path, stage, transform, crs, found, size):
    """As a tile, and as a scene."""
    scenes = {"max_px": 64, "tile_px": 64, "overlap_px": 8}
    run = stage(dataset_with_label(tmp_path / "raw", transform, crs, size=size, scenes=scenes))
    assert run.status == 2
    assert "labels/t.tif: expected a label that lies on its image" in run.error
    assert found in run.error


def gdalwarp(line: str, folder) -> None:
    """What the program does with the options that landseg advises."""
    words = shlex.split(line)
    option = {word: words[i + 1 :] for i, word in enumerate(words)}
    west, south, east, north = map(float, option["-te"][:4])
    width, height = map(int, option["-ts"][:2])
    ignored = int(option["-dstnodata"][0])
    assert option["-r"][0] == "near"
    with rasterio.open(folder / words[-2]) as source:
        crs = CRS.from_user_input(option["-t_srs"][0]) if "-t_srs" in option else source.crs
        target = Affine((east - west) / width, 0, west, 0, (south - north) / height, north)
        out = np.full((1, height, width), ignored, np.uint8)
        grids = {"src_transform": source.transform, "src_crs": source.crs, "dst_transform": target, "dst_crs": crs}
        reproject(source.read(), out, **grids, resampling=Resampling.nearest, init_dest_nodata=False)
    write_gtiff(folder / words[-1], out, target, crs)


@pytest.mark.parametrize("crs", [UTM, CRS.from_epsg(32634)])
def test_the_advice_aligns_a_label(tmp_path, stage, crs):
    west, north = (one for (one,) in rasterio.warp.transform(UTM, crs, [500030], [5000000]))
    root = dataset_with_label(tmp_path / "raw", from_origin(west, north, 10, 10), crs)
    before = random_label(1)
    run = stage(root)
    line = run.error.split("align it: ")[1].split(";")[0]
    assert line.startswith("gdalwarp")
    assert ("-t_srs EPSG:32633" in line) == (crs != UTM)
    labels = root / "train/labels"
    gdalwarp(line, labels)
    (labels / "aligned.tif").replace(labels / "t.tif")
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    (tile,) = dataset.tiles("train")
    aligned = dataset.read_label("train", tile)
    assert (aligned != 255).any()
    if crs == UTM:
        np.testing.assert_array_equal(aligned[:, 3:], before[:, :-3])
        assert (aligned[:, :3] == 255).all()


def test_the_advice_for_a_turned_image(tmp_path, stage):
    from click.testing import CliRunner
    from rasterio.rio.main import main_group

    turned = Affine(8, 6, 500000, 6, -8, 5000000)
    root = dataset_with_label(tmp_path / "raw", turned @ Affine.translation(2, 0), UTM, grid=turned)
    line = stage(root).error.split("align it: ")[1].split(";")[0]
    words = shlex.split(line)
    assert words[:2] == ["rio", "warp"]
    labels, images = root / "train/labels", root / "train/images"
    paths = {"t.tif": str(labels / "t.tif"), "aligned.tif": str(tmp_path / "aligned.tif")}
    args = [paths.get(word, word) for word in words[1:]]
    args[args.index("--like") + 1] = str(images / "t.tif")
    result = CliRunner().invoke(main_group, args)
    assert result.exit_code == 0, result.output
    (tmp_path / "aligned.tif").replace(labels / "t.tif")
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    (tile,) = dataset.tiles("train")
    np.testing.assert_array_equal(dataset.read_label("train", tile)[:, 2:], random_label(1)[:, :-2])
