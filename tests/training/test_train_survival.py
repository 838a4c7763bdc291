"""What happens to jobs in clusters: each failure gives one clear line, and nothing hangs."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from training_data import make_job, stage

from landseg import storage
from landseg.contracts.errors import ConfigError, DataError, LandsegError, StorageError
from landseg.dataset.reader import StagedDataset
from landseg.training.checkpoint.store import CheckpointStore, write_local
from landseg.training.distributed.team import Team
from landseg.training.input import loader
from landseg.training.job import TrainingJob
from landseg.training.trainer import train

# isort: split
from mmcv.runner import HOOKS, Hook


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stage(tmp_path_factory.mktemp("data"))


@HOOKS.register_module()
class KillLoaders(Hook):  # type: ignore[misc]
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Any) -> None:
        if runner.iter == self.iteration:
            for child in multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)


def test_a_loss_that_is_not_finite_stops_before_the_update(dataset: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, "swin", dataset, options={"optimizer.lr": 1e30, "lr_config": None}, checkpoint_interval=1)
    with pytest.raises(LandsegError, match=r"the loss of iteration (\d+) is not finite.*tiles: train\d\d, train\d\d"):
        train(job, Team())
    newest = CheckpointStore(f"{job.folder}/checkpoints", tmp_path, 2, print).newest()
    assert newest is not None
    assert newest["resume"]["iteration"] == newest["meta"]["iter"] >= 1


@HOOKS.register_module()
class BreakWeights(Hook):  # type: ignore[misc]
    def after_train_iter(self, runner: Any) -> None:
        if runner.iter == 2:
            next(runner.model.parameters()).data.view(-1)[0] = float("inf")


def test_weights_that_are_not_finite_are_not_published(dataset: str, tmp_path: Path) -> None:
    options = {"custom_hooks": [{"type": "BreakWeights"}]}
    with pytest.raises(LandsegError, match="the weights are not finite after iteration 3; they are not published"):
        train(make_job(tmp_path, "swin", dataset, options=options, checkpoint_interval=1), Team())
    newest = CheckpointStore(str(tmp_path / "run" / "checkpoints"), tmp_path, 2, print).newest()
    assert newest is not None
    assert newest["resume"]["iteration"] == 2


def _job_with_killed_loaders(dataset: str, folder: Path, iteration: int) -> TrainingJob:
    options = {"custom_hooks": [{"type": "KillLoaders", "iteration": iteration}]}
    return make_job(folder, "swin", dataset, iterations=30, options=options, num_workers=2)


@pytest.mark.parametrize("iteration", [0, 7])
def test_killed_loader_processes_end_training_with_a_clear_line(iteration: int, dataset: str, tmp_path: Path) -> None:
    with pytest.raises(
        LandsegError, match=r"data loading: a loader process was killed \(SIGKILL\), .*memory: .*fewer --num-workers"
    ):
        train(_job_with_killed_loaders(dataset, tmp_path, iteration), Team())


def test_loader_processes_killed_after_their_last_batch_are_not_missed(dataset: str, tmp_path: Path) -> None:
    job = _job_with_killed_loaders(dataset, tmp_path, 29)
    train(job, Team())
    assert (Path(job.folder) / "model.pth").exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_tile_is_reported_by_name(num_workers: int, tmp_path: Path) -> None:
    reference = stage(tmp_path)
    opened = StagedDataset.open(reference, tmp_path / "cache")
    tile = opened.tiles("train")[5]
    with opened.shard_path("train", tile.shard).open("r+b") as shard:
        shard.seek(tile.image[0] + 4)
        shard.write(b"\xff" * 4)
    job = make_job(tmp_path, "swin", reference, epochs=1, num_workers=num_workers)
    with pytest.raises(DataError, match=r"tile train05 .*damaged"):
        train(job, Team())


def test_too_little_shared_memory_is_reported_before_training(dataset: str, tmp_path: Path) -> None:
    options = {"data.train.pipeline": [{"type": "Normalize"}, {"type": "Pad", "size": (16384, 16384)}]}
    job = make_job(tmp_path, "swin", dataset, options=options, num_workers=2)
    with pytest.raises(
        ConfigError, match=r"/dev/shm: expected [\d.]+ MiB for the batches of 2 loader processes.*--shm-size"
    ):
        train(job, Team())


class LoaderProcess:
    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode


@pytest.mark.parametrize(
    ("error", "exitcode", "expected"),
    [
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), -signal.SIGBUS, "/dev/shm is full"),
        (
            RuntimeError("unable to write to file </torch_7_1_0>: No space left on device (28)"),
            None,
            "/dev/shm is full",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), 1, "a loader process ended unexpectedly"),
        (
            RuntimeError("Pin memory thread exited unexpectedly"),
            -signal.SIGKILL,
            r"a loader process was killed \(SIGKILL\)",
        ),
        (ConnectionResetError(), None, "ended unexpectedly, probably out of memory: ConnectionResetError"),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nTrace"), None, "^Caught RuntimeError"),
    ],
)
def test_torchs_errors_are_explained(error: Exception, exitcode: int | None, expected: str) -> None:
    assert re.search(expected, str(loader._explained(error, [LoaderProcess(exitcode)])))


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    path.symlink_to("/dev/full")
    with pytest.raises(LandsegError, match=r"expected room for a checkpoint, found \d+ MiB free.*larger --scratch"):
        write_local({"state_dict": {"a": torch.zeros(1 << 20)}}, path)
    assert not path.is_symlink()


class Store:
    """A checkpoint store with three checkpoints published and two kept."""

    def __init__(self, root: Path) -> None:
        self.warnings: list[str] = []
        self.folder = root / "checkpoints"
        self.store = CheckpointStore(str(self.folder), root, 2, self.warnings.append)
        for iteration in (5, 10, 15):
            self.store.publish({"iteration": iteration, "state_dict": {"a": torch.full((99,), 1.0)}}, iteration, 0)
        self.store.flush()

    def newest(self) -> int | None:
        content = self.store.newest()
        return None if content is None else int(content["iteration"])


def test_old_checkpoints_are_pruned_and_the_newest_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    names = sorted(path.name for path in store.folder.iterdir())
    assert names == [f"iter_000000{n}.{ext}" for n in (10, 15) for ext in ("json", "pth")]
    assert store.newest() == 15
    assert not store.warnings


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "document"])
def test_a_damaged_checkpoint_is_reported_and_skipped(damage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.folder / "iter_00000015.pth"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncated":
        path.write_bytes(content[:-100])
    elif damage == "missing":
        path.unlink()
    else:
        path.with_suffix(".json").write_text('{"kind": "landseg.che')
    assert store.newest() == 10
    assert len(store.warnings) == 1
    assert "checkpoint skipped" in store.warnings[0]
    assert "iter_00000015" in store.warnings[0]


def test_an_incomplete_checkpoint_does_not_count_and_is_deleted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.folder / "iter_00000020.pth").write_bytes(b"half of it")
    assert store.newest() == 15
    store.store.publish({"iteration": 25}, 25, 1)
    store.store.flush()
    assert sorted(path.stem for path in store.folder.glob("*.pth")) == ["iter_00000015", "iter_00000025"]


def test_no_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(str(tmp_path / "none"), tmp_path, 2, print).newest() is None


def test_a_failure_in_the_background_surfaces(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = CheckpointStore(str(tmp_path / "file" / "checkpoints"), tmp_path, 2, print)
    store.publish({}, 1, 0)
    with pytest.raises(LandsegError):
        store.flush()


@HOOKS.register_module()
class Overflow(Hook):  # type: ignore[misc]
    """Makes the loss of some iterations infinite."""

    def __init__(self, iterations: list[int]) -> None:
        self.iterations = iterations

    def before_train_iter(self, runner: Any) -> None:
        factor = float("inf") if runner.iter in self.iterations else 1.0
        runner.model.decode_head.loss_decode.loss_weight = factor


def test_fp16_skips_steps_that_overflow_and_trains_on(
    dataset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("landseg"), "propagate", True)  # off where a verb has run before
    options = {"custom_hooks": [{"type": "Overflow", "iterations": [2, 3]}]}
    job = make_job(
        tmp_path, "swin", dataset, iterations=6, precision="fp16", options=options, checkpoint_interval=4, keep=9
    )
    with caplog.at_level("WARNING", logger="landseg"):
        train(job, Team())
    skipped = [record.getMessage() for record in caplog.records if "overflowed" in record.getMessage()]
    assert {line.partition(":")[0] for line in skipped} == {"iteration 3", "iteration 4"}
    result = json.loads((job.scratch / job.result).read_text())
    assert all(math.isfinite(value) for value in result["curve"]["loss"])
    assert result["skipped_steps"] == 2
    saved = torch.load(Path(job.folder) / "checkpoints" / "iter_00000004.pth", weights_only=True)["resume"]["monitor"]
    assert (saved["skipped_steps"], saved["skipped_in_a_row"]) == (2, 2)


def test_skipped_steps_are_counted_on_after_a_restart(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landseg.training.trainer._MOST_SKIPPED", 3)
    options = {"custom_hooks": [{"type": "Overflow", "iterations": list(range(20))}]}
    job = make_job(
        tmp_path, "swin", dataset, iterations=20, precision="fp16", options=options, checkpoint_interval=1, keep=9
    )
    for _ in range(2):  # the second goes on after two skipped steps, and needs one more
        with pytest.raises(LandsegError, match="3 steps in a row, up to iteration 3"):
            train(job, Team())
        assert len(list((Path(job.folder) / "checkpoints").glob("*.json"))) == 2


def test_no_checkpoint_by_time_while_another_is_on_its_way(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "checkpoints"), tmp_path, 2, print)
    release = threading.Event()
    assert not store.busy
    store.submit(lambda: assert_set(release))
    assert store.busy
    release.set()
    store.flush()
    assert not store.busy


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)


def test_fp16_that_overflows_on_and_on_ends(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.training.trainer._MOST_SKIPPED", 3)
    options = {"custom_hooks": [{"type": "Overflow", "iterations": list(range(20))}]}
    job = make_job(tmp_path, "swin", dataset, iterations=20, precision="fp16", options=options)
    with pytest.raises(LandsegError, match="the gradients overflowed in 3 steps in a row"):
        train(job, Team())


def test_checkpoints_by_time(dataset: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, "swin", dataset, iterations=4, checkpoint_minutes=1e-9, keep=10)
    train(job, Team())
    found = sorted(path.name for path in (Path(job.folder) / "checkpoints").glob("*.json"))
    assert found[0] == "iter_00000001.json"  # between them, those that did not find one on its way
    assert found[-1] == "iter_00000004.json"


def test_a_checkpoint_that_storage_refuses_is_tried_again_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    store = CheckpointStore(str(tmp_path / "checkpoints"), tmp_path, 2, said.append)
    put = storage.put_file
    down = True

    def refuse(uri: str, source: Path) -> None:
        if down:
            raise StorageError(uri, "storage is away")
        put(uri, source)

    monkeypatch.setattr(storage, "put_file", refuse)
    content = {"meta": {}, "state_dict": {"w": torch.ones(2)}}
    store.publish(content, 1, 0)
    with pytest.raises(StorageError, match="storage is away"):
        store.flush()  # as when asked to stop: the last one must arrive
    down = False
    store.publish(content, 2, 0)
    store.flush()
    assert any("the next checkpoint tries again" in line for line in said)
    newest = store.newest()
    assert newest is not None
