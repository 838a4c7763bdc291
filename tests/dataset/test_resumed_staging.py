"""A staging that ended on the way resumes from its finished ranges: their tiles are neither read nor checked again."""

from __future__ import annotations

from pathlib import Path

import pytest
from raw_tiles import random_image, write_config, write_image, write_raw
from staging_cli import Run, Staging, settle, tree

from landseg.dataset.staging.packing import ShardUploads

OPTIONS = ("--shard-bytes", "30000")


class StoppedError(Exception):
    """Ends a staging in its midst."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settle(write_raw(tmp_path_factory.mktemp("raw"), train=40, val=6, test=4))


def stop_after(monkeypatch: pytest.MonkeyPatch, num_records: int) -> None:
    """End the next staging once so many ranges are recorded."""
    add_record, left = ShardUploads.add_record, [num_records]

    def counted(uploads, uri, content):
        add_record(uploads, uri, content)
        left[0] -= 1
        if not left[0]:
            uploads.finish()
            raise StoppedError

    monkeypatch.setattr(ShardUploads, "add_record", counted)


def stopped(stage: Staging, raw: Path, num_records: int) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        stop_after(patch, num_records)
        stage(raw, *OPTIONS)


def records(stage: Staging) -> list[Path]:
    return list((stage.store / "datasets" / "shards").glob("*.json"))


def reference(stage: Staging, raw: Path, tmp_path: Path) -> tuple[Run, dict[str, bytes]]:
    run = stage(raw, *OPTIONS, store=tmp_path / "reference")
    assert run.status == 0, run.err
    return run, tree(tmp_path / "reference")


def test_finished_ranges_are_not_checked_again(raw, stage, checked, tmp_path):
    whole, expected = reference(stage, raw, tmp_path)
    assert len(checked) == len(set(checked)) == 50
    checked.clear()
    stopped(stage, raw, 2)
    first = set(checked)
    assert len(records(stage)) == 2
    checked.clear()
    run = stage(raw, *OPTIONS)
    assert 0 < len(checked) < 35
    assert first | set(checked) == {
        f"{split}/t{n:04}" for split, count in (("train", 40), ("val", 6), ("test", 4)) for n in range(count)
    }
    assert tree(stage.store) == expected
    assert records(stage) == []
    assert run.checks["splits"] == whole.checks["splits"]
    assert run.checks["warnings"] == whole.checks["warnings"]


def test_what_changed_meanwhile_is_checked_again(tmp_path, stage, checked):
    raw = write_raw(tmp_path / "raw", train=40, val=6, test=0)
    settle(raw)
    stopped(stage, raw, 2)
    write_image(raw / "train/images/t0001.tif", random_image(99))
    checked.clear()
    run = stage(raw, *OPTIONS)
    assert "train/t0001" in checked
    assert run.status == 0
    assert tree(stage.store).items() >= reference(stage, raw, tmp_path)[1].items()


def test_other_rules_check_everything_again(tmp_path, stage, checked):
    raw = write_raw(tmp_path / "raw", train=40, val=6, test=0)
    settle(raw)
    stopped(stage, raw, 2)
    write_config(raw, bands=[1, 2])
    settle(raw)
    checked.clear()
    assert stage(raw, *OPTIONS).status == 0
    assert len(checked) == 46


@pytest.mark.parametrize("lost", ["*.tar", "*.json"])
def test_what_is_lost_is_made_again(raw, stage, checked, tmp_path, lost):
    stopped(stage, raw, 2)
    path = min((stage.store / "datasets" / "shards").glob(lost))
    path.write_bytes(path.read_bytes()[:-1])
    assert stage(raw, *OPTIONS).status == 0
    assert tree(stage.store) == reference(stage, raw, tmp_path)[1]


def test_bad_tiles_are_looked_at_again(tmp_path, stage, checked):
    raw = write_raw(tmp_path / "raw", train=40, val=6, test=0)
    (raw / "train/images/t0001.tif").write_bytes(b"no image")
    settle(raw)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        stop_after(patch, 2)
        stage(raw, *OPTIONS, "--on-bad-tile", "skip")
    checked.clear()
    run = stage(raw, *OPTIONS, "--on-bad-tile", "skip")
    assert "train/t0001" in checked
    assert [tile.id for tile in run.loaded.document.skipped] == ["t0001"]
    assert run.loaded.document.splits["train"].num_tiles == 39


def test_percentiles_are_those_of_all_tiles(tmp_path, stage):
    raw = write_raw(tmp_path / "raw", train=12, val=3, test=0)
    for number in range(12):
        image = random_image(number).astype("uint16") * (number + 1)
        write_image(raw / f"train/images/t{number:04}.tif", image)
    for number in range(3):
        write_image(raw / f"val/images/t{number:04}.tif", random_image(number).astype("uint16"))
    settle(raw)
    stopped(stage, raw, 2)
    run = stage(raw, *OPTIONS)
    assert run.loaded.document.class_schema.scale.method == "percentile"
    assert tree(stage.store) == reference(stage, raw, tmp_path)[1]


def test_records_stay_until_the_dataset_is_the_last_one_of_its_name(raw, stage, checked):
    list_of_files = stage.store / "datasets/by-name/random.files.jsonl"
    list_of_files.mkdir(parents=True)  # where a file cannot be written
    assert stage(raw, *OPTIONS).status != 0
    assert list(stage.store.glob("datasets/*/manifest.json"))
    list_of_files.rmdir()
    checked.clear()
    assert stage(raw, *OPTIONS).status == 0
    assert checked == []
    assert records(stage) == []
