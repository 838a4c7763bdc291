"""A scratch volume that cannot hold what a stage keeps there is refused before the work, with the size that fits."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ensembles import export, open_dataset
from raw_tiles import write_raw
from s3_endpoint import S3

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.errors import ConfigError
from landseg.stages.shared.step_limits import VARIABLE


def given_room(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", str(num_bytes))


def noise(dataset, split, tile, model):
    raised = np.exp(
        np.random.default_rng(len(model)).normal(size=(dataset.schema.num_classes, tile.height, tile.width))
    )
    return (raised / raised.sum(axis=0)).astype(np.float32)


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main([*argv]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_every_stage_that_reads_or_writes_shards(s3: S3, tmp_path, capsys, monkeypatch):
    raw, out = write_raw(tmp_path / "raw", train=20, val=4, test=2), tmp_path / "out"
    where = ["--storage-uri", s3.uri]
    stage = ["stage-data", "--source", str(raw), "--shard-bytes", "20000", *where, "--output-dir", str(out)]
    given_room(monkeypatch, 15_000)
    said = refusal(capsys, *stage)
    assert "--scratch: expected room for 30400 bytes at least, of shards and the index of 26 tiles; found 15000" in said
    assert 'SET="<step>.scratch=1Gi"' in said
    assert not list(storage.list_objects(s3.uri))
    given_room(monkeypatch, int(re.search(r"(\d+) are enough", said)[1]))
    assert main(stage) == 0

    dataset = ["--dataset", str(out / "dataset.json")]
    given_room(monkeypatch, 5_000)
    assert "of the dataset's indexes; found 5000" in refusal(capsys, "plan-export", *dataset, *where)
    monkeypatch.delenv("LANDSEG_SCRATCH_BYTES")
    opened = open_dataset(str(out / "dataset.json"), tmp_path)
    indexes = sum(info.index.size_bytes for info in opened.manifest.splits.values())
    uris = [export(f"{s3.uri}/{name}", opened, name, probs=noise) for name in ("swin", "resnest")]
    probs = [f"--probs={uri}" for uri in uris]
    given_room(monkeypatch, indexes + 100)
    for verb in ("plan-average", "average-probs"):
        said = refusal(capsys, verb, *dataset, *probs, *where, "--run-id", "r")
        assert "and a shard of each of 2 models" in said


def test_export_needs_a_shard_and_staging_again_only_its_rows(s3: S3, tmp_path, monkeypatch):
    raw, out = write_raw(tmp_path / "raw", train=20, val=4, test=2), tmp_path / "out"
    stage = ["stage-data", "--source", str(raw), "--shard-bytes", "1000000", "--storage-uri", s3.uri]
    assert main([*stage, "--output-dir", str(out)]) == 0
    dataset = open_dataset(str(out / "dataset.json"), tmp_path)
    infos = dataset.manifest.splits.values()
    indexes, largest = (
        sum(info.index.size_bytes for info in infos),
        max(shard.size_bytes for info in infos for shard in info.shards),
    )
    dataset.access = "neighbours"
    given_room(monkeypatch, indexes + largest)
    dataset.check_room()
    given_room(monkeypatch, indexes + largest - 1)
    with pytest.raises(ConfigError, match="indexes and its largest shard"):
        dataset.check_room()
    dataset.access = "few"
    dataset.check_room()
    (raw / "val/images/t0001.tif").write_bytes((raw / "val/images/t0002.tif").read_bytes())
    assert largest > 50_000
    given_room(monkeypatch, 50_000)
    assert main(stage) == 0


def test_a_cache_larger_than_the_volume_is_refused(s3: S3, tmp_path, capsys, monkeypatch):
    raw, out = write_raw(tmp_path / "raw", train=20, val=4, test=2), tmp_path / "out"
    assert main(["stage-data", "--source", str(raw), "--storage-uri", s3.uri, "--output-dir", str(out)]) == 0
    dataset = open_dataset(str(out / "dataset.json"), tmp_path)
    size = sum(shard.size_bytes for info in dataset.manifest.splits.values() for shard in info.shards)
    indexes = dataset.room_needed("few").least_bytes
    given_room(monkeypatch, indexes + size - 1)
    export = ["export-probs", "--dataset", str(out / "dataset.json"), "--model", "m.pth", "--run-id", "r"]
    said = refusal(capsys, *export, "--storage-uri", s3.uri, "--cache-bytes", str(10**15))
    assert f"--cache-bytes: expected at most {size - 1}, the room that --scratch has, found 1000000000000000" in said
    given_room(monkeypatch, indexes + size)
    dataset.cache_bytes = 10**15  # as good as the size of the shards
    dataset.check_room()


def told(monkeypatch: pytest.MonkeyPatch, **rooms: int) -> None:
    """Sizes of later steps' volumes, by their names with _ for -."""
    limits = (f"{step.replace('_', '-')}.scratch_bytes={size}" for step, size in rooms.items())
    monkeypatch.setenv(VARIABLE, " ".join(limits))


def test_volumes_of_later_steps_are_looked_at_where_the_work_is_planned(s3: S3, tmp_path, capsys, monkeypatch):
    raw, out = write_raw(tmp_path / "raw", train=20, val=4, test=2), tmp_path / "out"
    where = ["--storage-uri", s3.uri]
    stage = ["stage-data", "--source", str(raw), "--shard-bytes", "20000", *where, "--output-dir", str(out)]
    told(monkeypatch, train=26 * 250 - 1, export_probs=10**9)
    said = refusal(capsys, *stage)
    assert (
        "step train: expected a scratch volume of 6500 bytes at least, for the indexes of 26 tiles; found 6499" in said
    )
    assert 'submit again with SET="train.scratch=1Gi", which is enough' in said
    told(monkeypatch, train=10**9, export_probs=26 * 250 + 19_999)
    assert "step export-probs: expected a scratch volume of 26500 bytes" in refusal(capsys, *stage)
    assert not list(storage.list_objects(s3.uri))
    told(monkeypatch, train=26 * 250, plan_average=26 * 250, export_probs=26 * 250 + 20_000)
    assert main(stage) == 0

    # What staging asks for by the names of files is never more than what the steps need.
    dataset = open_dataset(str(out / "dataset.json"), tmp_path)
    indexes, with_shard = (dataset.room_needed(access).least_bytes for access in ("few", "neighbours"))
    assert indexes >= 26 * 250
    assert with_shard >= 26 * 250 + 20_000
    plan = ["plan-export", "--dataset", str(out / "dataset.json"), *where]
    told(monkeypatch, export_probs=with_shard - 1)
    assert "step export-probs: expected" in refusal(capsys, *plan)
    told(monkeypatch, export_probs=with_shard, average_probs=indexes - 1)
    assert "step average-probs: expected" in refusal(capsys, *plan)
    told(monkeypatch, export_probs=with_shard, average_probs=indexes)
    assert main(plan) == 0

    uris = [export(f"{s3.uri}/{name}", dataset, name, probs=noise) for name in ("swin", "resnest")]
    probs = [f"--probs={uri}" for uri in uris]
    average = ["plan-average", "--dataset", str(out / "dataset.json"), *probs, *where, "--run-id", "r"]
    said = refusal(capsys, *average)
    assert "step average-probs: expected a scratch volume of" in said
    assert "and a shard of each of 2 models" in said
    told(monkeypatch, average_probs=10**9)
    assert main(average) == 0
