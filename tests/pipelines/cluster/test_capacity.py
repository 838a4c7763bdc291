"""Whether what steps may use fits the size of the data, before a run is submitted."""

from __future__ import annotations

import json
import re
from typing import Any

import boto3
import pytest
import yaml

from landseg.contracts.documents import MAX_DOCUMENT_BYTES
from landseg.dataset.shards import DEFAULT_SHARD_BYTES
from landseg.dataset.staging.ranges.range_plan import SHARD_ENTRY_BYTES
from pipelines.cluster import capacity
from pipelines.dags import sizes, step_limits
from pipelines.dags.packages import names, package
from pipelines.dags.resizing import resize
from pipelines.errors import UserError
from pipelines.source import Listing

TEXT = package("train-and-ensemble").read_text()


def resized(name: str, *given: str) -> str:
    return resize(package(name).read_text(), sizes.read("", list(given)))


def told(text: str, step: str) -> dict[str, int]:
    """What a step of compiled YAML is told of all steps."""
    spec = next(yaml.safe_load_all(text))
    containers = [executor["container"] for executor in spec["deploymentSpec"]["executors"].values()]
    found = {
        entry["value"]
        for container in containers
        if container["command"][1] == step
        for entry in container["env"]
        if entry["name"] == step_limits.LIMITS_VARIABLE
    }
    (value,) = found
    return {name: int(number) for name, number in (pair.split("=") for pair in value.split())}


def test_planning_steps_are_told_what_all_steps_of_their_pipeline_may_use() -> None:
    for name in names():
        text = package(name).read_text()
        limits = step_limits.limits_of(text)
        expected = {f"{step}.{key}": value for step, own in limits.items() for key, value in own._asdict().items()}
        planning = limits.keys() & {"stage-data", "train", "plan-export", "plan-average"}
        for step in planning:
            assert told(text, step) == expected
    assert told(TEXT, "stage-data")["train.scratch_bytes"] == 200 << 30
    assert told(TEXT, "train")["export-probs.timeout_s"] == 12 * 3600


def test_they_are_told_of_other_sizes() -> None:
    text = resized("train-and-ensemble", "train.scratch=50Gi", "train.timeout=9h", "export-probs.scratch=1Ti")
    found = told(text, "stage-data")
    assert (found["train.scratch_bytes"], found["train.timeout_s"]) == (50 << 30, 9 * 3600)
    assert found["export-probs.scratch_bytes"] == 1 << 40
    assert found == told(text, "plan-average")


def test_numbers_are_those_of_the_stages() -> None:
    assumed = capacity._MANIFEST_BYTES, capacity._SHARD_ENTRY_BYTES, capacity._SHARD_BYTES
    assert assumed == (MAX_DOCUMENT_BYTES, SHARD_ENTRY_BYTES, DEFAULT_SHARD_BYTES)


def test_a_source_is_refused_where_no_manifest_or_volume_can_hold_it() -> None:
    assert capacity.check_listing(TEXT, Listing("d", 10**12), 1) == ""
    with pytest.raises(UserError, match=r"--source: expected at most 38\.3 TB, found 40\.0 TB"):
        capacity.check_listing(TEXT, Listing("d", 40 * 10**12), 100)
    small = resized("train-and-ensemble", "stage-data.scratch=100Mi")
    assert capacity.check_listing(small, Listing("d", 10**8), 1) == ""
    with pytest.raises(UserError, match=r'found 104857600: submit with SET="stage-data.scratch=1Gi"'):
        capacity.check_listing(small, Listing("d", 2 * 10**8), 1)


def test_a_staging_longer_than_its_step_is_noted_with_the_workers_that_fit() -> None:
    note = capacity.check_listing(TEXT, Listing("d", 2 * 10**13), 2)
    assert "takes about 40 h, 20 for each of 2 workers, and the step ends after 12 h" in note
    workers = int(re.search(r"stage_workers=(\d+) at least", note)[1])  # type: ignore[index]
    assert capacity.check_listing(TEXT, Listing("d", 2 * 10**13), workers) == ""
    assert capacity.check_listing(TEXT, Listing("d", 2 * 10**13), workers - 1)
    assert capacity.check_listing(package("export-probs").read_text(), Listing("d", 2 * 10**13), 1) == ""


def test_volumes_hold_what_steps_keep_of_a_dataset(s3: Any) -> None:
    rows, shard = 600 << 20, 800 << 20
    split = {"index": {"size_bytes": rows // 2}, "shards": [{"size_bytes": shard}, {"size_bytes": 5}]}
    bucket, _, prefix = s3.uri.removeprefix("s3://").partition("/")
    document = json.dumps({"splits": {"train": split, "val": split}})
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/manifest.json", Body=document.encode())
    uri = f"{s3.uri}/manifest.json"
    for name in ("train-swin", "export-probs", "average-probs"):
        assert capacity.check_dataset(package(name).read_text(), uri) == ""
    refused = resized("train-swin", "train.scratch=500Mi")
    with pytest.raises(UserError, match=rf'step train: .* {rows} bytes .* SET="train.scratch=2Gi"'):
        capacity.check_dataset(refused, uri)
    with pytest.raises(
        UserError, match=rf'step export-probs: .* {rows + shard} bytes .* SET="export-probs.scratch=3Gi'
    ):
        capacity.check_dataset(resized("export-probs", "export-probs.scratch=1Gi"), uri)
    assert capacity.check_dataset(resized("train-swin", "train.scratch=2Gi"), uri) == ""
    assert capacity.check_dataset(refused, "") == ""
    assert "not checked, it cannot be read from here" in capacity.check_dataset(refused, f"{s3.uri}/none.json")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/reference.json", Body=b'{"uri": "s3://b/m.json"}')
    assert capacity.check_dataset(refused, f"{s3.uri}/reference.json") == ""


def test_an_archive_that_stage_data_has_no_room_for_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = {"small.zip": 9 << 30, "large.tar": 30 << 30}

    class Client:
        def head_object(self, **where: str) -> dict[str, int]:
            return {"ContentLength": objects[where["Key"]]}

    assert capacity.check_archive(TEXT, "s3://raw/large.tar") == ""  # without credentials nothing is known
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setattr(capacity, "s3_client", Client)
    assert capacity.check_archive(TEXT, "s3://raw/small.zip") == ""
    assert capacity.check_archive(TEXT, "s3://raw/tiles") == ""
    note = capacity.check_archive(TEXT, "s3://raw/large.tar")
    assert re.search(r'half of the 20 GiB .* by range, twice; SET="stage-data.scratch=60Gi"', note)
    larger = resize(TEXT, sizes.read("", ["stage-data.scratch=60Gi"]))
    assert capacity.check_archive(larger, "s3://raw/large.tar") == ""


def test_workers_of_all_models_fit_into_one_argument():
    given = {"storage_uri": "s3://bucket/landseg", "swin_export_workers": 64, "resnest_export_workers": "64"}
    capacity.check_export_workers(given)
    capacity.check_export_workers({"storage_uri": "s3://" + "x" * 995})
    with pytest.raises(UserError, match=r"swin_export_workers and .*: expected at most 77 together, found 128"):
        capacity.check_export_workers(given | {"storage_uri": "s3://" + "x" * 995})
