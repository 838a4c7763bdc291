"""Images that have a mask for each class: the line joins them with a command, which is run as users run it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from followed_advice import COMMAND, add_lines, shell
from PIL import Image
from raw_tiles import random_image, random_label, write_config, write_image

LABEL = random_label(1)
LAYOUTS = {
    "folders": "train/labels/{}/{}.png",
    "folders of numbers": "train/labels/{}/{}.tif",
    "endings": "train/masks/{1}-{0}-0.png",
    "endings of two words": "train/masks/{1}_class_{0}.png",
}


def masks(root: Path, layout: str, mode: str) -> list[str]:
    """Two images with a mask each of fields and of water; returns what the masks are called."""
    names = ["1", "2"] if layout == "folders of numbers" else ["field", "water"]
    for seed, stem in enumerate(("t0", "t1")):
        write_image(root / f"train/images/{stem}.tif", random_image(seed))
        for number, name in enumerate(names, 1):
            path = root / LAYOUTS[layout].format(name, stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((number == LABEL).astype(np.uint8) * 255).convert(mode).save(path)
    return names


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_joined_as_the_line_says(layout, mode, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    names = masks(root, layout, mode)
    error = stage(root).error
    assert "if these are masks of one class each, join them" in error
    shell(re.search(COMMAND, error)[0], root)
    fields = yaml.safe_load(
        re.search(r"and write (label_folder: .*?) in dataset.yaml", error)[1].replace(
            " and label_values", "\nlabel_values"
        )
    )
    said = {number: kind.removeprefix("class_") for number, kind in fields["label_values"].items()}
    assert said == dict(enumerate(["NAME", *names])), "texts, though they are numbers"
    meanings = {0: "background", 1: "field", 2: "water"}
    add_lines(root, yaml.safe_dump(fields | {"label_values": meanings}))
    run = stage(root)
    assert run.status == 0, run.err
    dataset = run.dataset()
    for tile in dataset.tiles("train"):
        np.testing.assert_array_equal(dataset.read_label("train", tile), LABEL)


@pytest.mark.parametrize("names", ["color ids", "labelIds instanceIds"])
def test_other_kinds_of_labels_are_no_masks_of_classes(names, tmp_path, stage):
    root = tmp_path / "raw"
    write_config(root)
    write_image(root / "train/images/a.tif", random_image(0))
    for name in names.split():
        path = root / f"train/labels/a_{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(LABEL).save(path)
    assert "join them" not in stage(root).error
