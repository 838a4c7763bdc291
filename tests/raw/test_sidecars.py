"""World files, .prj and .aux.xml: what they say is what GDAL reads from them."""

from __future__ import annotations

import io
import shutil
import uuid
from contextlib import ExitStack
from html import escape

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from raw_tiles import random_image, random_label, write_config, write_image, write_label

from landseg.contracts.tile import MAX_CONTROL_POINTS, Geo
from landseg.raw.georeference.crs import crs_of, keys_of
from landseg.raw.georeference.sidecars import list_sidecars, sidecars_of, with_sidecars
from landseg.raw.georeference.tags import Georeference, geo_tags
from landseg.raw.sources.source_file import SourceFile

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

ZONE_32, ZONE_33 = CRS.from_epsg(32632), CRS.from_epsg(32633)
WORLD = b"0.09\n0\n0\n-0.09\n496000.045\n5419999.955\n"
GDAL_AUX = f"""<PAMDataset>
  <SRS dataAxisToSRSAxisMapping="1,2">{ZONE_32.to_wkt()}</SRS>
  <GeoTransform> 1000, 2, 0, 2000, 0, -2</GeoTransform>
</PAMDataset>""".encode()
ESRI_AUX = f"""<PAMDataset><Metadata domain="xml:ESRI" format="xml"><GeodataXform
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:typens="http://www.esri.com/schemas/ArcGIS/10.1"
  xsi:type="typens:IdentityXform"><SpatialReference xsi:type="typens:ProjectedCoordinateSystem"><WKT>{
    ZONE_32.to_wkt(version="WKT1_ESRI")
}</WKT></SpatialReference></GeodataXform></Metadata></PAMDataset>""".encode()
STATISTICS = b"<PAMDataset><PAMRasterBand band='1'><Metadata><MDI key='STATISTICS_MEAN'>1</MDI></Metadata>"
STATISTICS += b"</PAMRasterBand></PAMDataset>"
POINTS_AUX = f"""<PAMDataset><GCPList Projection="{escape(ZONE_32.to_wkt())}">
  <GCP Id="1" Pixel="0.5" Line="1" X="1000" Y="2000"/><GCP Id="2" Pixel="3" Line="4" X="1020" Y="1990" Z="7"/>
</GCPList></PAMDataset>""".encode()
TAGGED = Georeference((10.0, 0.0, 5e5, 0.0, -10.0, 5e6), keys_of(ZONE_33))


def of_gdal(own: Georeference, sidecars: dict[str, bytes]) -> tuple[tuple[float, ...] | None, CRS | None]:
    """What GDAL reads from a TIFF with these files next to it."""
    buffer, folder = io.BytesIO(), uuid.uuid4().hex
    tags = geo_tags(own.transform and Geo(crs=0, transform=own.transform), (own.crs,))
    tifffile.imwrite(buffer, np.zeros((4, 5), np.uint8), metadata=None, extratags=tags)
    with ExitStack() as stack:
        for name, data in {"a.tif": buffer.getvalue(), **sidecars}.items():
            stack.enter_context(MemoryFile(data, dirname=folder, filename=name))
        with rasterio.open(f"/vsimem/{folder}/a.tif") as dataset:
            return None if dataset.transform.is_identity else tuple(dataset.transform)[:6], dataset.crs


def read(own: Georeference, sidecars: dict[str, bytes]) -> tuple[Georeference, list[tuple[str, str]]]:
    listed = list_sidecars([SourceFile(f"train/images/{name}", len(data)) for name, data in sidecars.items()])
    files = sidecars_of("train/images/a.tif", listed)
    return with_sidecars(own, [(file.path, sidecars[file.path.rpartition("/")[2]]) for file in files])


@pytest.mark.parametrize("own", [Georeference(), TAGGED], ids=["bare", "tagged"])
@pytest.mark.parametrize(
    "sidecars",
    [
        {"a.tfw": WORLD},
        {"a.TFW": WORLD},
        {"a.tifw": WORLD},
        {"a.wld": WORLD},
        {"a.tfw": WORLD, "a.wld": b"1\n0\n0\n-1\n0\n0\n"},
        {"a.tfw": b"8,5\r\n6.25\r\n6.25\r\n-8,5\r\n500000\r\n5000000\r\n"},
        {"a.tif.aux.xml": GDAL_AUX},
        {"a.tif.aux.xml": ESRI_AUX, "a.tfw": WORLD},
        {"a.tif.aux.xml": GDAL_AUX, "a.tfw": WORLD},
        {"a.tif.aux.xml": STATISTICS, "a.tfw": WORLD},
        {"b.tfw": WORLD, "a.aux.xml": GDAL_AUX, "a.jgw": WORLD},
    ],
    ids=lambda sidecars: "+".join(sidecars),
)
def test_sidecars_say_what_gdal_reads(own, sidecars):
    found, problems = read(own, sidecars)
    assert problems == []
    transform, crs = of_gdal(own, sidecars)
    assert found.transform == pytest.approx(transform, abs=1e-9) if transform else found.transform is None
    assert (found.crs and crs_of(found.crs)) == crs


def test_control_points_in_a_sidecar():
    found, problems = read(Georeference(), {"a.tif.aux.xml": POINTS_AUX})
    assert problems == []
    assert crs_of(found.crs) == ZONE_32
    assert found.control_points == ((0.5, 1.0, 1000.0, 2000.0, 0.0), (3.0, 4.0, 1020.0, 1990.0, 7.0))
    assert read(TAGGED, {"a.tif.aux.xml": POINTS_AUX})[0].control_points == ()


@pytest.mark.parametrize("version", ["WKT1_GDAL", "WKT1_ESRI", "WKT2_2019"])
@pytest.mark.parametrize("code", [32632, 25832, 2154, 31467])
def test_a_prj_gives_the_crs(code, version):
    """GDAL reads it next to other formats only, but it lies next to TIFFs as well."""
    crs = CRS.from_epsg(code)
    (found, problems) = read(Georeference(), {"a.tfw": WORLD, "a.prj": crs.to_wkt(version=version).encode()})
    assert problems == []
    assert found.transform == pytest.approx((0.09, 0.0, 496000.0, 0.0, -0.09, 5420000.0))
    assert crs_of(found.crs).to_epsg() == code
    assert read(TAGGED, {"a.prj": crs.to_wkt().encode()})[0] == TAGGED


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.tfw", b"0.09\n0\n0\n", "six numbers"),
        ("a.tfw", b"", "six numbers"),
        ("a.tfw", b"version https://git-lfs.github.com/spec/v1", "six numbers"),
        ("a.tfw", b"0\n0\n0\n0\n1\n2\n", "pixels have no size"),
        ("a.tfw", b"nan\n0\n0\n1\n1\n2\n", "pixels have no size"),
        ("a.prj", b"UTM zone 32", "coordinate reference system in WKT"),
        ("a.prj", b"\xff\xfe\x00", "coordinate reference system in WKT"),
        ("a.tif.aux.xml", b"<PAMDataset><SRS>nothing</SRS></PAMDataset>", "none that can be used"),
        ("a.tif.aux.xml", b"<PAMDataset><SRS>", "none that can be used"),
    ],
)
def test_what_is_not_understood_is_reported(name, data, problem):
    found, problems = read(TAGGED, {name: data})
    bare, again = read(Georeference(), {name: data})
    assert bare == Georeference()
    assert found == TAGGED
    ((path, said),) = again
    assert path == f"train/images/{name}"
    assert problem in said
    assert problems in ([], again)  # a world file that does not count is not read


PLACE = (0.09, 0.0, 496000.0, 0.0, -0.09, 5420000.0)


def world_file_dataset(root, suffix="tif", **sidecars: bytes):
    """A tile and a scene of one kind of image, each with the sidecars."""
    write_config(root, scenes={"max_px": 64, "tile_px": 64, "overlap_px": 8})
    for seed, (name, size) in enumerate((("tile", 40), ("scene", 100))):
        write_image(root / f"train/images/{name}.tif", random_image(seed, size))
        if suffix == "png":
            Image.fromarray(random_image(seed, size)).save(root / f"train/images/{name}.png")
            (root / f"train/images/{name}.tif").unlink()
        write_label(root / f"train/labels/{name}.png", random_label(seed, size))
        for ending, data in sidecars.items():
            (root / f"train/images/{name}.{ending.replace('_', '.')}").write_bytes(data)
    return root


@pytest.mark.parametrize(("suffix", "world"), [("tif", "tfw"), ("png", "pgw")])
def test_staged_with_world_files(tmp_path, stage, suffix, world):
    """From a folder and from an archive; tiles cut from the scene have it in their tags."""
    root = world_file_dataset(tmp_path / "raw", suffix, **{world: WORLD, "prj": ZONE_32.to_wkt().encode()})
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    tiles = {tile.id: tile for tile in dataset.tiles("train")}
    assert tiles["tile"].geo.transform == pytest.approx(PLACE)
    assert [crs_of(keys) for keys in dataset.manifest.crs] == [ZONE_32]
    cut = tiles["scene_y000036_x000036"]
    with dataset.shard_path("train", cut.shard).open("rb") as file:
        file.seek(cut.image[0])
        with MemoryFile(file.read(cut.image[1])) as memory, memory.open() as image:
            assert tuple(image.transform)[:6] == pytest.approx((0.09, 0.0, 496003.24, 0.0, -0.09, 5419996.76))
            assert image.crs == ZONE_32
    shutil.make_archive(str(tmp_path / "raw"), "zip", root)
    assert stage(tmp_path / "raw.zip", store=tmp_path / "other").loaded.sha256 == run.loaded.sha256
    again = stage(tmp_path / "raw.zip")
    assert again.loaded.sha256 == run.loaded.sha256
    # another place is another dataset, though the image is the same
    moved = WORLD.replace(b"496000.045", b"496009.045")
    (root / f"train/images/tile.{world}").write_bytes(moved)
    changed = stage(root)
    assert changed.loaded.document.dataset_id != run.loaded.document.dataset_id
    assert {tile.id: tile for tile in changed.dataset().tiles("train")}["tile"].geo.transform[2] == 496009.0


def test_what_is_not_understood_is_a_note(tmp_path, stage):
    run = stage(world_file_dataset(tmp_path / "raw", tfw=b"nothing", prj=ZONE_32.to_wkt().encode()))
    assert run.status == 0, run.err
    assert "train/images/tile.tfw and 1 other (scene.tfw" in run.out
    assert "expected the six numbers of a world file" in run.out
    assert all(tile.geo is None for tile in run.dataset().tiles("train"))


def label_dataset(root, side=40, **sidecars: bytes):
    """A tile with a world file, and its label, a PNG, with sidecars of its own."""
    write_config(root)
    write_image(root / "train/images/tile.tif", random_image(0, 40))
    (root / "train/images/tile.tfw").write_bytes(WORLD)
    write_label(root / "train/labels/tile.png", random_label(0, side))
    for ending, data in sidecars.items():
        (root / f"train/labels/tile.{ending.replace('_', '.')}").write_bytes(data)
    return root


def test_a_label_whose_world_file_lies_elsewhere_is_refused(tmp_path, stage):
    """Also where only the world file has changed since the tile was staged."""
    moved = WORLD.replace(b"496000.045", b"496000.315")
    root = label_dataset(tmp_path / "raw", pgw=moved)
    run = stage(root)
    assert run.status == 2
    assert "expected a label that lies on its image, found one 3 px to the right" in run.error, run.error
    (root / "train/labels/tile.pgw").write_bytes(WORLD)
    assert stage(root).status == 0
    assert stage(root).status == 0
    (root / "train/labels/tile.pgw").write_bytes(moved)
    assert stage(root).status == 2
    shutil.make_archive(str(tmp_path / "raw"), "zip", root)
    assert stage(tmp_path / "raw.zip").status == 2


def test_a_larger_label_is_cut_by_its_world_file(tmp_path, stage):
    """Without one it is of the wrong size."""
    root = label_dataset(tmp_path / "raw", side=60)
    run = stage(root)
    assert run.status == 2
    assert "expected 40x40 px as in the image, found 60x60" in run.error
    corner = b"0.09\n0\n0\n-0.09\n495999.145\n5420000.405\n"  # 10 px to the left of the image's, 5 px above it
    (root / "train/labels/tile.pgw").write_bytes(corner)
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    (tile,) = dataset.tiles("train")
    np.testing.assert_array_equal(dataset.read_label("train", tile), random_label(0, 60)[5:45, 10:50])


def test_a_sidecar_of_a_label_that_is_not_understood_is_a_note(tmp_path, stage):
    run = stage(label_dataset(tmp_path / "raw", pgw=b"nothing", png_aux_xml=STATISTICS))
    assert run.status == 0, run.err
    assert "train/labels/tile.pgw: expected the six numbers of a world file" in run.out


def test_orientation_and_control_points_are_remarked(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    points = (33922, 12, 12, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0, 5.0, 4.0, 0.0, 500050.0, 4999960.0, 0.0), True)
    write_image(root / "train/images/turned.tif", random_image(0), extratags=[(274, 3, 1, 6, True)])
    write_image(root / "train/images/points.tif", random_image(1), extratags=[points])
    write_image(root / "train/images/plain.tif", random_image(2), extratags=[(274, 3, 1, 1, True)])
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(random_image(3)).save(root / "train/images/photo.jpg", exif=exif, quality=95)
    for name in ("turned", "points", "photo"):
        write_label(root / f"train/labels/{name}.png", random_label(0))
    write_image(root / "train/labels/plain.tif", random_label(0), extratags=[(274, 3, 1, 8, True)])
    run = stage(root)
    assert run.status == 0, run.err
    assert "turned.tif: its Orientation is 6, turned or mirrored: pixels are read as stored" in run.out
    assert "photo.jpg: its Orientation is 3" in run.out
    assert "points.tif" not in run.out
    assert "images/plain.tif" not in run.out
    assert "labels/plain.tif: its Orientation is 8, turned or mirrored: pixels are read as stored" in run.out
    points = {tile.id: tile.control_points for tile in run.dataset().tiles("train")}
    assert points["points"].points == ((0.0, 0.0, 5e5, 5e6, 0.0), (5.0, 4.0, 500050.0, 4999960.0, 0.0))
    assert points["plain"] is None


def test_too_many_control_points_are_remarked(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    count = MAX_CONTROL_POINTS + 1
    points = (33922, 12, 6 * count, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0) * count, True)
    write_image(root / "train/images/swath.tif", random_image(1), extratags=[points])
    write_label(root / "train/labels/swath.png", random_label(0))
    run = stage(root)
    assert run.status == 0, run.err
    assert f"swath.tif: expected at most {MAX_CONTROL_POINTS} ground control points" in run.out
