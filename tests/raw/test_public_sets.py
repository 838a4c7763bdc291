"""Public datasets as they are downloaded, in small: the lines that errors propose are written until all is staged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from gdal_files import stored
from PIL import Image
from rasterio.transform import from_origin
from raw_tiles import write_config
from staging_cli import Run, Staging

from landseg.contracts.yaml_documents import parse_yaml

PX = 32
UTM = rasterio.CRS.from_epsg(32633)
ISPRS = {
    "#ffffff": "surface",
    "#0000ff": "building",
    "#00ffff": "low",
    "#00ff00": "tree",
    "#ffff00": "car",
    "#ff0000": "clutter",
}
FIELD = re.compile(
    r"\b(?:write|set|add|and) "
    r"(image_folder|label_folder|splits|label_colours|label_values|ignore_index|colour_tolerance|scale|labels): "
    r"(\{.*?\}|[^ ,;)]+)"
)


def values(seed: int, high: int, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    """(bands, PX, PX) of blocks that differ."""
    return np.kron(np.random.default_rng(seed).integers(0, high, (bands, 8, 8)), np.ones((4, 4), int)).astype(dtype)


def codes_of(seed: int, codes: Iterable[int]) -> np.ndarray:
    return np.array(list(codes))[values(seed + 50, len(list(codes)), 1)[0]]


def write(path: Path, array: np.ndarray, column: int = 0, pixel: float = 10, crs=UTM, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = array if array.ndim == 3 else array[np.newaxis]
    profile = {"count": len(array), "height": array.shape[1], "width": array.shape[2], "dtype": array.dtype}
    if crs is not None:
        options |= {"crs": crs, "transform": from_origin(500000 + column * PX * pixel, 5000000, pixel, pixel)}
    with rasterio.open(path, "w", driver="GTiff", **profile, **options) as file:
        file.write(array)


def write_colours(path: Path, ids: np.ndarray, colours: Iterable[str], **options) -> np.ndarray:
    table = np.array([list(bytes.fromhex(colour[1:])) for colour in colours], np.uint8)
    write(path, table[ids].transpose(2, 0, 1), **options)
    return table[ids]


@dataclass
class Followed:
    """A dataset that was staged with the lines that errors proposed.

    Attributes:
        run: the last run.
        written: what was written into dataset.yaml, in the order in which it was proposed.
    """

    run: Run
    written: dict[str, object] = field(default_factory=dict)

    def images(self, split: str) -> dict[str, np.ndarray]:
        """Bands of each image, as shards hold them."""
        opened = self.run.dataset()
        return {tile.id: stored(opened, tile, split).transpose(2, 0, 1) for tile in opened.tiles(split)}

    def labels(self, split: str) -> dict[str, np.ndarray]:
        opened = self.run.dataset()
        return {tile.id: opened.read_label(split, tile) for tile in opened.tiles(split)}


def follow(
    root: Path, stage: Staging, names: Iterable[str], colours: dict[str, str] | None = None, **chosen
) -> Followed:
    """Stage, and write what the error proposes, until there is none.

    Args:
        root: the files.
        stage: stages them.
        names: the classes.
        colours: the class of each colour, which only a user knows.
        chosen: what the user chooses where a line leaves it open.
    """
    classes = list(names)
    write_config(root, name=root.name, classes=classes)
    followed = Followed(stage(root))
    for _ in range(6):
        if followed.run.status == 0:
            return followed
        proposed = {key: yaml.safe_load(text) for key, text in reversed(FIELD.findall(followed.run.error))}
        if isinstance(proposed.get("label_colours"), dict):
            proposed["label_colours"] = {key: (colours or {})[key] for key in proposed["label_colours"]}
        if isinstance(labels := proposed.get("labels"), dict) and "class_name" in labels:
            assert (labels["class_name"], labels["outside"]) == ("NAME", "NAME")
            labels |= {"class_name": classes[1], "outside": classes[0]}
        new = {key: chosen.get(key, value) for key, value in proposed.items()}
        assert new.keys() - followed.written.keys() or new.get("labels"), followed.run.error
        followed.written |= new
        path = root / "dataset.yaml"
        path.write_text(yaml.safe_dump(parse_yaml(path.read_bytes(), path) | followed.written))
        followed.run = stage(root)
    raise AssertionError(followed.run.error)


def test_isprs_vaihingen(tmp_path, stage):
    root, ids, images = tmp_path / "vaihingen", {}, {}
    for column, area in enumerate((1, 3, 5, 17)):
        name = f"top_mosaic_09cm_area{area}"
        ids[name], images[name] = codes_of(area, range(6)), values(area, 255)
        write(root / f"top/{name}.tif", images[name], column, 0.09)
        write(root / f"dsm/dsm_09cm_matching_area{area}.tif", values(area, 99, 1, "float32") + 250, column, 0.09)
        for truth, end in (("ground_truth_COMPLETE", ""), ("ground_truth_eroded_COMPLETE", "_noBoundary")):
            write_colours(
                root / f"ISPRS_semantic_labeling_Vaihingen_{truth}/{name}{end}.tif", ids[name], ISPRS, crs=None
            )
    (root / "train.txt").write_text("1\n3\n17\n")
    (root / "val.txt").write_text("top_mosaic_09cm_area5.tif\n")
    followed = follow(root, stage, ISPRS.values(), ISPRS)
    assert list(followed.written) == ["label_colours", "label_folder"]
    for split in ("train", "val"):
        for name, label in followed.labels(split).items():
            np.testing.assert_array_equal(label, ids[name])
            np.testing.assert_array_equal(followed.images(split)[name], images[name])
    assert "5 is top_mosaic_09cm_area5" not in followed.run.err
    assert "lists leave out what all names begin with (1 is top_mosaic_09cm_area1)" in followed.run.err


def test_isprs_vaihingen_heights(tmp_path, stage):
    root, heights = tmp_path / "heights", {}
    for column, area in enumerate((1, 3, 5)):
        heights[area] = values(area, 99, 1, "float32") / 4 + 250
        write(root / f"dsm/dsm_09cm_matching_area{area}.tif", heights[area], column, 0.09)
        write_colours(
            root / f"gts/top_mosaic_09cm_area{area}.tif", codes_of(area, range(6)), ISPRS, column=column, pixel=0.09
        )
    (root / "train.txt").write_text("area1\narea3\n")
    (root / "val.txt").write_text("area5\n")
    followed = follow(root, stage, ISPRS.values(), ISPRS)
    assert list(followed.written) == ["image_folder", "scale", "label_colours"]
    scale = followed.written["scale"]
    found = followed.images("train")["area1"].astype(float) / 65535 * (scale["high"] - scale["low"]) + scale["low"]
    assert np.abs(found - heights[1].clip(scale["low"], scale["high"])).max() <= (scale["high"] - scale["low"]) / 65535


def test_isprs_potsdam(tmp_path, stage):
    root, ids, images = tmp_path / "potsdam", {}, {}
    for column, tile in enumerate(("2_10", "2_11", "3_10", "6_7")):
        name = f"top_potsdam_{tile}"
        ids[name], images[name] = codes_of(column, range(6)), values(column, 255)
        for folder, end in (("2_Ortho_RGB", "RGB"), ("3_Ortho_IRRG", "IRRG")):
            write(root / folder / f"{name}_{end}.tif", images[name] // (1 + (end == "IRRG")), column, 0.05)
            place = f"0.05\n0\n0\n-0.05\n{500000.025 + column * PX * 0.05}\n4999999.975\n"
            (root / folder / f"{name}_{end}.tfw").write_text(place)
        for folder, end in (("5_Labels_all", "label"), ("5_Labels_all_noBoundary", "label_noBoundary")):
            write_colours(root / folder / f"{name}_{end}.tif", ids[name], ISPRS, column=column, pixel=0.05)
    (root / "train.txt").write_text("2_10\n2_11\n")
    (root / "val.txt").write_text("3_10\n6_7\n")
    followed = follow(root, stage, ISPRS.values(), ISPRS, image_folder="3_Ortho_IRRG")
    assert followed.written.keys() == {"image_folder", "label_folder", "label_colours"}
    assert list(followed.labels("val")) == ["top_potsdam_3_10", "top_potsdam_6_7"]
    for name, label in followed.labels("train").items():
        np.testing.assert_array_equal(label, ids[name])
        np.testing.assert_array_equal(followed.images("train")[name], images[name] // 2)


def test_deepglobe(tmp_path, stage):
    """JPEG images, masks of colours that are not quite pure, and splits without labels."""
    root = tmp_path / "deepglobe"
    colours = dict(zip(("#00ffff", "#ffff00", "#000000"), ("urban", "farm", "unknown"), strict=True))
    ids = {name: codes_of(int(name), range(3)) for name in ("119", "2334")}
    for name in ("119", "2334", "5", "7"):
        folder = root / {"5": "valid", "7": "test"}.get(name, "train")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values(int(name), 255).transpose(1, 2, 0)).save(folder / f"{name}_sat.jpg")
        if name in ids:
            mask = np.array([list(bytes.fromhex(colour[1:])) for colour in colours], np.uint8)[ids[name]]
            mask[0, :4] ^= 3
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
    (root / "class_dict.csv").write_text("name,r,g,b\nurban,0,255,255\n")
    followed = follow(root, stage, colours.values(), colours)
    assert followed.written["splits"] == {"test": ["valid", "test"]}
    assert followed.written["colour_tolerance"] == 3
    assert list(followed.images("test")) == ["5", "7"]
    assert "8 label px have a colour within 3 of one in label_colours" in followed.run.err
    for name, label in followed.labels("train").items():
        np.testing.assert_array_equal(label, ids[name])
        with rasterio.open(root / f"train/{name}_sat.jpg") as file:
            np.testing.assert_array_equal(followed.images("train")[name], file.read())


def test_esa_worldcover(tmp_path, stage):
    """One map of codes from 10 to 100, in degrees, for Sentinel-2 images in UTM."""
    root, codes = tmp_path / "worldcover", (10, 20, 30, 40, 50, 60, 80)
    for column, split in enumerate(("train", "train", "val")):
        write(root / split / f"images/S2_{column}.tif", values(column, 4000, 4, "uint16"), column)
    land = np.random.default_rng(3).choice(np.array(codes, np.uint8), (80, 200))
    place = from_origin(14.9995, 45.1543, 1 / 12000, 1 / 12000)
    profile = {"count": 1, "height": 80, "width": 200, "dtype": "uint8", "nodata": 0}
    land_path = root / "ESA_WorldCover_10m_2021_v200_N45E015_Map.tif"
    with rasterio.open(land_path, "w", driver="GTiff", crs="EPSG:4326", transform=place, **profile) as file:
        file.write(land, 1)
    followed = follow(root, stage, ("tree", "shrub", "grass", "crop", "built", "bare", "water"))
    assert list(followed.written) == ["labels", "label_values"]
    assert followed.written["labels"] == {"file": land_path.name, "resample": "nearest"}
    for column, label in enumerate([*followed.labels("train").values(), *followed.labels("val").values()]):
        xs, ys = np.meshgrid(np.arange(PX) + 0.5, np.arange(PX) + 0.5)
        east, north = 500000 + (column * PX + xs.ravel()) * 10, 5000000 - ys.ravel() * 10
        lon, lat = rasterio.warp.transform(UTM, "EPSG:4326", east, north)
        columns, rows = ~place * (np.array(lon), np.array(lat))
        expected = np.searchsorted(codes, land[rows.astype(int), columns.astype(int)]).reshape(PX, PX)
        assert (label == expected).mean() > 0.99  # at the borders of pixels, rounding decides


def test_flair(tmp_path, stage):
    """Domains and zones, codes 1-19 of which 13 and more are one class, and a val split that is a list's."""
    root, codes = tmp_path / "flair", {}
    for number, (part, area) in enumerate(
        [("train", "D004_2021/Z1_NN"), ("train", "D004_2021/Z2_UU"), ("train", "D005_2018/Z1_NN"), ("test", "D012/Z3")],
        1,
    ):
        codes[number] = codes_of(number, range(1, 20))
        image = root / f"flair_aerial_{part}/{area}/img/IMG_{number:06}.tif"
        write(image, values(number, 255, 5), number, 0.2, rasterio.CRS.from_epsg(2154))
        label = root / f"flair_labels_{part}/{area}/msk/MSK_{number:06}.tif"
        write(label, codes[number].astype("uint8"), number, 0.2, rasterio.CRS.from_epsg(2154))
    (root / "lists").mkdir()
    (root / "lists/mine.txt").write_text("D004_2021/Z1_NN/img/IMG_000001.tif\nIMG_000002\n")
    (root / "lists/mine_val.txt").write_text("flair_aerial_train/D005_2018/Z1_NN/img/IMG_000003.tif\n")
    merged = {key: f"c{key}" for key in range(1, 13)} | {"13-19": "other"}
    test = ["flair_aerial_test", "flair_labels_test"]
    write_config(
        root,
        classes=[f"c{key}" for key in range(1, 13)] + ["other"],
        label_values=merged,
        splits={"train": "lists/mine.txt", "val": "mine_val.txt", "test": test},
    )
    followed = Followed(stage(root))
    assert followed.run.status == 0, followed.run.error
    assert list(followed.labels("train")) == ["D004_2021__Z1_NN__000001", "D004_2021__Z2_UU__000002"]
    assert list(followed.labels("val")) == ["D005_2018__Z1_NN__000003"]
    label = followed.labels("test")["D012__Z3__000004"]
    np.testing.assert_array_equal(label, np.minimum(codes[4], 13) - 1)
    np.testing.assert_array_equal(followed.images("val")["D005_2018__Z1_NN__000003"], values(3, 255, 5))


@pytest.mark.parametrize("sensor", ["S1Hand", "S2Hand"])
def test_sen1floods11(sensor, tmp_path, stage):
    """Radar in decibels with NaN, int16 reflectances, -1 for no data, and lists of two columns."""
    root = tmp_path / "floods"
    hand, lists = root / "v1.1/data/flood_events/HandLabeled", root / "v1.1/splits/flood_handlabeled"
    lists.mkdir(parents=True)
    radar, optical, water = {}, {}, {}
    for column, name in enumerate(("Ghana_1", "Ghana_2", "India_3", "Spain_4", "Bolivia_5")):
        radar[name] = -values(column, 25, 2, "float32")
        radar[name][:, 0, :3] = np.nan
        optical[name] = values(column, 5000, 13, "int16")
        water[name] = codes_of(column, (-1, 0, 1)).astype("int16")
        for folder, array in (("S1Hand", radar), ("S2Hand", optical), ("LabelHand", water), ("S1OtsuLabelHand", water)):
            write(hand / folder / f"{name}_{folder}.tif", array[name], column)
        part = ("train", "train", "valid", "test", "bolivia")[column]
        with (lists / f"flood_{part}_data.csv").open("a") as file:
            file.write(f"{name}_S1Hand.tif,{name}_LabelHand.tif\n")
    followed = follow(root, stage, ("land", "water"), image_folder=sensor)
    expected = {"image_folder", "label_folder", "splits", "ignore_index"} | ({"scale"} if sensor == "S1Hand" else set())
    assert followed.written.keys() == expected
    assert {split: list(followed.images(split)) for split in ("train", "val", "test")} == {
        "train": ["Ghana_1", "Ghana_2"],
        "val": ["India_3"],
        "test": ["Spain_4"],
    }
    assert "2 .tif files in no list and not used" in followed.run.err
    label = np.where(water["India_3"] < 0, 255, water["India_3"])
    if sensor == "S1Hand":
        label[0, :3] = 255
    else:
        np.testing.assert_array_equal(followed.images("val")["India_3"].astype(int) - 32768, optical["India_3"])
    np.testing.assert_array_equal(followed.labels("val")["India_3"], label)


def test_spacenet(tmp_path, stage):
    """A GeoJSON of footprints for each image, in degrees and without a field that tells a class; one of them empty."""
    root = tmp_path / "spacenet"
    part = root / "AOI_2_Vegas_Train"
    left, bottom, right, top = 500000 + 8, 5000000 - 24, 500000 + 20, 5000000 - 4
    place = rasterio.warp.transform(UTM, "EPSG:4326", [left, right, right, left], [bottom, bottom, top, top])
    ring = [list(point) for point in zip(*place, strict=True)]
    shape = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    for column in range(2):
        for folder, bands in (("RGB-PanSharpen", 3), ("MUL", 8)):
            name = f"{folder}/{folder}_AOI_2_Vegas_img{column}.tif"
            write(part / name, values(column, 2000, bands, "uint16"), column, 1)
        features = [{"type": "Feature", "properties": {}, "geometry": shape}] if column == 0 else []
        path = part / f"geojson/buildings/buildings_AOI_2_Vegas_img{column}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    followed = follow(root, stage, ("background", "building"), image_folder="RGB-PanSharpen")
    assert followed.written["labels"]["file"] == "AOI_2_Vegas_Train/geojson/buildings/*.geojson"
    expected = np.zeros((PX, PX), np.uint8)
    expected[4:24, 8:20] = 1
    first, second = followed.labels("train").values()
    np.testing.assert_array_equal(first, expected)
    assert not second.any()


def test_isaid(tmp_path, stage):
    """Folders of masks, in each of which the files lie in one called images."""
    root, ids = tmp_path / "isaid", {}
    colours = {"#000000": "background", "#00003f": "ship", "#007fff": "plane"}
    for split, name in (("train", "P0000"), ("train", "P0001"), ("train", "P0002"), ("val", "P0003")):
        ids[name] = codes_of(int(name[1:]), range(3))
        pairs = (("Semantic_masks", "color"), ("Instance_masks", "id"))
        for folder, kind in pairs:
            mask = np.array([list(bytes.fromhex(colour[1:])) for colour in colours], np.uint8)[ids[name]]
            path = root / split / folder / "images" / f"{name}_instance_{kind}_RGB.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask if kind == "color" else mask + 1).save(path)
        (root / split / "images").mkdir(exist_ok=True)
        Image.fromarray(values(int(name[1:]), 255).transpose(1, 2, 0)).save(root / split / f"images/{name}.png")
    write_config(root, classes=list(colours.values()))
    line = stage(root).error
    assert "with the labels of train, found train/Instance_masks/images and train/Semantic_masks/images" in line
    assert "write label_folder: Semantic_masks/images in dataset.yaml" in line
    write_config(root, classes=list(colours.values()), label_colours=colours, label_folder="Semantic_masks/images")
    followed = Followed(stage(root))
    assert followed.run.status == 0, followed.run.err
    for split in ("train", "val"):
        for name, label in followed.labels(split).items():
            np.testing.assert_array_equal(label, ids[name])
