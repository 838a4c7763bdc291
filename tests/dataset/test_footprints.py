"""Tiles of different splits that share ground, and georeferences that do not fit together."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform
from raw_tiles import random_image, random_label, write_config, write_image, write_label

from landseg.contracts.tile import Geo, Tile
from landseg.dataset.staging.review.footprints import Footprints
from landseg.raw.georeference.crs import keys_of
from landseg.raw.georeference.tags import geo_tags

ZONE_33, ZONE_32, DEGREES = (CRS.from_epsg(code) for code in (32633, 32632, 4326))
LISTED = tuple(keys_of(crs) for crs in (ZONE_33, ZONE_32, DEGREES))


def tile(
    name: str, x: float, y: float = 5e6, *, size=(64, 64), pixel=10.0, crs: int | None = 0, turn=(0.0, 0.0)
) -> Tile:
    geo = Geo(crs=crs, transform=(pixel, turn[0], x, turn[1], -pixel, y))
    return Tile.model_construct(id=name, height=size[0], width=size[1], geo=geo)


def findings(**splits: list[Tile]) -> list[str]:
    footprints = Footprints()
    for split, tiles in splits.items():
        for one in tiles:
            footprints.add(split, one)
    return list(footprints.findings(LISTED))


def test_half_of_each_val_tile_lies_on_train(tmp_path, stage):
    """Twelve tiles cut from one mosaic, each half a tile further on."""
    root = tmp_path / "raw"
    write_config(root)
    mosaic = random_image(5, 24 * 7)[:24]
    for k in range(12):
        split = "val" if k % 4 == 3 else "train"
        geo = Geo(crs=0, transform=(10.0, 0.0, 5e5 + 120 * k, 0.0, -10.0, 5e6))
        part = np.ascontiguousarray(mosaic[:, 12 * k : 12 * k + 24])
        write_image(root / split / f"images/t{k}.tif", part, extratags=geo_tags(geo, LISTED))
        write_label(root / split / f"labels/t{k}.png", random_label(k))
    for _ in range(2):  # staged, then found as it was staged
        run = stage(root)
        (found,) = [line for line in run.checks["warnings"] if "ground" in line]
        assert found.startswith(
            "3 val tiles overlap train tiles on the ground (t11 by 50 % with t10, t3 by 50 % with t2,"
        )


def test_neighbours_only_touch():
    tiles = [tile(f"{i}", 5e5 + 640 * i + 0.05 * (i % 2), 5e6 + 640 * j) for i in range(4) for j in range(3)]
    assert findings(train=tiles[::2], val=tiles[1::2]) == []


@pytest.mark.parametrize(
    ("x", "y", "share"),
    [(10, 0, "98 %"), (630, 0, "2 %"), (630, 630, "less than 1 %"), (-320, 320, "25 %"), (0, 0, "100 %")],
)
def test_shares(x, y, share):
    (found,) = findings(train=[tile("a", 5e5)], val=[tile("b", 5e5 + x, 5e6 + y)])
    assert found.startswith(f"1 val tile overlaps train tiles on the ground (b by {share} with a): scores on val")


def test_the_largest_overlap_of_every_pair_of_splits():
    train = [tile("a", 5e5), tile("b", 5e5 + 400), tile("c", 5e5 + 20000)]
    found = findings(train=train, val=[tile("v", 5e5 + 560)], test=[tile("w", 5e5 + 640)])
    assert [line.split(":")[0] for line in found] == [
        "1 val tile overlaps train tiles on the ground (v by 75 % with b)",
        "1 test tile overlaps train tiles on the ground (w by 62 % with b)",
        "1 test tile overlaps val tiles on the ground (w by 88 % with v)",
    ]


def test_turned_tiles():
    """Turned by 45 degrees, bounding boxes overlap where tiles do not."""
    turned = {"pixel": 7.0, "turn": (7.0, 7.0)}
    a = tile("a", 5e5, **turned)
    assert findings(train=[a], val=[tile("b", 5e5 + 448, 5e6 + 448, **turned)]) == []
    (found,) = findings(train=[a], val=[tile("b", 5e5 + 224, 5e6 + 224, **turned)])
    assert "(b by 50 % with a)" in found


def test_tiles_of_another_zone_are_compared_where_they_lie():
    x, y = (values[0] for values in transform(ZONE_33, ZONE_32, [3e5], [5e6]))
    found = findings(train=[tile("a", 3e5), tile("far", 5e5)], val=[tile("b", x, y, crs=1)])
    assert found[0] == "tiles in 2 coordinate reference systems: EPSG:32633 (2 tiles), EPSG:32632 (1 tiles: val/b)"
    assert "(b by 9" in found[1]
    assert len(found) == 2


def test_one_crs_under_two_names_is_one():
    footprints = Footprints()
    footprints.add("train", tile("a", 5e5))
    footprints.add("val", tile("b", 5e5, crs=1))
    named = LISTED[0].model_copy(update={"ascii": LISTED[0].ascii.replace("UTM zone 33N", "our own name")})
    assert named != LISTED[0]
    (found,) = footprints.findings((LISTED[0], named))
    assert "by 100 %" in found


def test_pixel_sizes():
    coarse = tile("coarse", 7e5, pixel=20.0)
    (found,) = findings(train=[tile("a", 5e5), tile("b", 6e5, pixel=10.1), coarse])
    assert found == "pixel sizes differ: from 10 m (train/a, train/b) to 20 m (train/coarse)"
    assert (
        findings(train=[tile("a", 12.0, 48.0, pixel=1e-4, crs=2)], val=[tile("b", 13.0, 48.0, pixel=1e-4, crs=2)]) == []
    )


def test_some_without_georeference():
    bare = tile("bare", 0).model_copy(update={"geo": None})
    assert findings(train=[bare]) == []
    assert findings(train=[tile("a", 5e5), bare]) == ["1 of 2 tiles have no georeference (train/bare)"]
    (found,) = findings(train=[tile("a", 5e5, crs=None)], val=[tile("b", 5e5, crs=None)])
    assert "by 100 %" in found


@pytest.mark.parametrize("step", [256.0, 0.0, 0.5])
def test_very_many_tiles(step):
    """All around each other, all at one place, and nearly so: no tile is compared with every other."""
    footprints = Footprints()
    for i in range(100):
        for j in range(50):
            footprints.add("val" if (i + j) % 5 == 0 else "train", tile(f"{i}-{j}", 5e5 + step * i, 5e6 - step * j))
    (found,) = footprints.findings(LISTED)
    assert found.startswith("1000 val tiles overlap train tiles")


def test_the_same_values_in_other_bytes(tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    image = random_image(1)
    for split, name, own, options in (
        ("train", "a", image, {}),
        ("train", "b", random_image(2), {}),
        ("val", "packed", image, {"compression": "deflate"}),
        ("val", "mirrored", image[:, ::-1], {}),
        ("val", "mask-1", (random_image(3) > 128).astype(np.uint8), {}),
        ("val", "mask-2", (random_image(4) > 128).astype(np.uint8), {}),
    ):
        write_image(root / split / f"images/{name}.tif", np.ascontiguousarray(own), **options)
        write_label(root / split / f"labels/{name}.png", random_label(1))
    found = [line for line in stage(root).checks["warnings"] if "values" in line]
    assert found == [
        "2 images of val with the very values of another in train, in other bytes, or mirrored or turned "
        "(a = mirrored, a = packed): scores on val would look better than the model is"
    ]
