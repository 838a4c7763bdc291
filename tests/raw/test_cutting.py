"""Scenes are cut at staging, and their tiles make up the scene again."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import tifffile
from make_foreign_tiffs import ARCHIVE, TRANSFORMS
from raw_tiles import UTM, random_image, random_label, write_config, write_image, write_label

from landseg.contracts.tile import Geo
from landseg.ensemble.maps.geotiff import MapStyle, write_map
from landseg.ensemble.maps.stitching import scenes_of, stitch
from landseg.raw.georeference.tags import geo_tags, read_georeference
from landseg.raw.tiff.decoding import opened_tiff

TRANSFORM = (0.5, 0.0, 600000.0, 0.0, -0.5, 5400000.0)
RULE = {"max_px": 100, "tile_px": 64, "overlap_px": 8}


def scene_image(seed: int, height: int, width: int, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    side = max(height, width)
    return np.ascontiguousarray(random_image(seed, side, bands, dtype)[:height, :width])


def scene_label(seed: int, height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(random_label(seed, max(height, width))[:height, :width])


def write_scene(root, name: str, seed: int, height: int, width: int, **options) -> None:
    tags = geo_tags(Geo(crs=0, transform=TRANSFORM), (UTM,))
    image = scene_image(seed, height, width, options.pop("bands", 3), options.pop("dtype", "uint8"))
    write_image(root / f"train/images/{name}.tif", image, extratags=tags, **options)
    write_label(root / f"train/labels/{name}.png", scene_label(seed, height, width))


@pytest.fixture
def raw(tmp_path):
    root = tmp_path / "raw"
    write_config(root, scenes=RULE)
    write_scene(root, "b", 1, 150, 230, tile=(32, 32), compression="lzw")
    write_scene(root, "b-small", 2, 90, 60)
    write_scene(root, "c", 3, 200, 64, planarconfig="contig")
    return root


def test_scenes_become_tiles_that_make_the_scene_again(raw, stage):
    run = stage(raw)
    assert run.status == 0, run.err
    dataset = run.dataset()
    tiles = dataset.tiles("train")
    assert [tile.id for tile in tiles if tile.scene is None] == ["b-small"]
    scenes = scenes_of(tiles)
    assert [(scene.id, scene.height, scene.width, len(scene.tiles)) for scene in scenes] == [
        ("b", 150, 230, 12),
        ("c", 200, 64, 4),
    ]
    for scene, seed in zip(scenes, (1, 3), strict=True):
        image, label = scene_image(seed, scene.height, scene.width), scene_label(seed, scene.height, scene.width)
        for tile in scene.tiles:
            part = np.s_[tile.scene.y : tile.scene.y + 64, tile.scene.x : tile.scene.x + 64]
            np.testing.assert_array_equal(dataset.read_image("train", tile), image[part])
            np.testing.assert_array_equal(dataset.read_label("train", tile), label[part])

        def one_hot(tile):
            return (dataset.read_label("train", tile) == np.arange(3)[:, None, None]).astype(np.float32)

        np.testing.assert_array_equal(np.concatenate(list(stitch(scene, one_hot))), label)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_sizes_just_below_and_above_the_limit(tmp_path, stage, split):
    """100 px is a tile, 101 px is a scene; 120 = 64 + 56 fits two tiles exactly, 121 needs a third; thin ones too."""
    root = tmp_path / "raw"
    write_config(root, scenes=RULE)
    sizes = {"a": (100, 100), "b": (101, 100), "c": (64, 101), "d": (120, 121), "e": (1, 130), "f": (176, 3)}
    for seed, (name, size) in enumerate(sizes.items()):
        write_image(root / f"{split}/images/{name}.tif", scene_image(seed, *size))
        write_label(root / f"{split}/labels/{name}.png", scene_label(seed, *size))
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    tiles = dataset.tiles(split)
    assert [tile.id for tile in tiles if tile.scene is None] == ["a"]
    found = {scene.id: [(tile.scene.y, tile.scene.x) for tile in scene.tiles] for scene in scenes_of(tiles)}
    assert found == {
        "b": [(0, 0), (0, 36), (37, 0), (37, 36)],
        "c": [(0, 0), (0, 37)],
        "d": [(0, 0), (0, 56), (0, 57), (56, 0), (56, 56), (56, 57)],
        "e": [(0, 0), (0, 56), (0, 66)],
        "f": [(0, 0), (56, 0), (112, 0)],
    }
    for scene in scenes_of(tiles):
        whole = np.concatenate(
            list(
                stitch(
                    scene, lambda tile: np.eye(3, dtype=np.float32)[dataset.read_label(split, tile)].transpose(2, 0, 1)
                )
            )
        )
        np.testing.assert_array_equal(whole, scene_label(list(sizes).index(scene.id), *sizes[scene.id]))


def test_georeference_is_kept_and_moved(raw, stage):
    run = stage(raw)
    dataset = run.dataset()
    assert dataset.manifest.crs == (UTM,)
    tiles = {tile.id: tile for tile in dataset.tiles("train")}
    assert tiles["b-small"].geo == Geo(crs=0, transform=TRANSFORM)
    tile = tiles["b_y000056_x000112"]
    assert tile.geo.transform == (0.5, 0.0, 600056.0, 0.0, -0.5, 5399972.0)
    assert scenes_of(tiles.values())[0].location.transform == TRANSFORM
    with dataset.shard_path("train", tile.shard).open("rb") as file:
        file.seek(tile.image[0])
        path = run.folder / "tile.tif"
        path.write_bytes(file.read(tile.image[1]))
    with tifffile.TiffFile(path) as tiff:
        assert read_georeference(tiff.pages.first).transform == tile.geo.transform
        assert read_georeference(tiff.pages.first).crs == UTM


@pytest.mark.parametrize("name", TRANSFORMS)
def test_georeferences_of_gdal_come_back_in_label_maps(name, tmp_path):
    with zipfile.ZipFile(ARCHIVE) as archive:
        data = archive.read(f"3-uint8-{name}.tif")
    with opened_tiff(data, name) as page:
        georeference, (height, width) = read_georeference(page), page.shape[:2]
    transform, crs, *_ = georeference
    assert transform == TRANSFORMS[name]
    assert crs is not None
    rows = [np.zeros((height, width), np.uint8)]
    geo = Geo(crs=0, transform=transform)
    write_map(tmp_path / "labels.tif", rows, (height, width), MapStyle(255, {0: "a"}, ((1, 2, 3),)), geo, (crs,))
    with tifffile.TiffFile(tmp_path / "labels.tif") as tiff:
        assert read_georeference(tiff.pages.first) == georeference


def test_cutting_is_deterministic_and_cut_tiles_are_not_uploaded_again(raw, stage, tmp_path):
    first = stage(raw).loaded
    assert stage(raw, "--num-workers", "3", store=tmp_path / "other").loaded.sha256 == first.sha256
    again = stage(raw)
    assert again.loaded.sha256 == first.sha256
    assert "0.0 MB of shards uploaded" in again.out


@pytest.mark.parametrize(("bands", "dtype", "planar"), [(1, "uint8", None), (5, "uint16", "separate")])
def test_other_bands_and_types(tmp_path, stage, bands, dtype, planar):
    root = tmp_path / "raw"
    write_config(root, scenes=RULE, scale={"method": "range", "low": 0, "high": 255})
    image = scene_image(1, 120, 130, bands, dtype)
    stored = image[:, :, 0] if bands == 1 else image.transpose(2, 0, 1) if planar else image
    write_image(
        root / "test/images/s.tif",
        np.ascontiguousarray(stored),
        photometric="minisblack",
        **({"planarconfig": planar} if planar else {}),
    )
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    for tile in dataset.tiles("test"):
        expected = np.clip(image[tile.scene.y :, tile.scene.x :][:64, :64], 0, 255)
        np.testing.assert_array_equal(dataset.read_image("test", tile), expected)


def test_bad_scenes_are_problems_like_others(raw, stage, tmp_path):
    write_label(raw / "train/labels/b.png", scene_label(1, 150, 229))
    write_label(raw / "train/labels/c.png", scene_label(1, 200, 64) + np.uint8(7))
    run = stage(raw)
    assert run.status == 2
    problems = {item["where"].rpartition("/")[2]: item["problem"] for item in run.checks["problems"]}
    assert "differ in size: expected 150x230" in problems["b.png"]
    assert "outside the class list" in problems["c.png"]
    skipping = stage(raw, "--on-bad-tile", "skip")
    assert [tile.id for tile in skipping.dataset().tiles("train")] == ["b-small"]


def test_a_scene_leaves_room_for_the_names_of_its_tiles(raw, stage):
    write_scene(raw, "s" * 184, 4, 150, 64)
    assert stage(raw).status == 0
    write_scene(raw, "s" * 185, 5, 150, 64)
    run = stage(raw)
    assert run.status == 2
    assert [item["problem"] for item in run.checks["problems"]] == [
        "expected a scene's file name of at most 184 bytes without its extension, found 185"
    ]


def test_a_tile_named_like_a_cut_one(raw, stage):
    write_scene(raw, "b_y000000_x000000", 9, 20, 20)
    run = stage(raw)
    assert run.status == 2
    assert "has the same name as another" in run.error


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"max_px": 100, "tile_px": 128}, "must not exceed max_px"),
        ({"max_px": 100, "tile_px": 64, "overlap_px": 33}, "must not exceed half"),
        ({"max": 3}, "scenes.max"),
    ],
)
def test_impossible_rules(raw, stage, rule, expected):
    write_config(raw, scenes=rule)
    assert expected in stage(raw).error
