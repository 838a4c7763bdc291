"""Faults in a dataset of one tile, what the error line about each advises, and that advice followed."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from click.testing import CliRunner
from gdal_files import UTM, stored, write_gdal
from rasterio.rio.main import main_group
from raw_tiles import random_image, random_label, write_config, write_image, write_label
from staging_cli import Staging

IMAGE, LABEL = "train/images/a.tif", "train/labels/a.png"
COMMAND = r"(python -c '[^']*'(?: (?:'[^']*'|\"'\"|[\w@%+=:./-])+)*)"
"""What error lines say to run, with the names of files as a shell reads them."""
PLACED = {"crs": "EPSG:32633", "transform": UTM}
IMAGES, LABELS = random_image(1), random_label(1)


def base(root: Path) -> None:
    """A dataset of one tile, which nothing is wrong with."""
    write_config(root)
    write_image(root / IMAGE, IMAGES)
    write_label(root / LABEL, LABELS)


@dataclass(frozen=True)
class Case:
    """A fault, what its one line advises, and that advice followed.

    Attributes:
        fault: makes the fault in a dataset that has none.
        advice: a pattern of what the line says to do.
        follow: does it; gets the line's match of the pattern, and may return another source.
        image, label: what is staged then, where that is not the dataset without the fault.
    """

    fault: Callable[[Path], object]
    advice: str
    follow: Callable[[Path, re.Match[str]], object]
    image: np.ndarray | None = None
    label: np.ndarray | None = None


def rio(command: str, folder: Path) -> None:
    """Run a command of a line in a folder."""
    words = shlex.split(command)
    assert words[0] == "rio"
    with contextlib.chdir(folder):
        result = CliRunner().invoke(main_group, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def shell(command: str, folder: Path) -> None:
    """Run a command of a line in a folder, as a user who pastes it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, env=os.environ | {"PATH": path})


def add_lines(root: Path, text: str) -> None:
    """Write lines into dataset.yaml, in place of those of the same fields."""
    path = root / "dataset.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | yaml.safe_load(text)))


def other_label(root: Path, name: str, write: Callable[[Path], object]) -> None:
    (root / LABEL).unlink(missing_ok=True)
    write(root / "train/labels" / name)


def png(array: np.ndarray) -> Callable[[Path, object], None]:
    """Follows the advice by writing this label, in place of any other."""

    def write(root: Path, _: object) -> None:
        shutil.rmtree(root / "train/labels")
        write_label(root / LABEL, array)

    return write


def image(**options) -> Callable[[Path, object], None]:
    """Follows the advice by writing the image as it ought to be."""

    def write(root: Path, _: object) -> None:
        shutil.rmtree(root / "train/images")
        write_gdal(root / IMAGE, IMAGES, **options)

    return write


def renamed(old: str, new: str) -> Callable[[Path, object], object]:
    return lambda root, _: [(root / old).rename(root / new)]


def zipped_with(root: Path, change: Callable[[zipfile.ZipInfo], object]) -> Path:
    """The dataset as a zip whose index says something else about the first member."""
    path = root.parent / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, file.relative_to(root))
        change(archive.infolist()[0])
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def packed(root: Path, name: str, **kwargs) -> Path:
    """The dataset as a tar, in place of its folder."""
    path = root.parent / name
    with tarfile.open(path, kwargs.pop("mode", "w"), **kwargs) as archive:
        archive.add(root, arcname=".")
    return path


def zipped(root: Path, names: Callable[[str], str] = str, twice: bool = False) -> Path:
    path = root.parent / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.*")):
            for _ in range(1 + twice):
                archive.writestr(names(str(file.relative_to(root))), file.read_bytes())
    return path


def check(case: Case, root: Path, stage: Staging) -> None:
    """The line about a fault advises what it should, and following it leads to the right tile."""
    base(root)
    source = case.fault(root)
    run = stage(source if isinstance(source, Path) else root)
    assert run.status == 2
    match = re.search(case.advice, run.error)
    assert match, run.error
    source = case.follow(root, match)
    run = stage(source if isinstance(source, Path) else root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    tile = next(tile for tile in dataset.tiles("train") if tile.id == "a")
    np.testing.assert_array_equal(stored(dataset, tile), IMAGES if case.image is None else case.image)
    np.testing.assert_array_equal(dataset.read_label("train", tile), LABELS if case.label is None else case.label)
