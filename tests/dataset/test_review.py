"""The data report: errors, warnings, what was left out, what later stages need."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import yaml
from raw_tiles import random_image, random_label, write_config, write_image, write_label, write_raw

from landseg.contracts.dataset import SkippedTile
from landseg.contracts.documents import MAX_DOCUMENT_BYTES


def warnings_of(run) -> str:
    assert run.status == 0, run.err
    return "\n".join(run.checks["warnings"])


def test_a_clean_dataset_has_no_findings(tmp_path, stage):
    run = stage(write_raw(tmp_path / "raw"))
    assert run.checks["warnings"] == []
    assert run.checks["problems"] == []
    assert run.checks["published"]
    html = (run.folder / "report.html").read_text()
    assert "7 tiles" in html
    assert run.loaded.document.dataset_id in html


def test_duplicates_and_leakage(tmp_path, stage):
    raw = write_raw(tmp_path / "raw")
    shutil.copy(raw / "train/images/t0000.tif", raw / "train/images/t0001.tif")
    shutil.copy(raw / "train/images/t0002.tif", raw / "val/images/t0001.tif")
    run = stage(raw)
    text = warnings_of(run)
    assert "1 image of train identical to another one in it (t0000 = t0001)" in text
    assert "1 image both in train and in val (t0002 = t0001): scores on val" in text
    assert any("train/t0002" in item["problem"] and item["where"] == "val/t0001" for item in run.checks["problems"])
    assert all(item["severity"] == "warning" for item in run.checks["problems"])


def test_constant_images_and_labels(tmp_path, stage):
    raw = write_raw(tmp_path / "raw")
    write_image(raw / "train/images/t0001.tif", np.full((24, 24, 3), 7, np.uint8))
    write_label(raw / "train/labels/t0002.png", np.full((24, 24), 2, np.uint8))
    write_label(raw / "train/labels/t0003.png", np.full((24, 24), 255, np.uint8))
    run = stage(raw)
    text = warnings_of(run)
    assert "1 image of train with one value only (t0001): no data?" in text
    assert "2 labels of train (50.0 %) with one value only (t0002, t0003)" in text
    problems = {item["where"]: item["problem"] for item in run.checks["problems"]}
    assert problems == {
        "train/t0001": "every pixel is 7/7/7: no data?",
        "train/t0003": "every label pixel is ignored",
    }


def test_classes_that_never_occur(tmp_path, stage):
    raw = write_raw(tmp_path / "raw")
    for index in range(4):
        write_label(raw / f"train/labels/t{index:04}.png", np.maximum(random_label(index), 1))
    text = warnings_of(stage(raw))
    assert "classes that never occur in train: background; no model can learn them" in text
    assert "do the labels run from 1?" in text
    assert "never occur in val" not in text


def test_a_0_255_mask(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", ignore_index=255)
    for split in ("train", "val"):
        for path in (raw / split / "labels").iterdir():
            write_label(path, np.where(random_label(3) > 0, 255, 0).astype(np.uint8))
    assert "hold only 0 and 255, which is ignored: a 0/255 mask?" in warnings_of(stage(raw))


def test_masks_of_0_and_255_among_those_of_0_and_1(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", train=3, val=1, classes=["ground", "road"])
    mask = (random_label(3) > 0).astype(np.uint8)
    for path in (*(raw / "train/labels").iterdir(), *(raw / "val/labels").iterdir()):
        write_label(path, mask)
    write_label(raw / "train/labels/t0001.png", mask * np.uint8(255))
    said = "1 label of 0 and 255 alone (train/t0001) among labels of 0 and 1: 255 is ignored"
    text = warnings_of(stage(raw))
    assert said in text
    proposed = yaml.safe_load(re.search(r"write label_values: (\{.*?\})", text)[1])
    write_config(raw, classes=["ground", "road"], label_values=proposed)
    run = stage(raw)
    assert said not in warnings_of(run)
    for tile in run.dataset().tiles("train"):
        np.testing.assert_array_equal(run.dataset().read_label("train", tile), mask)
    write_config(raw, classes=["ground", "road"])
    write_label(raw / "train/labels/t0002.png", np.where(np.arange(24) < 3, 255, mask).astype(np.uint8))
    assert said not in warnings_of(stage(raw))  # ignored pixels beside classes


def test_labels_of_which_every_pixel_is_ignored(tmp_path, stage):
    raw = write_raw(tmp_path / "raw")
    for path in (raw / "train/labels").iterdir():
        write_label(path, np.full((24, 24), 255, np.uint8))
    run = stage(raw)
    assert run.status == 2
    assert "expected labels of train to hold classes, found all of their pixels ignored" in run.error


def test_a_missing_first_class_of_mapped_labels_says_nothing_of_offsets(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", label_values={10: "background", 1: "field", 2: "water"})
    for path in (*(raw / "train/labels").iterdir(), *(raw / "val/labels").iterdir()):
        write_label(path, np.maximum(random_label(3), 1))
    text = warnings_of(stage(raw))
    assert "classes that never occur in train: background" in text
    assert "label_offset" not in text


def test_sizes_and_bands_that_differ(tmp_path, stage):
    raw = write_raw(tmp_path / "raw")
    write_image(raw / "val/images/t0001.tif", random_image(1, 60))
    write_label(raw / "val/labels/t0001.png", random_label(1, 60))
    write_image(raw / "test/images/t0000.tif", random_image(1) // 4)
    text = warnings_of(stage(raw))
    assert "tile sizes differ widely: sides from 24 to 60 px" in text
    assert "band 1 differs between train and test: mean 1" in text
    assert "between train and val" not in text


@pytest.mark.parametrize(
    ("values", "fields", "hint"),
    [
        ([1, 2, 3], {}, "values seem to run 1-3: set label_offset: 1"),
        ([0, 1, 2], {"label_offset": 1}, "values seem to run 0-2: set label_offset: 0"),
        ([0, 255], {"ignore_index": 254}, "looks like a 0/255 mask"),
        ([0, 1, 3], {}, "0 is unlabelled: set label_offset: 1 and ignore_index: 0"),
        ([0, 1, 4], {}, "in the order of classes: in dataset.yaml, write label_values: {0: background, 1: field, 4: w"),
    ],
)
def test_hints_for_wrong_label_values(values, fields, hint, tmp_path, stage):
    raw = write_raw(tmp_path / "raw", train=1, val=0, test=0, **fields)
    write_label(raw / "train/labels/t0000.png", np.resize(np.array(values, np.uint8), (24, 24)))
    run = stage(raw)
    assert run.status == 2
    assert hint in run.error


def test_what_is_only_nearly_suspicious_gives_no_warning(tmp_path, stage):
    """The other side of each warning: all pixels but one alike, one pixel of another value, sizes 1:2 ..."""
    raw = write_raw(tmp_path / "raw")
    nearly_the_same = random_image(0)  # as t0000
    nearly_the_same[3, 4, 1] ^= 1
    write_image(raw / "train/images/t0001.tif", nearly_the_same)
    nearly_constant = np.full((24, 24, 3), 127, np.uint8)
    nearly_constant[3, 4, 1] = 128
    write_image(raw / "train/images/t0002.tif", nearly_constant)
    nearly_one = np.full((24, 24), 2, np.uint8)
    nearly_one[3, 4] = 255
    write_label(raw / "train/labels/t0002.png", nearly_one)
    write_image(raw / "val/images/t0001.tif", random_image(1, 48))
    write_label(raw / "val/labels/t0001.png", random_label(1, 48))
    brighter = np.minimum(random_image(7).astype(int) + 20, 255)  # a quarter of the standard deviation
    write_image(raw / "test/images/t0000.tif", brighter.astype(np.uint8))
    only_some = np.where(random_label(3) > 0, 255, 0).astype(np.uint8)  # one mask of 0 and 255 among other labels
    write_label(raw / "train/labels/t0003.png", only_some)
    run = stage(raw)
    assert warnings_of(run) == ""
    assert run.checks["problems"] == []


def test_findings_are_complete_when_files_are_wrong_too(tmp_path, stage):
    """One round of fixing is enough: warnings are reported together with errors."""
    raw = write_raw(tmp_path / "raw")
    (raw / "train/images/t0000.tif").write_bytes(b"")
    shutil.copy(raw / "train/images/t0002.tif", raw / "val/images/t0001.tif")
    write_image(raw / "test/images/t0000.tif", np.full((60, 60, 3), 7, np.uint8))
    for split in ("train", "val"):
        for path in (raw / split / "labels").iterdir():
            write_label(path, np.maximum(random_label(3), 1))
    run = stage(raw)
    assert run.status == 2
    text = "\n".join(run.checks["warnings"])
    assert "1 image both in train and in val (t0002 = t0001)" in text
    assert "1 image of test with one value only" in text
    assert "classes that never occur in train: background" in text
    assert "tile sizes differ widely" in text
    assert "band 1 differs between train and test" in text
    assert run.checks["splits"]["train"]["num_tiles"] == 3
    assert not list(stage.store.rglob("*.tar"))


def test_images_are_measured_although_the_first_are_damaged(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", train=40, val=0, test=0)
    for index in range(0, 40, 2):
        (raw / f"train/images/t{index:04}.tif").write_bytes(b"")
    run = stage(raw, "--on-bad-tile", "skip", "--max-bad", "20")
    assert run.status == 0, run.err
    assert run.loaded.document.splits["train"].num_tiles == 20


def spoilt(tmp_path, count: int):
    raw = write_raw(tmp_path / "raw", train=10)
    for index in range(count):
        path = raw / f"train/images/t{index:04}.tif"
        path.write_bytes(path.read_bytes()[:100])
    return raw


def test_every_problem_is_in_the_report(tmp_path, stage):
    raw = spoilt(tmp_path, 7)
    (raw / "val/labels/t0001.png").unlink()
    run = stage(raw)
    assert run.status == 2
    assert not run.checks["published"]
    problems = run.checks["problems"]
    assert len(problems) == 8
    assert all(item["severity"] == "error" and item["action"] for item in problems)
    assert run.out.count("error: ") == 2
    assert "images/t0000.tif and 6 others (t0001.tif, t0002.tif, t0003.tif, t0004.tif, ...): " in run.out
    assert "Not published" in (run.folder / "report.html").read_text()
    assert not (run.folder / "dataset.json").exists()
    # KFP keeps nothing of a step that failed: the report is in object storage.
    kept = stage.store / "datasets/refused"
    assert (kept / "random.html").read_bytes() == (run.folder / "report.html").read_bytes()
    assert (kept / "random.json").read_bytes() == (run.folder / "checks.json").read_bytes()
    assert f"all problems: {kept}/random.html" in run.out


def test_bad_tiles_are_left_out_on_demand(tmp_path, stage):
    raw = spoilt(tmp_path, 2)
    (raw / "val/labels/t0001.png").unlink()
    run = stage(raw, "--on-bad-tile", "skip")
    manifest = run.loaded.document
    assert [(tile.split, tile.id) for tile in manifest.skipped] == [
        ("val", "t0001"),
        ("train", "t0000"),
        ("train", "t0001"),
    ]
    assert manifest.splits["train"].num_tiles == 8
    assert manifest.splits["val"].num_tiles == 1
    assert {item["severity"] for item in run.checks["problems"]} == {"warning"}
    # The words are the same wherever the source lies: so are the manifest's bytes.
    assert all(tile.problem.startswith(f"{tile.split}/images/{tile.id}.tif: ") for tile in manifest.skipped)
    again = stage(raw, "--on-bad-tile", "skip")
    assert again.loaded.sha256 == run.loaded.sha256
    assert "0.0 MB of shards uploaded" in again.out


def test_without_the_bad_files_the_dataset_is_the_same(tmp_path, stage):
    raw = spoilt(tmp_path, 2)
    skipping = stage(raw, "--on-bad-tile", "skip").loaded.document
    for index in range(2):
        (raw / f"train/images/t{index:04}.tif").unlink()
        (raw / f"train/labels/t{index:04}.png").unlink()
    assert stage(raw, store=tmp_path / "other").loaded.document.dataset_id == skipping.dataset_id


def test_too_many_bad_tiles(tmp_path, stage):
    run = stage(spoilt(tmp_path, 4), "--on-bad-tile", "skip", "--max-bad", "3")
    assert run.status == 2
    assert "4 problems (--max-bad is 3)" in run.error
    assert stage(tmp_path / "raw", "--on-bad-tile", "skip", "--max-bad", "4").status == 0


def test_more_bad_tiles_than_a_manifest_has_room_for_may_not_be_left_out(tmp_path, stage):
    raw = write_raw(tmp_path / "raw")
    run = stage(raw, "--on-bad-tile", "skip", "--max-bad", "50001")
    assert run.status == 2
    assert "--max-bad: expected at most 50000, found 50001" in run.error
    problem = f"train/images/{'t' * 100}.tif: {'expected a tile, found none ' * 30}"
    skipped = SkippedTile(split="train", id="t" * 100, problem=problem)
    manifest = stage(raw).loaded.document
    many, none = (len(manifest.model_copy(update={"skipped": (skipped,) * n}).to_bytes()) for n in (1000, 0))
    assert 50 * (many - none) < MAX_DOCUMENT_BYTES


def test_a_split_without_a_single_pair_is_empty(tmp_path, stage):
    raw = write_raw(tmp_path / "raw")
    shutil.rmtree(raw / "val/labels")
    run = stage(raw, "--on-bad-tile", "skip")
    assert run.status == 2
    assert "val/labels: expected labels for the 2 images of val, found none" in run.error


def test_a_split_of_bad_tiles_only_is_empty(tmp_path, stage):
    raw = write_raw(tmp_path / "raw")
    for path in (raw / "val/images").iterdir():
        path.write_bytes(b"")
    run = stage(raw, "--on-bad-tile", "skip")
    assert run.status == 2
    assert "every tile is bad" in run.error


def test_needs_of_later_stages(tmp_path, stage):
    run = stage(write_raw(tmp_path / "raw", train=40))
    assert "train needs: images per epoch: 40 (3 steps of 16)" in run.out
    needs = {(need["stage"], need["what"]): need["amount"] for need in run.checks["needs"]}
    assert needs["export-probs", "images (val and test)"] == "3"
    assert needs["export-probs", "storage per model"] == "0.0 MB to 0.0 MB, at most 0.0 MB"


def test_needs_are_counted_from_pixels_and_classes(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", train=1, val=10, test=20, size=250)
    needs = {(need["stage"], need["what"]): need["amount"] for need in stage(raw).checks["needs"]}
    # 30 tiles x 250 x 250 px at 1.5 to 6 bytes; 3 classes of 2 bytes
    assert needs["export-probs", "storage per model"] == "2.8 MB to 11.2 MB, at most 11.2 MB"
    assert needs["average-probs", "storage for label maps, at most"] == "1.9 MB"
    assert needs["export-probs", "local disk for shards"] == "5.9 MB"


def test_bands_that_are_not_listed(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", bands=5)
    assert "all 5 are used" in warnings_of(stage(raw))
    write_config(raw, bands=[3, 2, 1])
    assert warnings_of(stage(raw)) == ""
