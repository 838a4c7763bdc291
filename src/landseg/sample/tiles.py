"""Sample data: a drawn raw dataset (docs/contracts.md) for trying landseg before one's own tiles are at hand.

A tile depends only on the seed, its split and its number: not on how many tiles there are, on the process that draws
it, or on an earlier run. An interrupted run resumes where it stopped; dataset.yaml, written last, means done.
"""

from __future__ import annotations

import dataclasses
import io
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml
from numpy.typing import NDArray
from PIL import Image

from landseg.cli.progress import Progress
from landseg.cli.termination import held_back
from landseg.contracts.dataset import SPLITS
from landseg.contracts.errors import ConfigError
from landseg.raw.processes import end_with_parent, num_cpus
from landseg.sample.covers import CLASSES
from landseg.sample.paint import paint_scene
from landseg.sample.scene import draw_scene

# Close to the colours of land-cover maps, and distinct with each kind of colour blindness (a test measures it).
PALETTE = (
    (130, 130, 130),
    (240, 180, 0),
    (75, 170, 90),
    (222, 30, 25),
    (20, 20, 20),
    (250, 110, 220),
    (110, 50, 35),
    (245, 235, 190),
    (30, 80, 215),
)
COMPRESSIONS = ("none", "lzw", "deflate", "zstd", "packbits")
PIXEL_TYPES = ("uint8", "uint16")

_GENERATOR = 1  # raise it when the same options draw other tiles, so that old and new ones are never mixed
_MARKER = ".landseg-sample.json"
_WHITE_UINT16 = 5000  # reflectance 0.5, stored × 10,000 as Sentinel-2 products are
# Drawn around each tile and cut off, so that borders have shadows from beyond and true slopes; the blur eats one.
_MARGIN_PX = 8
_CHUNK = 4
"""Tiles that a process draws at a time; one that is asked to end draws them to the end."""


@dataclass(frozen=True)
class SampleOptions:
    """What to draw.

    Attributes:
        train: number of tiles in the split; 0 leaves the split out.
        val: as train.
        test: as train; these tiles have no labels.
        size_px: height and width of a tile. A pixel is always about a metre: larger tiles show more land.
        bands: 3 (red, green, blue) or 4 (and near-infrared).
        dtype: uint8, or uint16: reflectance × 10,000, mostly 0-5000, which `scale` in dataset.yaml records.
        compression: of the TIFFs.
        seed: another seed draws other land.
    """

    train: int = 256
    val: int = 64
    test: int = 16
    size_px: int = 128
    bands: int = 3
    dtype: str = "uint8"
    compression: str = "lzw"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: one is out of its range.
        """
        for split in SPLITS:
            _check_range(split, getattr(self, split), 0, 99_999)  # tile ids hold five digits
        _check_range("size", self.size_px, 32, 2048)
        _check_range("seed", self.seed, 0, 2**63 - 1)
        for name, allowed in (("bands", (3, 4)), ("dtype", PIXEL_TYPES), ("compression", COMPRESSIONS)):
            if getattr(self, name) not in allowed:
                expected = ", ".join(map(str, allowed))
                raise ConfigError(f"--{name}", f"expected one of {expected}, found {getattr(self, name)!r}")
        if not self.train + self.val + self.test:
            raise ConfigError("--train, --val, --test", "expected at least one tile, found 0")


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"--{name}", f"expected {low} to {high}, found {value}")


def make_sample_dataset(directory: Path, options: SampleOptions, *, num_processes: int | None = None) -> None:
    """Write the raw dataset, or what is missing of it.

    Args:
        directory: the dataset's root: absent, empty, or from an earlier run with the same options.
        options: what to draw.
        num_processes: how many to draw with, which changes nothing but the time; default: one per CPU.

    Raises:
        ConfigError: `directory` holds something else or cannot be written.
    """
    description = dataset_description(options)
    try:
        _claim(directory, options, description)
        tiles = [(split, number) for split in SPLITS for number in range(getattr(options, split))]
        missing = [tile for tile in tiles if not all(path.exists() for path in _paths(directory, *tile))]
        done = directory / "dataset.yaml"
        if missing:
            done.unlink(missing_ok=True)
            _write_tiles(directory, options, missing, len(tiles), num_processes)
        if not done.exists():
            _write(done, description.encode())
    except OSError as err:
        raise ConfigError(directory, f"cannot be written: {err}") from err


def dataset_description(options: SampleOptions) -> str:
    """The text of dataset.yaml."""
    bands = list(range(1, options.bands + 1))
    description: dict[str, Any] = {
        "version": 1,
        "name": "sample",
        "classes": list(CLASSES),
        "palette": [list(colour) for colour in PALETTE],
        "bands": bands,
        "ignore_index": 255,
        "label_offset": 0,
    }
    if options.dtype == "uint16":
        description["scale"] = {"method": "range", "low": 0, "high": _WHITE_UINT16}
    return yaml.safe_dump(description, sort_keys=False, default_flow_style=None, width=100)


def draw_tile(options: SampleOptions, split: str, number: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Draw one tile.

    Returns:
        The image, (size_px, size_px, bands) of `options.dtype`, and the labels, (size_px, size_px) with values 0..8.
    """
    entropy = [options.seed, SPLITS.index(split), number]
    key = np.asarray(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0], np.uint64)
    scene = draw_scene(options.size_px + 2 * _MARGIN_PX, key)
    labels = scene.labels[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
    inner = slice(_MARGIN_PX - 1, 1 - _MARGIN_PX)
    image = paint_scene(scene, key, options.bands)[inner, inner]
    if options.dtype == "uint16":
        return np.clip(np.rint(image * (_WHITE_UINT16 / 255)), 0, 10_000).astype(np.uint16), labels
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), labels


def _claim(directory: Path, options: SampleOptions, description: str) -> None:
    """Mark an empty directory as ours, or make sure that it belongs to this very dataset."""
    marker = directory / _MARKER
    ours = json.dumps({"generator": _GENERATOR, **dataclasses.asdict(options)}, indent=1) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.iterdir()):
        _write(marker, ours.encode())
    elif not marker.exists():
        raise ConfigError(directory, "expected an empty directory, found files", "choose another directory")
    elif marker.read_text() != ours:
        raise ConfigError(
            directory,
            "holds a sample dataset made with other options",
            f"choose another directory; {marker} lists the options",
        )
    elif (directory / "dataset.yaml").exists() and (directory / "dataset.yaml").read_text() != description:
        raise ConfigError(directory / "dataset.yaml", "was changed", "remove it to have it written again")


def _write_tiles(
    directory: Path,
    options: SampleOptions,
    tiles: list[tuple[str, int]],
    total: int,
    num_processes: int | None,
) -> None:
    for folder in {path.parent for split, _ in tiles for path in _paths(directory, split, 0)}:
        folder.mkdir(parents=True, exist_ok=True)
    work = partial(_write_tile, directory, options)
    num_processes = min(num_processes or num_cpus(), len(tiles))
    with Progress("drawing sample tiles", total, "tiles", done=total - len(tiles)) as progress:
        if num_processes == 1:
            for tile in tiles:
                work(tile)
                progress.advance()
            return
        with ProcessPoolExecutor(num_processes, initializer=end_with_parent) as pool:
            try:
                with held_back():
                    drawn = pool.map(work, tiles, chunksize=min(_CHUNK, -(-len(tiles) // num_processes)))
                for _ in drawn:
                    progress.advance()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # or all tiles would be drawn first
                raise


def _paths(directory: Path, split: str, number: int) -> list[Path]:
    """The files of a tile. Its id starts with its split's number: unique, and the same whatever the counts are."""
    stem = f"{SPLITS.index(split) + 1}{number:05d}"
    image = directory / split / "images" / f"{stem}.tif"
    return [image] if split == "test" else [image, directory / split / "labels" / f"{stem}.png"]


def _write_tile(directory: Path, options: SampleOptions, tile: tuple[str, int]) -> None:
    image, labels = draw_tile(options, *tile)
    for path, content in zip(_paths(directory, *tile), (_tiff(image, options.compression), _png(labels)), strict=False):
        _write(path, content)


def _tiff(image: NDArray[Any], compression: str) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        image,
        photometric="rgb",
        planarconfig="contig",
        extrasamples=("unspecified",) * (image.shape[2] - 3),
        compression=None if compression == "none" else compression,
        predictor=compression in ("lzw", "deflate", "zstd"),
        metadata=None,  # no JSON description of the array's shape: readers of GeoTIFFs do not expect one
        software="landseg",
    )
    return buffer.getvalue()


def _png(labels: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(labels)
    picture.putpalette([value for colour in PALETTE for value in colour])  # makes its mode "P"
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
