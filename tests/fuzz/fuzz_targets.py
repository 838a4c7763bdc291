"""The readers of what others send, and valid inputs of each to damage."""

from __future__ import annotations

import copy
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from gdal_files import FORMATS, UTM, vrt, write_gdal
from manifest_examples import MANIFESTS, first_labels, first_probs, reference
from raw_tiles import FULL_CONFIG, random_image, random_label, write_label
from safetensors_bytes import safetensors_bytes

Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        seeds: valid inputs by name.
        reader: what reads an input damaged from the seed of that name.
        damage: how inputs of this kind are damaged; bytes, unless it says otherwise.
    """

    seeds: Mapping[str, bytes]
    reader: Callable[[str], Read]
    damage: Callable[[random.Random, bytes], bytes]


def damaged_bytes(chance: random.Random, whole: bytes) -> bytes:
    """Up to eight bytes changed, or a piece cut out, doubled or cut off; near the start more often: headers decide
    what is allocated."""
    data = bytearray(whole)
    for _ in range(chance.randint(0, 8)):
        place = chance.randrange(min(len(data), chance.choice([40, 400, len(data)])))
        data[place] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
    if chance.random() < 0.3:
        start = chance.randrange(len(data))
        end = min(len(data), start + chance.choice([1, 4, 40, 4000]))
        data[start:end] = data[start:end] * chance.choice([0, 2, 3])
    if chance.random() < 0.2:
        del data[chance.randrange(len(data) + 1) :]
    return bytes(data)


_TOKENS = [
    *(
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ",",
        ":",
        '"',
        "'",
        "\n",
        "\\",
        "#",
        "&a",
        "*a",
        "<<",
        "!!python/object:x",
        "|",
        "0",
    ),
    *(
        "-1",
        "1e999",
        "NaN",
        "null",
        "true",
        "9" * 400,
        "[" * 400,
        "..",
        "../..",
        "/etc/passwd",
        "s3://x/y",
        "\0",
        "\x1b[2J",
    ),
    *(
        "http://127.0.0.1:9/x",
        "file:///etc/passwd",
        "\ud7ff",
        "type",
        "__class__",
        "_delete_",
        "_base_",
        "lambda",
        "x" * 3000,
    ),
]


def damaged_text(chance: random.Random, whole: bytes) -> bytes:
    """Tokens that mean something to some reader, put in, or in place of others; or bytes as anywhere."""
    if chance.random() < 0.2:
        return damaged_bytes(chance, whole)
    text = whole.decode()
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(len(text))
        end = start + chance.choice([0, 0, 1, 2, 8, 60])
        text = text[:start] + chance.choice([*_TOKENS, text[start:end] * 3]) + text[end:]
    return text.encode(errors="surrogatepass")


KINDS = [*MANIFESTS, first_labels, first_probs, reference]


def documents(folder: Path) -> Target:
    from landseg.contracts.yaml_documents import parse_yaml
    from landseg.raw.config.dataset_yaml import parse_config

    examples = {f"{number}-{type(e()).__name__}": e() for number, e in enumerate(KINDS)}
    seeds = {name: document.to_bytes() for name, document in examples.items()}

    def reader(name: str) -> Read:
        if name.endswith("yaml"):
            return lambda data: (parse_config(data, "dataset.yaml"), parse_yaml(data, "dataset.yaml"))
        return lambda data: type(examples[name]).parse(data, "here")

    return Target(seeds | {"dataset.yaml": yaml.safe_dump(FULL_CONFIG).encode()}, reader, damaged_text)


def configs(folder: Path) -> Target:
    import torch

    from landseg.contracts.dataset import ClassSchema
    from landseg.models.build import build_model, load_model
    from landseg.models.config_text import config_text, parse_config
    from landseg.models.configs import load_config
    from landseg.models.normalisation import find_normalize
    from landseg.models.preprocessing import tile_scales

    schema = ClassSchema(classes=tuple("abcdefghi"), palette=((0, 0, 0),) * 9, bands=(1, 2, 3))
    seeds = {}
    for name in ("swin_tiny", "resnest_tiny"):
        config = load_config(name)
        state = build_model(copy.deepcopy(config), schema).state_dict()
        torch.save({"state_dict": state}, folder / f"{name}.pth")
        seeds[name] = config_text(config).encode()

    def read(name: str, data: bytes) -> None:
        config = parse_config(data.decode(errors="replace"), "here")  # a manifest holds text
        load_model(config, schema, folder / f"{name}.pth")
        tile_scales(config)
        find_normalize(config, "here")

    return Target(seeds, lambda name: lambda data: read(name, data), damaged_text)


def checkpoints(folder: Path) -> Target:
    import torch

    from landseg.models.weights.checkpoint import read_checkpoint

    content: dict[str, Any] = {
        "meta": {"CLASSES": ("a", "b"), "PALETTE": np.zeros((2, 3), np.uint8), "config": "model = dict()", "epoch": 3},
        "state_dict": {
            "a.weight": torch.arange(12.0).reshape(3, 4),
            "a.half": torch.ones(3).half(),
            "n": torch.tensor(3),
        },
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    seeds = {}
    for name, kwargs in {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}.items():
        buffer = io.BytesIO()
        torch.save(content, buffer, **kwargs)
        seeds[name] = buffer.getvalue()
    seeds["safetensors"] = safetensors_bytes({"a.weight": np.ones((3, 4), np.float32), "n": np.array(3)})
    path = folder / "x.pth"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_checkpoint(path)

    return Target(seeds, lambda _: read, damaged_bytes)


def images(folder: Path) -> Target:
    from landseg.contracts.errors import DataError
    from landseg.raw.config.dataset_yaml import parse_config
    from landseg.raw.expected import Expected
    from landseg.raw.images.transcoding import decode_image_files
    from landseg.raw.images.values import Kind
    from landseg.raw.images.vrt import referenced_files
    from landseg.raw.labels.files import read_label
    from landseg.raw.sources.files import ImageFiles

    expected = Expected(parse_config(b"version: 1\nname: a\nclasses: [a, b]\n", "dataset.yaml"), Kind(3, "uint8"))
    seeds = {}
    kinds = {
        **FORMATS,
        "k.tif": {"compress": "deflate", "predictor": 2, "tiled": True, "blockxsize": 16, "blockysize": 16},
        "l.tif": {"compress": "lzw", "crs": "EPSG:32633", "transform": UTM, "nodata": 0},
        "m.tif": {"compress": "jpeg", "photometric": "ycbcr"},
        "n.tif": {"compress": "zstd", "interleave": "band"},
    }
    for name, options in kinds.items():
        write_gdal(folder / name, random_image(1) // 2, **options)
        seeds[name] = (folder / name).read_bytes()
    for name in ("label.png", "label.tif"):
        if name.endswith("png"):
            write_label(folder / name, random_label(1))
        else:
            write_gdal(folder / name, random_label(1)[..., None], compress="deflate")
        seeds[name] = (folder / name).read_bytes()
    for name, driver in {"q.dat": "ENVI", "r.bil": "EHdr"}.items():
        write_gdal(folder / name, random_image(1) // 2, driver=driver)
        seeds[f"{name}.hdr"] = (folder / name).with_suffix(".hdr").read_bytes()
    pixels = (random_image(1) // 2).tobytes()
    seeds["label.asc"] = b"ncols 2\nnrows 2\nxllcorner 0\nyllcorner 0\ncellsize 1\n0 1\n1 0\n"
    band = seeds["a.tif"]
    seeds["v.vrt"] = vrt(["../../bands/0.tif"] * 3).encode()

    def referenced(path: str) -> bytes:
        if path != "bands/0.tif":
            raise DataError(path, "no such file")
        return band

    def reader(name: str) -> Read:
        if name.startswith("label"):
            return lambda data: read_label(data, "here")

        def read(data: bytes) -> None:
            path = f"train/images/{name}"
            try:
                others = referenced_files(data, path, "here", referenced) if name == "v.vrt" else {}
                files = ImageFiles(data, path=path, referenced=others)
                if name.endswith(".hdr"):
                    files = ImageFiles(pixels, sidecars={"q.hdr": data})
                decode_image_files(files, "here", expected, max_px=4096)
            except DataError as err:
                assert "vsimem" not in str(err)
                raise

        return read

    return Target(seeds, reader, damaged_bytes)


def archives(folder: Path) -> Target:
    from landseg.raw.sources.archives import open_source

    members = {"train/images/a.tif": b"a" * 3000, "train/labels/ä.png": b"b" * 700, "dataset.yaml": b"version: 1\n"}
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive, tarfile.open(fileobj=tarred, mode="w") as tar:
        for name, data in members.items():
            archive.writestr(name, data)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

    def reader(name: str) -> Read:
        path = folder / name

        def read(data: bytes) -> None:
            path.write_bytes(data)
            source = open_source(str(path), folder)
            for file in source.files()[:50]:
                source.read(file)

        return read

    return Target({"a.zip": zipped.getvalue(), "a.tar": tarred.getvalue()}, reader, damaged_bytes)


def polygons(folder: Path) -> Target:
    import pyogrio
    from rasterio.crs import CRS

    from landseg.raw.config.dataset_yaml import parse_config
    from landseg.raw.georeference.crs import keys_of
    from landseg.raw.georeference.tags import Georeference
    from landseg.raw.labels.polygons.vector import read_polygons

    ring = np.array([[0, 0], [8, 0], [8, 8], [0, 0]], "<f8")
    wkb = b"\x01" + np.array([3, 1, len(ring)], "<u4").tobytes() + ring.tobytes()
    shapes, kinds = np.array([wkb, wkb], object), np.array(["a", "b"], object)
    for name, driver in {
        "a.geojson": "GeoJSON",
        "a.gpkg": "GPKG",
        "a.shp": "ESRI Shapefile",
        "a.fgb": "FlatGeobuf",
    }.items():
        options = {"driver": driver, "geometry_type": "Polygon", "crs": "EPSG:4326"}
        pyogrio.raw.write(folder / name, shapes, [kinds], ["kind"], **options)
    seeds = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".prj"}
    image = Georeference((0.1, 0.0, 0.0, 0.0, -0.1, 1.6), keys_of(CRS.from_epsg(4326)))

    def reader(name: str) -> Read:
        opened = "a.shp" if name in ("a.dbf", "a.shx", "a.cpg") else name
        config = parse_config(
            f"version: 1\nname: a\nclasses: [a, b]\nlabels: {{file: {opened}, class_field: kind}}\n".encode(),
            "dataset.yaml",
        )

        def read(data: bytes) -> None:
            assert config.labels is not None
            (folder / name).write_bytes(data)
            try:
                found = read_polygons([(folder / opened, opened)], config.labels, config, folder)
                found.draw(image, (16, 16), "here")
            finally:
                (folder / name).write_bytes(seeds[name])

        return read

    return Target(seeds, reader, damaged_bytes)


def annotations(folder: Path) -> Target:
    from landseg.raw.config.dataset_yaml import parse_config
    from landseg.raw.labels.polygons.annotated import read_annotated
    from landseg.raw.layout.source_tiles import SourceTile
    from landseg.raw.sources.source_file import SourceFile

    points = [[1, 1], [12.5, 2], [9, 15]]
    labelme = {"imagePath": "a.tif", "imageHeight": 16, "imageWidth": 16, "shapes": [{"label": "a", "points": points}]}
    segmentations = [[[1, 1, 9, 1, 9, 9]], {"size": [16, 16], "counts": [6, 250]}, {"size": [16, 16], "counts": "6j7"}]
    coco = {
        "images": [{"id": 1, "file_name": "a.tif", "height": 16, "width": 16}],
        "categories": [{"id": 2, "name": "b"}],
        "annotations": [{"image_id": 1, "category_id": 2, "segmentation": shape} for shape in segmentations],
    }
    seeds = {"labelme.json": json.dumps(labelme).encode(), "coco.json": json.dumps(coco).encode()}
    config = parse_config(b"version: 1\nname: a\nclasses: [a, b]\nlabels: {file: a.json}\n", "dataset.yaml")
    tiles = {"train": [SourceTile("train", "a", SourceFile("a.tif", 1), SourceFile("a.json", 1), shares_label=True)]}

    def read(data: bytes) -> None:
        assert config.labels is not None
        (folder / "a.json").write_bytes(data)
        files = [(folder / "a.json", "a.json", "a.json")]
        read_annotated(files, config.labels, config, tiles, folder, "a.json").draw("a.tif", (16, 16), "here")

    return Target(seeds, lambda _: read, damaged_bytes)


def shard_results(folder: Path) -> Target:
    from landseg.ensemble.shard_results import ShardResult
    from landseg.storage.array_records import pack_arrays

    del folder
    counts = np.arange(12, dtype=np.int64)
    result = ShardResult(
        archives={},
        ids=("a", "b"),
        is_cut=np.array([True, False]),
        spans=np.zeros((0, 2, 2), np.int64),
        pixels=np.ones((2, 2), np.uint32),
        uncertainty=np.zeros((2, 3)),
        ttas=("none",),
        areas=np.ones((2, 4, 3, 2), np.uint32),
        confusions=counts[:8].reshape(2, 2, 2),
        reliability=counts[:6].reshape(2, 3, 1),
        boundaries=counts.reshape(2, 3, 2),
    )

    return Target(
        {"a.npz": pack_arrays(result.arrays())}, lambda _: lambda data: ShardResult.parse(data, "here"), damaged_bytes
    )


TARGETS = {
    "documents": documents,
    "configs": configs,
    "checkpoints": checkpoints,
    "images": images,
    "archives": archives,
    "polygons": polygons,
    "annotations": annotations,
    "shard results": shard_results,
}


def inputs(target: Target, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged inputs without end, each with the name of its seed; the same for the same number."""
    chance = random.Random(seed)
    names = sorted(target.seeds)
    while True:
        name = chance.choice(names)
        yield name, target.damage(chance, target.seeds[name])
