"""What staging writes: the same bytes for the same input, readable by others, from folders and from S3."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from raw_tiles import random_image, random_label, write_config, write_image, write_label, write_raw
from staging_cli import tree

from landseg import storage
from landseg.dataset.reader import StagedDataset
from landseg.dataset.staging.packing import ShardUploads
from landseg.dataset.staging.ranges.range_plan import SHARD_ENTRY_BYTES


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"), train=40, val=9, test=5)


def test_statistics_and_index(raw, stage):
    manifest = stage(raw, "--shard-bytes", "20000").loaded.document
    assert {name: info.num_tiles for name, info in manifest.splits.items()} == {"train": 40, "val": 9, "test": 5}
    assert [info.labelled for info in manifest.splits.values()] == [True, True, False]
    assert len(manifest.splits["train"].shards) > 2
    images = np.stack([random_image(seed) for seed in range(40)]).astype(np.float64)
    np.testing.assert_allclose(manifest.splits["train"].band_mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(manifest.splits["train"].band_std, images.std((0, 1, 2)), rtol=1e-12)
    labels = np.stack([random_label(seed) for seed in range(40)])
    assert manifest.splits["train"].class_pixels == tuple(np.bincount(labels.ravel(), minlength=3))
    assert manifest.splits["train"].ignored_pixels == 0
    assert manifest.splits["test"].class_pixels == ()


def test_more_shards_than_a_manifest_lists_are_refused_before_any_is_packed(raw, stage, monkeypatch):
    monkeypatch.setattr("landseg.dataset.staging.ranges.range_plan.MAX_DOCUMENT_BYTES", 6 * SHARD_ENTRY_BYTES)
    found = stage(raw, "--shard-bytes", "10000")
    assert found.status == 2
    expected = re.search(r"--shard-bytes: expected at least (\d+), found 10000: .* can list 6 shards", found.error)
    assert not list(found.folder.rglob("*.tar"))
    manifest = stage(raw, "--shard-bytes", str(2 * int(expected[1]))).loaded.document
    shards = [shard for info in manifest.splits.values() for shard in info.shards]
    assert len(shards) <= 6
    text = json.dumps([shard.model_dump(mode="json") | {"size_bytes": 10**13} for shard in shards], indent=4)
    assert len(text) / len(shards) < SHARD_ENTRY_BYTES


def test_shards_are_plain_tar_of_unchanged_bytes(raw, stage, tmp_path):
    loaded = stage(raw, "--shard-bytes", "60000").loaded
    dataset = StagedDataset.open(loaded.uri, tmp_path / "cache")
    by_offset = {}
    for split in ("train", "val", "test"):
        for tile in dataset.tiles(split):
            with dataset.shard_path(split, tile.shard).open("rb") as file:
                for role, span, suffix in (("images", tile.image, "tif"), ("labels", tile.label, "png")):
                    if span:
                        file.seek(span[0])
                        by_offset[f"{split}/{role}/{tile.id}.{suffix}"] = file.read(span[1])
    source = tree(raw)
    source.pop("dataset.yaml")
    assert by_offset == source
    with tarfile.open(dataset.shard_path("val", 0)) as tar:
        names = tar.getnames()
        assert names[:3] == ["t0000.tif", "t0000.png", "t0001.tif"]
        assert tar.extractfile("t0001.png").read() == source["val/labels/t0001.png"]
    samples = list(webdataset.WebDataset(str(dataset.shard_path("val", 0)), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"t{index:04}" for index in range(9)]
    assert samples[3]["tif"] == source["val/images/t0003.tif"]


def test_same_input_same_bytes(raw, stage, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(raw, moved)
    for path in moved.rglob("*"):
        os.utime(path, (1, 1))
    stage(raw, "--shard-bytes", "20000", "--num-workers", "1", store=tmp_path / "a")
    stage(moved, "--shard-bytes", "20000", "--num-workers", "3", store=tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_rerun_writes_nothing(raw, stage, tmp_path):
    store = tmp_path / "store"
    first = stage(raw).loaded
    before = int(time.time()) - 3600  # on the same day: once a day, the folder is looked through for abandoned files
    for path in store.rglob("*"):
        os.utime(path, (before, before))
    assert stage(raw).loaded.sha256 == first.sha256
    assert {path.stat().st_mtime for path in store.rglob("*")} == {before}


def test_the_id_names_the_content(raw, stage, tmp_path):
    first = stage(raw).loaded.document
    changed = tmp_path / "changed"
    shutil.copytree(raw, changed)
    write_label(changed / "train/labels/t0007.png", random_label(99))
    second = stage(changed).loaded.document
    write_config(changed, name="other")
    third = stage(changed).loaded.document
    assert len({first.dataset_id, second.dataset_id, third.dataset_id}) == 3
    assert third.splits["val"].shards == first.splits["val"].shards
    assert second.splits["val"].shards == first.splits["val"].shards


def test_reading_through_s3(raw, stage, tmp_path, s3):
    local = stage(raw).loaded
    assert stage(raw, store=s3.uri).status == 0
    uri = f"{s3.uri}/datasets/{local.document.dataset_id}/manifest.json"
    assert tree(s3.folder) == tree(tmp_path / "store")
    dataset = StagedDataset.open(uri, tmp_path / "cache")
    tile = dataset.tiles("val")[4]
    np.testing.assert_array_equal(dataset.read_image("val", tile), random_image(10**6 + 4))
    np.testing.assert_array_equal(dataset.read_label("val", tile), random_label(10**6 + 4))
    assert [path.name for path in (tmp_path / "cache").glob("*.tar")] == [
        f"{local.document.splits['val'].shards[0].sha256}.tar"
    ]


def test_staging_from_s3(raw, stage, tmp_path, s3):
    for path in (path for path in raw.rglob("*") if path.is_file()):
        storage.put_file(f"{s3.uri}/raw/{path.relative_to(raw)}", path)
    from_s3 = stage(f"{s3.uri}/raw", store=tmp_path / "a").loaded
    assert stage(raw, store=tmp_path / "b").loaded.sha256 == from_s3.sha256


def test_bands_are_selected_and_scaled(stage, tmp_path):
    raw = write_raw(
        tmp_path / "raw", bands=4, dtype="uint16", scale={"method": "range", "low": 0, "high": 2000}, name="r"
    )
    write_config(raw, bands=[4, 2], scale={"method": "range", "low": [0, 100], "high": 2000})
    assert stage(raw).status == 2
    write_config(raw, bands=[4, 2], scale={"method": "range", "low": [0, 100], "high": [2000, 3000]})
    loaded = stage(raw).loaded
    dataset = StagedDataset.open(loaded.uri, tmp_path / "cache")
    stored = random_image(1, bands=4, dtype="uint16").astype(float)
    expected = np.stack([stored[:, :, 3] * 255 / 2000, (stored[:, :, 1] - 100) * 255 / 2900], -1)
    expected = np.floor(np.clip(expected, 0, 255) + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(dataset.read_image("train", dataset.tiles("train")[1]), expected)


def test_uint16_without_a_scale_is_scaled_by_percentiles_of_train(stage, tmp_path):
    raw = write_raw(tmp_path / "raw", dtype="uint16")
    run = stage(raw)
    schema = run.loaded.document.class_schema
    assert "percentiles 1-99" in run.err
    stored = np.stack([random_image(seed, dtype="uint16") for seed in range(4)]).reshape(-1, 3)
    assert schema.scale.low == tuple(np.percentile(stored, 1, axis=0, method="inverted_cdf"))
    assert schema.scale.high == tuple(np.percentile(stored, 99, axis=0, method="inverted_cdf"))


def test_labels_with_offset_and_zero_for_unlabelled(stage, tmp_path):
    raw = write_raw(tmp_path / "raw", train=1, val=0, test=0, label_offset=1, ignore_index=0)
    label = random_label(5) + np.uint8(1)
    label[:4] = 0
    write_label(raw / "train/labels/t0000.png", label)
    loaded = stage(raw).loaded
    dataset = StagedDataset.open(loaded.uri, tmp_path / "cache")
    assert loaded.document.class_schema.ignore_index == 255
    read = dataset.read_label("train", dataset.tiles("train")[0])
    assert (read[:4] == 255).all()
    np.testing.assert_array_equal(read[4:], random_label(5)[4:])
    assert loaded.document.splits["train"].ignored_pixels == 4 * 24


def test_tiff_labels_and_odd_names(stage, tmp_path):
    raw = tmp_path / "raw"
    write_config(raw)
    names = ["a b", "Ünïcode", "x.1", "n" * 150]
    for seed, name in enumerate(names):
        write_image(raw / f"train/images/{name}.tif", random_image(seed))
        write_image(raw / f"train/labels/{name}.tif", random_label(seed))
    loaded = stage(raw).loaded
    dataset = StagedDataset.open(loaded.uri, tmp_path / "cache")
    tiles = {tile.id: tile for tile in dataset.tiles("train")}
    assert set(tiles) == set(names)
    for seed, name in enumerate(names):
        np.testing.assert_array_equal(dataset.read_label("train", tiles[name]), random_label(seed))
    with tarfile.open(dataset.shard_path("train", 0)) as tar:
        assert f"{'n' * 150}.label.tif" in tar.getnames()


def test_outputs_name_the_dataset(raw, stage):
    run = stage(raw)
    facts = json.loads((run.folder / "dataset.json").read_text())["facts"]
    assert facts["dataset_id"] == run.loaded.document.dataset_id
    assert facts["num_tiles.train"] == 40
    assert run.out.splitlines()[-1] == run.loaded.uri
    assert (run.folder / "report.html").exists()


def test_a_shard_that_vanishes_before_the_manifest_is_written_is_an_error(raw, stage, monkeypatch):
    finish = ShardUploads.finish

    def finish_and_lose_one(uploads):
        finish(uploads)
        next((stage.store / "datasets/shards").glob("*.tar")).unlink()

    monkeypatch.setattr(ShardUploads, "finish", finish_and_lose_one)
    run = stage(raw, "--shard-bytes", "60000")
    assert run.status == 2
    assert "expected a shard of" in run.error and ".tar" in run.error
    assert not list(stage.store.glob("datasets/*/manifest.json"))
    monkeypatch.undo()
    assert stage(raw, "--shard-bytes", "60000").status == 0
