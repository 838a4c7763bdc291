"""Which files of a source are tiles: unusual names and places, and files that are not tiles."""

from __future__ import annotations

import os
import unicodedata

import pytest
import webdataset
from raw_tiles import random_image, random_label, write_image, write_label, write_raw


def write_tile(raw, split: str, name: str, suffixes: tuple[str, str] = ("tif", "png"), seed: int = 77) -> None:
    write_image(raw / f"{split}/images/{name}.{suffixes[0]}", random_image(seed))
    if split != "test":
        write_label(raw / f"{split}/labels/{name}.png", random_label(seed))
        (raw / f"{split}/labels/{name}.png").rename(raw / f"{split}/labels/{name}.{suffixes[1]}")


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw", train=2, val=1, test=1)


def problems(run) -> dict[str, str]:
    return {item["where"].rpartition("/")[2]: item["problem"] for item in run.checks["problems"]}


@pytest.mark.parametrize("name", ["a tile", "Zürich-日本", "-x", "S2A.v2.1", "100%25", "a" * 200])
@pytest.mark.parametrize("suffixes", [("tif", "png"), ("TIFF", "PNG"), ("Tif", "png")])
def test_odd_names_and_upper_case_extensions(raw, stage, name, suffixes):
    write_tile(raw, "train", name, suffixes)
    run = stage(raw)
    assert run.status == 0, run.err
    assert name in [tile.id for tile in run.dataset().tiles("train")]


def test_a_name_that_is_too_long_for_what_is_made_of_it(raw, stage):
    name = "é" * 101  # a file system takes it; the names that landseg makes of it would be too long
    write_tile(raw, "train", name)
    run = stage(raw)
    assert run.status == 2
    problem = "expected a file name of at most 200 bytes without its extension, found 202"
    assert {problem} == set(problems(run).values())


def test_a_label_may_be_a_tiff(raw, stage):
    write_image(raw / "train/images/x.tif", random_image(1))
    write_image(raw / "train/labels/x.TIF", random_label(1))
    assert "x" in [tile.id for tile in stage(raw).dataset().tiles("train")]


def test_webdataset_keeps_tiles_with_dots_apart(raw, stage):
    for seed, name in enumerate(("a.1", "a.2", "a%2E1")):
        write_tile(raw, "train", name, seed=100 + seed)
    run = stage(raw)
    shard = run.dataset().shard_path("train", 0)
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["a%252E1", "a%2E1", "a%2E2", "t0000", "t0001"]
    assert all({"tif", "png"} <= sample.keys() for sample in samples)


def test_names_are_the_same_in_either_normal_form(raw, stage):
    write_image(raw / f"train/images/{unicodedata.normalize('NFD', 'café')}.tif", random_image(1))
    write_label(raw / f"train/labels/{unicodedata.normalize('NFC', 'café')}.png", random_label(1))
    run = stage(raw)
    assert run.status == 0, run.err
    assert "café" in [tile.id for tile in run.dataset().tiles("train")]


@pytest.mark.parametrize(
    "name", ["new\nline", "no\N{NO-BREAK SPACE}break", os.fsdecode(b"\xff\xfe"), "back\\slash", "b" * 201]
)
def test_names_that_are_refused(raw, stage, name):
    write_tile(raw, "test", name)
    run = stage(raw)
    assert run.status == 2
    assert "file name" in run.error
    skipping = stage(raw, "--on-bad-tile", "skip")
    assert skipping.status == 0, skipping.err
    assert len(skipping.loaded.document.skipped) == 1
    assert all(line.isprintable() for line in skipping.out.splitlines())


def test_hidden_files_are_not_tiles(raw, stage):
    expected = stage(raw).loaded.document.dataset_id
    for name in (".DS_Store", "._t0000.tif", ".t0009.tif"):
        (raw / "train/images" / name).write_bytes(b"x")
    run = stage(raw)
    assert run.loaded.document.dataset_id == expected
    assert run.checks["warnings"] == []


def test_files_that_are_not_used_are_reported(raw, stage):
    (raw / "train/images/t0000.tfw").write_text("10")  # a GIS program's: not worth a note
    (raw / "train/images/Thumbs.db").write_bytes(b"x")
    assert stage(raw).checks["warnings"] == []
    (raw / "train/images/t0009.dbf").write_bytes(b"x")
    assert stage(raw).checks["warnings"] == ["1 other file is not used: train/images/t0009.dbf"]
    (raw / "legend.png").write_bytes(b"x")
    assert stage(raw).checks["warnings"][0].startswith("1 .png file outside of the splits not used")
    (raw / "train/images/t0009.ecw").write_bytes(b"x")
    error = stage(raw).error
    assert "train/images: expected images (.tif, .tiff, .png" in error
    assert "found 1 .ecw file (convert them" in error


def test_areas_are_read_and_part_of_the_ids(raw, stage):
    write_tile(raw, "train", "bonn/t0000")
    write_tile(raw, "train", "ulm/sub/t0000", seed=78)
    run = stage(raw)
    assert run.status == 0, run.err
    assert [tile.id for tile in run.dataset().tiles("train")] == ["bonn__t0000", "t0000", "t0001", "ulm__sub__t0000"]


@pytest.mark.parametrize("name", ["می\u200cشود", "क्\u200dष"])
def test_what_joins_letters_is_part_of_a_name(raw, stage, name):
    write_tile(raw, "train", name)
    run = stage(raw)
    assert run.status == 0, run.err
    assert name in [tile.id for tile in run.dataset().tiles("train")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("東京\u3000港", "ideographic space (U+3000)"),
        ("a\u200c", "zero width non-joiner (U+200C)"),
        ("a\u202eb", "right-to-left override (U+202E)"),
        ("a\tb", "tab (U+0009)"),
        (os.fsdecode(b"a\xff"), "the byte 0xff, which is not UTF-8"),
    ],
)
def test_the_character_that_is_not_allowed_is_named(raw, stage, name, expected):
    write_tile(raw, "test", name)
    assert (
        f"the file name holds characters that are not allowed: {expected} (rename it without them)" in stage(raw).error
    )


def test_links_are_followed_inside_the_dataset_and_must_lead_somewhere(raw, stage):
    (raw / "test/images/link.tif").symlink_to(raw / "train/images/t0000.tif")
    assert stage(raw).dataset().tiles("test")[0].id == "link"
    (raw / "test/images/broken.tif").symlink_to(raw / "nowhere.tif")
    os.mkfifo(raw / "test/images/pipe.tif")
    run = stage(raw)
    assert run.status == 2
    assert problems(run)["broken.tif"] == "cannot be read: No such file or directory"
    assert problems(run)["pipe.tif"] == "expected a file, found a pipe, a socket or a device"


def test_links_that_leave_the_dataset_are_refused(raw, stage, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    write_image(private / "secret.tif", random_image(5))
    (private / "credentials").write_text("[default]\nkey = AKIAFAKE\n")
    for link, target in (
        ("test/images/link.tif", "secret.tif"),
        ("test/more", "."),
        ("test/images/text.tif", "credentials"),
    ):
        (raw / link).symlink_to(private / target)
        run = stage(raw)
        assert run.status == 2
        assert f"{link}: expected a file inside the dataset, found a link that leaves it" in run.error
        assert "AKIA" not in run.error
        (raw / link).unlink()
    (raw / "train/images/again").symlink_to(raw / "train")
    assert (
        "train/images/again: expected a folder, found a link to one that holds it (remove the link)" in stage(raw).error
    )
    (raw / "train/images/again").unlink()
    (raw / "dataset.yaml").unlink()
    (raw / "dataset.yaml").symlink_to(private / "credentials")
    assert "found a link that leaves it" in stage(raw).error


@pytest.mark.parametrize("other", ["t0000.tiff", "t0000.TIF"])
def test_the_same_stem_twice(raw, stage, other):
    (raw / "train/images" / other).write_bytes((raw / "train/images/t0000.tif").read_bytes())
    assert "has the same stem" in stage(raw).error


def test_unpaired_files_say_what_to_do(raw, stage):
    write_tile(raw, "test", "t0001")
    (raw / "test/labels").mkdir()
    write_label(raw / "test/labels/t0001.png", random_label(1))
    (raw / "train/labels/t0000.png").unlink()
    actions = {item["where"].rpartition("raw/")[2]: item["action"] for item in stage(raw).checks["problems"]}
    assert actions["test/images/t0000.tif"] == "add the label, or remove all labels of test"
    assert actions["train/images/t0000.tif"] == "add the label, or move the image to test"
