"""Staging again: what is in storage already is neither uploaded nor, where its content is known, decoded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from raw_tiles import random_image, random_label, write_config, write_image, write_label, write_raw
from staging_cli import read_paths, settle, tree

from landseg import storage
from landseg.raw import checks
from landseg.raw.sources.source import FolderSource, fingerprint_of

SMALL = ("--shard-bytes", "20000")


def add_tile(raw, name: str, seed: int) -> None:
    write_image(raw / f"train/images/{name}.tif", random_image(seed))
    write_label(raw / f"train/labels/{name}.png", random_label(seed))


def volume(manifest) -> int:
    return sum(shard.size_bytes for info in manifest.splits.values() for shard in info.shards)


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw", train=200, val=5)


def test_one_percent_of_new_tiles_costs_one_percent(raw, stage):
    first = stage(raw).loaded.document
    before = set(tree(stage.store))
    for position in (3, 150):
        add_tile(raw, f"t{position:04}-new", 5000 + position)
    second = stage(raw).loaded.document
    new = {name: data for name, data in tree(stage.store).items() if name not in before}
    shards = [len(data) for name, data in new.items() if name.endswith(".tar")]
    assert sum(shards) <= 0.02 * volume(first)
    assert second.splits["train"].num_tiles == 202
    assert set(first.splits["train"].shards) < set(second.splits["train"].shards)


def test_the_new_dataset_reads_like_one_staged_from_scratch(raw, stage, tmp_path):
    stage(raw, *SMALL)
    for position in (3, 150):
        add_tile(raw, f"t{position:04}-new", 5000 + position)
    (raw / "train/images/t0100.tif").unlink()
    (raw / "train/labels/t0100.png").unlink()
    grown = stage(raw, *SMALL)
    fresh = stage(raw, *SMALL, store=tmp_path / "fresh")
    assert grown.loaded.document.dataset_id == fresh.loaded.document.dataset_id
    a, b = grown.dataset(), fresh.dataset()
    assert [tile.id for tile in a.tiles("train")] == [tile.id for tile in b.tiles("train")]
    for one, other in zip(a.tiles("train"), b.tiles("train"), strict=True):
        np.testing.assert_array_equal(a.read_image("train", one), b.read_image("train", other))
        np.testing.assert_array_equal(a.read_label("train", one), b.read_label("train", other))
    for split, info in grown.loaded.document.splits.items():
        other = fresh.loaded.document.splits[split]
        assert (info.band_mean, info.class_pixels) == (other.band_mean, other.class_pixels)


def test_known_tiles_are_not_decoded_again(raw, stage, monkeypatch):
    stage(raw)
    add_tile(raw, "x", 1)
    decoded = []
    original = checks.decode_image_files

    def decode(files, where, *args, **options):
        decoded.append(where)
        return original(files, where, *args, **options)

    monkeypatch.setattr(checks, "decode_image_files", decode)
    stage(raw)
    assert decoded == [f"{raw}/train/images/x.tif"]


def test_going_back_finds_the_first_dataset(raw, stage):
    first = stage(raw)
    add_tile(raw, "x", 1)
    stage(raw)
    (raw / "train/images/x.tif").unlink()
    (raw / "train/labels/x.png").unlink()
    before = tree(stage.store)
    assert stage(raw).loaded.sha256 == first.loaded.sha256
    assert tree(stage.store) == before


def test_a_source_without_changes_is_not_even_read(raw, stage, monkeypatch):
    settle(raw)
    first = stage(raw)
    read = read_paths(monkeypatch)
    before = {path: path.read_bytes() for path in stage.store.rglob("*.json")}
    again = stage(raw)
    assert (again.loaded.sha256, read) == (first.loaded.sha256, [])
    assert {path: path.read_bytes() for path in stage.store.rglob("*.json")} == before
    assert again.checks["splits"] == first.checks["splits"]


def test_a_change_that_hides_behind_size_and_time_is_found(raw, stage):
    settle(raw)
    first = stage(raw)
    path, other = raw / "train/images/t0003.tif", raw / "other"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    status = path.stat()
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert stage(raw).loaded.sha256 != first.loaded.sha256


def test_files_that_are_too_young_prove_nothing(raw, monkeypatch):
    source = FolderSource(str(settle(raw)))
    settled = fingerprint_of(source.files())
    assert settled is not None
    assert fingerprint_of(source.files()) == settled
    path = raw / "train/images/t0000.tif"
    path.touch()
    changed_ns = max(path.stat().st_mtime_ns, path.stat().st_ctime_ns)
    monkeypatch.setattr(time, "time_ns", lambda: changed_ns + 1_000_000)
    assert fingerprint_of(source.files()) is None
    monkeypatch.setattr(time, "time_ns", lambda: changed_ns + 3_000_000_000)
    assert fingerprint_of(source.files()) not in {None, settled}


def test_objects_without_changes_are_not_read(raw, s3, stage, monkeypatch):
    storage.put_many((f"{s3.uri}/raw/{path.relative_to(raw)}", path) for path in raw.rglob("*") if path.is_file())
    first = stage(f"{s3.uri}/raw")
    read = read_paths(monkeypatch)
    assert stage(f"{s3.uri}/raw").loaded.sha256 == first.loaded.sha256
    assert read == []
    write_image(raw / "train/images/t0000.tif", random_image(77))
    storage.put_file(f"{s3.uri}/raw/train/images/t0000.tif", raw / "train/images/t0000.tif")
    assert stage(f"{s3.uri}/raw").loaded.sha256 != first.loaded.sha256
    assert read == ["train/images/t0000.tif"]


def test_other_label_rules_are_checked_again(raw, stage):
    stage(raw)
    write_config(raw, classes=["a", "b"])
    run = stage(raw)
    assert run.status == 2
    assert "outside the class list" in run.error


def test_shards_that_are_mostly_unwanted_are_packed_anew(raw, stage):
    first = stage(raw, *SMALL).loaded.document
    for index in range(100):
        (raw / f"train/images/t{index:04}.tif").unlink()
        (raw / f"train/labels/t{index:04}.png").unlink()
    second = stage(raw, *SMALL).loaded.document
    assert volume(second) < 0.6 * volume(first)
    assert set(first.splits["train"].shards) & set(second.splits["train"].shards)


def test_small_shards_do_not_pile_up(raw, stage):
    for step in range(12):
        add_tile(raw, f"x{step}", step)
        manifest = stage(raw).loaded.document
    assert len(manifest.splits["train"].shards) < 11


def test_a_lost_shard_is_uploaded_again(raw, stage, tmp_path):
    first = stage(raw)
    lost = first.dataset().shard_path("train", 0)
    content = lost.read_bytes()
    lost.unlink()
    assert stage(raw).loaded.sha256 == first.loaded.sha256
    assert lost.read_bytes() == content


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"kind": "landseg.latest", "version": 2}'])
def test_a_damaged_record_of_the_last_dataset_is_no_obstacle(raw, stage, damage):
    first = stage(raw)
    (stage.store / "datasets/by-name/random.json").write_bytes(damage)
    assert stage(raw).loaded.sha256 == first.loaded.sha256


def test_two_stagings_at_once(raw, stage, tmp_path):
    stage(raw, *SMALL, store=tmp_path / "reference")
    other = tmp_path / "other"
    shutil.copytree(raw, other)
    add_tile(other, "x", 1)
    commands = [
        [sys.executable, "-m", "landseg", "stage-data", "--source", str(source), "--storage-uri", str(stage.store)]
        for source in (raw, raw, other)
    ]
    results: list[int] = []
    threads = [
        threading.Thread(
            target=lambda argv=argv: results.append(subprocess.run([*argv, *SMALL, "--num-workers", "1"]).returncode)
        )
        for argv in commands
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0, 0]
    expected = tree(tmp_path / "reference")
    found = tree(stage.store)
    assert {name: found[name] for name in expected} == expected
    assert stage(raw, *SMALL).dataset().tiles("train")


def test_only_what_has_changed_is_read_again(raw, stage, monkeypatch):
    settle(raw)
    stage(raw, *SMALL)
    for name in ("t0003", "t0150"):
        write_image(raw / f"train/images/{name}.tif", random_image(7))
    settle(raw)
    read = read_paths(monkeypatch)
    changed = stage(raw, *SMALL)
    assert sorted(read) == ["train/images/t0003.tif", "train/images/t0150.tif"]
    fresh = stage(raw, *SMALL, store=stage.store.parent / "fresh")
    assert changed.loaded.document.dataset_id == fresh.loaded.document.dataset_id
    assert tile_row(changed, "t0003") == tile_row(fresh, "t0003")
    # A list that is damaged, or not the one that was noted, tells nothing: everything is read.
    (stage.store / "datasets/by-name/random.files.jsonl").write_bytes(b"[]")
    write_image(raw / "train/images/t0004.tif", random_image(8))
    read.clear()
    stage(raw, *SMALL)
    assert len(read) == 206


SCENES = {"max_px": 64, "tile_px": 48, "overlap_px": 8}


@pytest.fixture
def scenes(tmp_path):
    """Six scenes of 2 x 3 tiles, and six tiles."""
    raw = write_raw(tmp_path / "scenes", train=6, val=0, test=0, scenes=SCENES)
    for number in range(6):
        write_scene(raw, number, number)
    return settle(raw)


def write_scene(raw: Path, number: int, seed: int) -> None:
    write_image(raw / f"train/images/s{number}.tif", random_image(seed, 120)[:80])
    write_label(raw / f"train/labels/s{number}.png", random_label(seed, 120)[:80])


def test_only_scenes_that_have_changed_are_cut_again(scenes, stage, checked, monkeypatch):
    stage(scenes, *SMALL)
    write_scene(scenes, 2, 77)
    settle(scenes)
    read = read_paths(monkeypatch)
    checked.clear()
    changed = stage(scenes, *SMALL)
    assert (read, checked) == (["train/images/s2.tif"], ["train/s2"])
    fresh = stage(scenes, *SMALL, store=stage.store.parent / "fresh")
    assert changed.loaded.document.dataset_id == fresh.loaded.document.dataset_id
    assert rows(changed) == rows(fresh)
    write_scene(scenes, 4, 78)
    settle(scenes)
    checked.clear()
    stage(scenes, *SMALL)
    assert checked == ["train/s4"]


def rows(run):
    """The rows of the tiles but for where they lie, and the bytes that lie there."""
    found = run.dataset()
    return [
        (
            tile.model_dump(exclude={"shard", "image", "label"}),
            found.read_image("train", tile).tobytes(),
            found.read_label("train", tile).tobytes(),
        )
        for tile in found.tiles("train")
    ]


@pytest.mark.parametrize("rule", [{"tile_px": 40}, {"overlap_px": 16}, {"max_px": 200}])
def test_other_rules_cut_all_scenes_again(scenes, stage, checked, rule):
    stage(scenes, *SMALL)
    write_config(scenes, scenes=SCENES | rule)
    settle(scenes)
    checked.clear()
    changed = stage(scenes, *SMALL)
    assert [name for name in checked if "/s" in name] == [f"train/s{number}" for number in range(6)]
    fresh = stage(scenes, *SMALL, store=stage.store.parent / "fresh")
    assert changed.loaded.document.dataset_id == fresh.loaded.document.dataset_id
    assert rows(changed) == rows(fresh)


def test_a_scene_of_which_shards_are_packed_anew_is_cut_as_a_whole(scenes, stage, checked):
    stage(scenes, "--shard-bytes", "20000")
    for number in (0, 1, 4):
        (scenes / f"train/images/s{number}.tif").unlink()
        (scenes / f"train/labels/s{number}.png").unlink()
    settle(scenes)
    checked.clear()
    changed = stage(scenes, "--shard-bytes", "20000")
    assert changed.loaded.document.splits["train"].num_tiles == 3 * 6 + 6
    fresh = stage(scenes, "--shard-bytes", "20000", store=stage.store.parent / "fresh")
    assert rows(changed) == rows(fresh)


def tile_row(run, name):
    (tile,) = (tile for tile in run.dataset().tiles("train") if tile.id == name)
    return tile.image_sha256, tile.label_sha256, tile.band_sums
