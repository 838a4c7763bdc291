"""prune: which runs and datasets go."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ensembles import export, make_spec
from s3_endpoint import S3

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.executor import Outputs
from landseg.contracts.references import Reference
from landseg.dataset.reader import StagedDataset
from landseg.stages.prune import find, remove
from landseg.stages.shared.context import StageContext

DAY_S = 86_400.0
NOTES = "runs/gone/notes.txt"


class Store:
    """An object storage with three runs on two datasets that share a shard.

    `old` exported and averaged on the first dataset, `new` averaged what `old` exported, `gone` worked on the second.
    """

    def __init__(self, s3: S3, folder: Path) -> None:
        self.uri, self.disk = s3.uri, s3.folder
        assert main(["make-sample-data", str(folder / "raw"), "--train=0", "--val=12", "--test=2", "--size=32"]) == 0
        self.first, self.first_id = self.stage(folder / "raw", folder / "first")
        (folder / "raw" / "test" / "images" / "9.tif").write_bytes(
            next((folder / "raw/val/images").iterdir()).read_bytes()
        )
        self.second, self.second_id = self.stage(folder / "raw", folder / "second")
        self.scratch = folder / "scratch"
        old = self.export("old", self.first)
        self.average("old", self.first, old)
        self.average("new", self.first, old)
        self.average("gone", self.second, self.export("gone", self.second))
        storage.put_bytes(storage.join(self.uri, NOTES), b"somebody's own")
        self.age("runs/old", 100)
        self.age("runs/gone", 100)
        self.age("datasets", 100)  # before they are listed: the endpoint remembers times

    def stage(self, source: Path, out: Path) -> tuple[str, str]:
        assert main(["stage-data", f"--source={source}", f"--storage-uri={self.uri}", f"--output-dir={out}"]) == 0
        reference = Reference.parse((out / "dataset.json").read_bytes(), out)
        return reference.uri, str(reference.facts["dataset_id"])

    def export(self, run: str, dataset_uri: str) -> str:
        dataset = StagedDataset.open(dataset_uri, self.scratch / "cache")
        spec = make_spec(dataset, "swin", model_sha256="cd" * 32)
        context = StageContext("export-probs", self.uri, run, Outputs(), {}, self.scratch)
        folder = context.folder("swin", {"spec": spec.model_dump(mode="json")})
        return export(folder, dataset, "swin", model_sha256="cd" * 32)

    def average(self, run: str, dataset: str, probs: str) -> None:
        arguments = [f"--dataset={dataset}", f"--probs={probs}", f"--storage-uri={self.uri}", f"--run-id={run}"]
        assert main(["average-probs", *arguments]) == 0

    def age(self, folder: str, days: float) -> None:
        for path in (self.disk / folder).rglob("*"):
            os.utime(path, (time.time() - days * DAY_S,) * 2)

    def objects(self, folder: str = "") -> set[str]:
        return {info.uri.removeprefix(f"{self.uri}/") for info in storage.list_objects(storage.join(self.uri, folder))}


@pytest.fixture
def store(s3: S3, tmp_path: Path) -> Store:
    return Store(s3, tmp_path)


def prune(store: Store, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["prune", f"--storage-uri={store.uri}", "--json", *flags]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_old_runs_go_and_what_others_are_made_of_stays(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = store.objects()
    shards = store.objects("datasets/shards")
    plan = prune(store, capsys)
    assert not plan["deleted"] and store.objects() == before
    assert plan["runs"] == ["gone"]
    assert plan["datasets"] == [store.second_id]
    (kept,) = plan["kept"]
    assert f"{store.uri}/runs/old/export-probs/swin/" in kept
    assert main(["prune", f"--storage-uri={store.uri}"]) == 0
    assert "KFP's cache does not notice: to compute any of it again" in capsys.readouterr().out

    done = prune(store, capsys, "--delete")
    assert done == plan | {"deleted": True, "num_abandoned_uploads": 0}
    after = store.objects()
    assert len(before - after) == plan["num_objects"] and not after - before
    assert [uri for uri in after if uri.startswith(("runs/gone/", "runs/old/average-probs/"))] == [NOTES]
    assert plan["left"] == [f"{store.uri}/{NOTES}"]
    assert [uri for uri in after if uri.startswith("runs/new/average-probs/")]
    left = store.objects("datasets/shards")
    assert left and left < shards
    for manifest in (store.first, *(f"{store.uri}/{uri}" for uri in after if uri.endswith("/manifest.json"))):
        assert main(["verify", manifest]) == 0
    capsys.readouterr()
    assert prune(store, capsys)["num_objects"] == 0


def test_a_dataset_that_was_pruned_can_be_staged_again(
    store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prune(store, capsys, "--delete")
    uri, identity = store.stage(tmp_path / "raw", tmp_path / "again")
    assert identity == store.second_id
    assert main(["verify", uri]) == 0


def test_only_runs_that_are_asked_for_go(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(store, capsys, "--run-id=old")["runs"] == []
    assert prune(store, capsys, "--run-id=new")["num_objects"] == 0
    assert main(["prune", f"--storage-uri={store.uri}", "--run-id=new"]) == 0
    assert "run new stays: it wrote something less than 30 days ago" in capsys.readouterr().err
    assert main(["prune", f"--storage-uri={store.uri}", "--run-id=other"]) == 2
    everything = prune(store, capsys, "--older-than=0", "--delete")
    assert everything["runs"] == ["gone", "new", "old"]
    assert sorted(everything["datasets"]) == sorted([store.first_id, store.second_id])
    assert store.objects() == {NOTES}


def test_whatever_is_left_of_a_killed_prune_is_no_damage(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever it is stopped: a manifest that is there names nothing that is not."""
    plan = find(store.uri, 30 * DAY_S)
    order = [info.uri for info in (*plan.first, *plan.rest, *plan.last)]
    everything = {name: (store.disk / name).read_bytes() for name in store.objects()}
    for stop in range(len(order) + 1):
        if stop:
            storage.delete(order[stop - 1])
        for uri in store.objects():
            if uri.endswith("/manifest.json"):
                assert main(["verify", f"{store.uri}/{uri}"]) == 0, f"{stop}: {uri}"
    complete = store.objects()
    for stop in range(1, len(order)):  # the next prune finishes what a killed one has left
        for name, content in everything.items():
            if not (store.disk / name).exists():
                (store.disk / name).parent.mkdir(parents=True, exist_ok=True)
                (store.disk / name).write_bytes(content)
        for place in ("runs/old", "runs/gone", "datasets"):
            store.age(place, 100)
        for uri in order[:stop]:
            storage.delete(uri)
        remove(find(store.uri, 30 * DAY_S))
        assert store.objects() == complete, f"{stop}: {order[stop - 1]}"
    capsys.readouterr()


def test_a_killed_prune_is_finished_by_the_next(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "landseg", "prune", f"--storage-uri={store.uri}", "--delete"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, before = time.monotonic() + 30, store.objects()
    while store.objects() == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    prune(store, capsys, "--delete")
    assert [uri for uri in store.objects() if uri.startswith("runs/gone/")] == [NOTES]
    assert not [uri for uri in store.objects() if store.second_id in uri]


def test_abandoned_uploads_go_too(store: Store, s3: S3, capsys: pytest.CaptureFixture[str]) -> None:
    import boto3

    client = boto3.client("s3")
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/runs/gone/big")
    (upload,) = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)["Uploads"]
    while datetime.datetime.now(datetime.UTC) <= upload["Initiated"]:  # in whole seconds, perhaps rounded up
        time.sleep(0.05)
    assert prune(store, capsys, "--older-than=0")["num_abandoned_uploads"] is None
    assert prune(store, capsys, "--older-than=0", "--delete")["num_abandoned_uploads"] >= 1


def test_a_folder_that_is_not_there_is_a_slip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--storage-uri", str(tmp_path / "stoer"), "--older-than", "0", "--delete"]) == 2
    assert "stoer: expected a folder, found none (check --storage-uri)" in capsys.readouterr().err
