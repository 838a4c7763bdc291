"""A small raw dataset of random tiles, written quickly and the same way every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import yaml
from PIL import Image

from landseg.contracts.dataset import GeoKeys

CLASSES = ("background", "field", "water")


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
