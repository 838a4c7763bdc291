"""Killed anywhere and restarted, training ends with the same weights to the bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import team_work
import torch
from training_data import make_job, stage

from landseg.training.checkpoint.store import CheckpointStore
from landseg.training.distributed.processes import run_processes
from landseg.training.distributed.team import Team
from landseg.training.job import TrainingJob
from landseg.training.trainer import train

# isort: split
from mmcv.runner import HOOKS, Hook


class KilledError(BaseException):  # an error of a hook would be one of the config
    pass


@HOOKS.register_module()
class FailAt(Hook):  # type: ignore[misc]
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Any) -> None:
        if runner.iter == self.iteration:
            raise KilledError


def _weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(Path(job.folder) / "model.pth", weights_only=True)["state_dict"]
    return state


def _curve(job: TrainingJob) -> dict[str, Any]:
    result = json.loads((job.scratch / job.result).read_text())
    return {"curve": result["curve"], "evaluations": result["evaluations"]}


def _assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert not different


@pytest.mark.parametrize(
    ("family", "options", "precision"),
    [
        ("swin", {"optimizer_config": {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": 3}}, "fp32"),
        ("resnest", {}, "fp32"),
        ("swin", {}, "bf16"),
    ],
)
def test_interrupted_in_the_middle_of_an_epoch(
    family: str, options: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    dataset = stage(tmp_path, train=7)
    plain = make_job(
        tmp_path / "plain", family, dataset, epochs=3, precision=precision, options=options
    )  # 3 iterations in an epoch
    train(plain, Team())
    killed = {**options, "custom_hooks": [{"type": "FailAt", "iteration": 5}]}
    job = make_job(
        tmp_path / "killed", family, dataset, epochs=3, precision=precision, options=killed, checkpoint_interval=1
    )
    with pytest.raises(KilledError):
        train(job, Team())
    for _ in range(3):  # what a new process would not know
        torch.rand(1)
    job = make_job(tmp_path / "killed", family, dataset, epochs=3, precision=precision, options=options, num_workers=2)
    train(job, Team())
    _assert_same(_weights(job), _weights(plain))
    assert _curve(job) == _curve(plain)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_tiles_that_are_kept_decoded_change_nothing(
    processes: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = stage(tmp_path, train=8, val=1, compression="zlib")
    trained = []
    for name, limit in (("decoded", 0), ("kept", 1 << 30)):
        more = {"epochs": 2, "batch_per_gpu": 4 // processes, "num_workers": 1, "decoded_bytes": limit}
        job = make_job(tmp_path / name, "swin", dataset, **more)
        run_processes(team_work.train_on_one_thread, job, processes, False, job.scratch)
        trained.append((_weights(job), _curve(job)))
        says = "8 of 8 training tiles are decoded once" in capfd.readouterr().err
        assert says == (limit > 0)
        assert not (job.scratch / "decoded-tiles").exists()
    _assert_same(trained[1][0], trained[0][0])
    assert trained[1][1] == trained[0][1]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("family", ["swin", "resnest"])
def test_killed_ten_times(family: str, processes: int, tmp_path: Path) -> None:
    dataset = stage(tmp_path, train=14)
    batch = {"batch_per_gpu": 4 // processes, "epochs": 8}  # 3 iterations in an epoch
    plain = make_job(tmp_path / "plain", family, dataset, **batch)
    assert _run(plain, processes, -1, 0) == 0
    rng = random.Random(f"{family}{processes}")
    points = sorted(rng.sample(range(1, 24), 10))
    job = make_job(tmp_path / "killed", family, dataset, **batch, checkpoint_interval=1, num_workers=1)
    for point in points:
        assert _run(job, processes, point, rng.randrange(processes)) != 0
    assert _run(job, processes, -1, 0) == 0
    _assert_same(_weights(job), _weights(plain))
    assert _curve(job) == _curve(plain)


def _run(job: TrainingJob, processes: int, kill_at: int, victim: int) -> int:
    """Train in a process of its own, which is killed some moments into iteration `kill_at`."""
    script = Path(__file__).parents[1] / "support" / "killed_training.py"
    path = job.scratch / "job.pickle"
    torch.save(job, path)
    arguments = [str(path), str(processes), str(kill_at), str(victim)]
    return subprocess.run([sys.executable, str(script), *arguments], timeout=300).returncode


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_publishes_the_last_iteration_and_exits_at_once(processes: int, tmp_path: Path) -> None:
    job = make_job(tmp_path, "swin", stage(tmp_path), epochs=500, num_workers=1)
    path = job.scratch / "job.pickle"
    torch.save(job, path)
    script = Path(__file__).parents[1] / "support" / "killed_training.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(path), str(processes), "-1", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("training swin"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(60) == 128 + signal.SIGTERM, rest
    assert "asked to stop; a checkpoint is published" in rest
    assert "death signal" not in rest  # torchrun's own words
    content = CheckpointStore(f"{job.folder}/checkpoints", tmp_path, 2, print).newest()
    assert content is not None
    assert 0 < content["resume"]["iteration"] < 500 * 6  # of the epochs asked for
