"""Several workers stage ranges of one source; the last joins them into what one worker alone would have published."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from raw_tiles import UTM, random_image, random_label, write_image, write_label, write_raw
from s3_endpoint import S3
from staging_cli import Staging, read_paths, settle, tree

from landseg import storage
from landseg.dataset.staging import identifying
from landseg.dataset.staging.checksums import SplitChecksums
from landseg.dataset.staging.identifying import Identifying
from landseg.dataset.staging.ranges import ranges
from landseg.dataset.staging.ranges.range_results import RangeRecords
from landseg.raw.layout.listing import RawDataset
from landseg.raw.sources.source import FolderSource
from landseg.stages.shared.step_limits import VARIABLE

OPTIONS = ("--shard-bytes", "20000")
WORKERS = 4


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settle(write_raw(tmp_path_factory.mktemp("raw"), train=30, val=12, test=8))


def stage_alone(stage: Staging, raw: Path, tmp_path: Path, *options: str) -> dict[str, bytes]:
    run = stage(raw, *OPTIONS, *options, store=tmp_path / "alone")
    assert run.status == 0, run.err
    return tree(tmp_path / "alone")


def share(number: int) -> tuple[str, str]:
    return "--worker", f"{number}/{WORKERS}"


@pytest.mark.parametrize("order", [(1, 2, 3, 4), (4, 2, 1, 3)])
def test_whoever_is_last_publishes_what_one_alone_would(raw, stage, checked, tmp_path, order):
    expected = stage_alone(stage, raw, tmp_path)
    checked.clear()
    *first, last = (stage(raw, *OPTIONS, *share(number)) for number in order)
    assert [(run.status, run.out, (run.folder / "dataset.json").exists()) for run in first] == [(0, "", False)] * 3
    assert sorted(checked) == sorted(set(checked))
    assert len(checked) == 50
    assert last.status == 0
    assert last.loaded.document.splits["train"].num_tiles == 30
    assert tree(stage.store) == expected


def test_every_worker_finds_what_is_published(raw, stage, checked):
    runs = [stage(raw, *OPTIONS, *share(number)) for number in (1, 2, 3, 4)]
    checked.clear()
    assert stage(raw, *OPTIONS, *share(1)).loaded.sha256 == runs[-1].loaded.sha256
    assert checked == []


def test_a_worker_finds_what_another_published_while_it_joined(raw, stage, checked, monkeypatch):
    for number in (1, 2, 3):
        stage(raw, *OPTIONS, *share(number))
    look, looks, others = RangeRecords.look, [0], []

    def looked(records: RangeRecords) -> None:
        look(records)
        looks[0] += 1
        if looks[0] == 2:  # worker 4 has seen that all is recorded, and reads the records next
            others.append(stage(raw, *OPTIONS, *share(3)))

    monkeypatch.setattr(RangeRecords, "look", looked)
    last = stage(raw, *OPTIONS, *share(4))
    (other,) = others
    assert last.loaded.sha256 == other.loaded.sha256
    assert last.checks["splits"] == other.checks["splits"]
    assert last.checks["warnings"] == other.checks["warnings"]
    assert not list((stage.store / "datasets/shards").glob("*.json"))
    list_of_files = (stage.store / "datasets/by-name/random.files.jsonl").read_text()
    assert len(list_of_files.splitlines()) == 50


def test_who_joins_checks_bad_tiles_again_not_their_ranges(tmp_path, stage, checked):
    raw = write_raw(tmp_path / "raw", train=40, val=6, test=0)
    bad = [raw / f"train/images/t{number:04}.tif" for number in (1, 20, 38)]
    for path in bad:
        path.write_bytes(b"no image".ljust(path.stat().st_size))
    settle(raw)
    skip = ("--on-bad-tile", "skip")
    expected = stage_alone(stage, raw, tmp_path, *skip)
    for number in (1, 2, 3, 4):
        stage(raw, *OPTIONS, *skip, *share(number), "--join", "later")
    checked.clear()
    assert stage(raw, *OPTIONS, *skip).status == 0
    assert checked == ["train/t0001", "train/t0020", "train/t0038"]
    assert tree(stage.store) == expected


def test_percentiles_crs_and_findings_are_joined(stage, tmp_path):
    raw = write_raw(tmp_path / "raw", train=0, val=0, test=0)
    for split, count in (("train", 12), ("val", 6)):
        for number in range(count):
            image = (random_image(number) * (number + 1)).astype("uint16")
            options = {} if number % 3 else {"extratags": _geotags(32630 + number)}
            write_image(raw / split / "images" / f"t{number:04}.tif", image, **options)
            write_label(raw / split / "labels" / f"t{number:04}.png", random_label(number))
    write_image(raw / "val/images/t0005.tif", random_image(1).astype("uint16"))
    (raw / "train/images/t0003.tif").write_bytes(b"no image")
    (raw / "val/labels/t0002.png").write_bytes(b"no label")
    settle(raw)
    skip = ("--on-bad-tile", "skip")
    expected = stage_alone(stage, raw, tmp_path, *skip)
    *_, last = (stage(raw, *OPTIONS, *skip, *share(number)) for number in (2, 3, 4, 1))
    manifest = last.loaded.document
    assert manifest.class_schema.scale.method == "percentile"
    assert len(manifest.crs) == 4
    assert [tile.id for tile in manifest.skipped] == ["t0003", "t0002"]
    assert tree(stage.store) == expected


def _geotags(epsg: int) -> list[tuple]:
    keys = (*UTM.directory[:-1], epsg)
    return [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 400_000.0, 5_000_000.0, 0.0), True),
        (34735, 3, len(keys), keys, True),
        (34736, 12, len(UTM.doubles), UTM.doubles, True),
        (34737, 2, len(UTM.ascii) + 1, UTM.ascii, True),
    ]


def test_a_share_of_more_hours_than_a_step_has_is_warned_of(raw, stage, monkeypatch):
    monkeypatch.setattr(ranges, "_STAGED_BYTES_PER_S", 1)
    size = sum(path.stat().st_size for path in raw.rglob("*") if path.suffix in (".tif", ".png"))
    monkeypatch.setenv(VARIABLE, f"stage-data.timeout_s={size // 3}")
    said = stage(raw, *OPTIONS, *share(1)).err  # a quarter
    assert "the pipeline ends" not in said
    said = stage(raw, *OPTIONS).err  # all but that
    assert (
        f"h: the pipeline ends the step after {size / 3 / 3600:.3g} h, and a retry goes on from the last shard" in said
    )
    assert 'expected stage_workers=3 at least, or SET="stage-data.timeout=' in said
    assert "the pipeline ends" not in stage(raw, *OPTIONS).err


def test_too_many_bad_tiles_in_all_shares_together(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", train=40, val=0, test=0)
    for number in (1, 38):
        (raw / f"train/images/t{number:04}.tif").write_bytes(b"no image")
    settle(raw)
    skip = ("--on-bad-tile", "skip", "--max-bad", "1")
    *first, last = (stage(raw, *OPTIONS, *skip, *share(number)) for number in (1, 2, 3, 4))
    assert [run.status for run in first] == [0, 0, 0]
    assert last.status == 2
    assert "2 problems (--max-bad is 1)" in last.error
    assert not list(stage.store.glob("datasets/*/manifest.json"))


def test_a_bad_tile_fails_its_worker_alone(tmp_path, stage, checked):
    raw = write_raw(tmp_path / "raw", train=40, val=0, test=0)
    path = raw / "train/images/t0001.tif"
    path.write_bytes(b"no image".ljust(path.stat().st_size))
    settle(raw)
    assert [stage(raw, *OPTIONS, *share(number)).status for number in (1, 2, 3, 4)] == [2, 0, 0, 0]
    write_image(raw / "train/images/t0001.tif", random_image(1))
    settle(raw)
    checked.clear()
    *_, last = (stage(raw, *OPTIONS, *share(number)) for number in (1, 2, 3, 4))
    assert last.loaded.document.splits["train"].num_tiles == 40
    assert "train/t0001" in checked
    assert len(checked) < 30  # what the other workers recorded still counts


def test_a_dataset_that_has_grown(tmp_path, stage):
    raw = settle(write_raw(tmp_path / "raw", train=30, val=6, test=0))
    expected_store = tmp_path / "alone"
    for store in (expected_store, stage.store):
        assert stage(raw, *OPTIONS, store=store).status == 0
    for number in range(100, 120):
        write_image(raw / f"train/images/t{number:04}.tif", random_image(number))
        write_label(raw / f"train/labels/t{number:04}.png", random_label(number))
    settle(raw)
    assert stage(raw, *OPTIONS, store=expected_store).status == 0
    *_, last = (stage(raw, *OPTIONS, *share(number)) for number in (1, 2, 3, 4))
    assert last.loaded.document.splits["train"].num_tiles == 50
    assert tree(stage.store) == tree(expected_store)


def change_all(raw: Path) -> None:
    for number, path in enumerate(sorted(raw.glob("*/images/*.tif"))):
        write_image(path, random_image(1000 + number))
    settle(raw)


def test_each_changed_file_is_read_once_by_all_workers_together(tmp_path, stage, monkeypatch):
    raw = settle(write_raw(tmp_path / "raw", train=30, val=12, test=8))
    for store in (tmp_path / "alone", stage.store):
        assert stage(raw, *OPTIONS, store=store).status == 0
    change_all(raw)
    monkeypatch.setattr(identifying, "_BATCH_TILES", 4)
    expected = stage_alone(stage, raw, tmp_path)
    read = read_paths(monkeypatch)
    runs = [stage(raw, *OPTIONS, *share(number)) for number in (2, 1, 3)]
    assert [run.status for run in runs] == [0, 0, 0]
    assert stage(raw, *OPTIONS, store=stage.store).loaded.document.splits["train"].num_tiles == 30  # joins
    assert sorted(read) == sorted(set(read))
    assert len(read) == 50
    assert tree(stage.store) == expected  # no record is left


def test_workers_at_once_read_a_share_each(tmp_path, monkeypatch):
    raw = settle(write_raw(tmp_path / "raw", train=64, val=0, test=0))
    dataset = RawDataset.open(FolderSource(str(raw)))
    tiles = {"train": dataset.pairing.tiles["train"]}
    monkeypatch.setattr(identifying, "_BATCH_TILES", 4)
    read: list[str] = []
    original = identifying.identify_tile

    def slow(source, tile):
        read.append(tile.id)
        time.sleep(0.01)
        return original(source, tile)

    monkeypatch.setattr(identifying, "identify_tile", slow)

    def work(number: int) -> SplitChecksums:
        found = {"train": SplitChecksums(tiles["train"], tmp_path / f"scratch-{number}")}
        Identifying(dataset.source, tiles, found, str(tmp_path / "store"), None).run(number, WORKERS, 1)
        return found["train"]

    with ThreadPoolExecutor(WORKERS) as pool:
        first, *others = pool.map(work, range(1, WORKERS + 1))
    assert len(first) == 64
    assert all(dict(one.in_order()) == dict(first.in_order()) for one in others)
    assert len(read) < 2 * 64  # apart from where they meet, each file is read once


def test_what_cannot_be_read_is_not_recorded(tmp_path, stage, monkeypatch):
    raw = settle(write_raw(tmp_path / "raw", train=12, val=0, test=0))
    stage(raw, *OPTIONS)
    change_all(raw)
    bad = raw / "train/images/t0001.tif"
    bad.unlink()
    bad.symlink_to(raw / "nowhere")
    read = read_paths(monkeypatch)
    for number in (1, 2):
        stage(raw, *OPTIONS, *share(number))
    assert read.count("train/images/t0001.tif") == 2


def test_files_without_versions_are_for_one_worker(raw, stage, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 0)  # as if all files had just been written
    run = stage(raw, *OPTIONS, *share(1))
    assert run.status == 2
    assert "stage virtual images with one worker" in run.error


@pytest.mark.slow
@pytest.mark.parametrize("from_s3", [False, True], ids=["folder", "s3"])
def test_four_at_once_in_object_storage_and_one_is_killed(raw, s3: S3, tmp_path, from_s3):
    source = str(raw)
    if from_s3:
        source = f"{s3.uri}/raw"
        storage.put_many((f"{source}/{path.relative_to(raw)}", path) for path in raw.rglob("*") if path.is_file())

    def command(store: str, *options: str) -> list[str]:
        where = ["--source", source, "--storage-uri", f"{s3.uri}/{store}", "--scratch", str(tmp_path)]
        return [sys.executable, "-m", "landseg", "stage-data", *where, "--num-workers", "1", *OPTIONS, *options]

    subprocess.run(command("alone"), check=True, capture_output=True)
    expected = tree(s3.folder / "alone")
    workers = [
        subprocess.Popen(command("several", *share(number)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for number in range(1, WORKERS + 1)
    ]
    shards = s3.folder / "several" / "datasets" / "shards"
    while not list(shards.glob("*.tar")):
        time.sleep(0.001)
    os.kill(workers[1].pid, signal.SIGKILL)
    assert [worker.wait() for worker in workers] == [0, -signal.SIGKILL, 0, 0]
    assert not list((s3.folder / "several").glob("datasets/*/manifest.json"))
    subprocess.run(command("several", *share(2)), check=True, capture_output=True)
    assert tree(s3.folder / "several") == expected
