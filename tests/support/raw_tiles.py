"""A small raw dataset of random tiles, written quickly and the same way every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import yaml
from PIL import Image

from landseg.contracts.tile import GeoKeys

CLASSES = ("background", "field", "water")

FULL_CONFIG = {
    "version": 1,
    "name": "a b",
    "classes": ["a", "b", "c"],
    "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "bands": [3, 2, 1],
    "ignore_index": 255,
    "label_offset": 0,
    "scale": {"method": "range", "low": [0, 0, 0], "high": [1, 2, 3.5]},
    "scenes": {"max_px": 1024, "tile_px": 512, "overlap_px": 64},
}
"""A `dataset.yaml` with every kind of field."""


def write_image(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options.setdefault("photometric", "rgb" if array.ndim == 3 and array.shape[-1] >= 3 else "minisblack")
    options.setdefault("metadata", None)
    tifffile.imwrite(path, array, **options)


def write_label(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def random_image(seed: int, size: int = 24, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256 if dtype == "uint8" else 4000, (size, size, bands)).astype(dtype)


def random_label(seed: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, len(CLASSES), (size, size)).astype(np.uint8)


def write_config(root: Path, **fields) -> None:
    root.mkdir(parents=True, exist_ok=True)
    document = {"version": 1, "name": "random", "classes": list(CLASSES), **fields}
    (root / "dataset.yaml").write_text(yaml.safe_dump(document))


def write_raw(root: Path, *, train: int = 4, val: int = 2, test: int = 1, size: int = 24, bands: int = 3, **fields):
    """Write the dataset; returns its folder."""
    dtype = fields.pop("dtype", "uint8")
    write_config(root, **fields)
    for split, count in {"train": train, "val": val, "test": test}.items():
        for index in range(count):
            seed = {"train": 0, "val": 10**6, "test": 2 * 10**6}[split] + index
            write_image(root / split / "images" / f"t{index:04}.tif", random_image(seed, size, bands, dtype))
            if split != "test":
                write_label(root / split / "labels" / f"t{index:04}.png", random_label(seed, size))
    return root


UTM = GeoKeys(
    directory=(1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), doubles=(6378137.0,), ascii="WGS 84|"
)
