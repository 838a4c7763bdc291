"""`--resume-from`: a training that has ended continues with another length or schedule, all else being as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_data import make_job, stage

from landseg.contracts.errors import ConfigError
from landseg.models.config_text import config_text, parse_config
from landseg.training import trainer
from landseg.training.continuing import Earlier
from landseg.training.distributed.team import Team
from landseg.training.job import TrainingJob
from landseg.training.selection import Selection
from landseg.training.trainer import train

HOOKS = {"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}


def _earlier(job: TrainingJob, iterations: int, **parameters: Any) -> Earlier:
    return Earlier("model.json", "0" * 64, job.folder, iterations, job.config, parameters)


def _without_schedule(job: TrainingJob) -> TrainingJob:
    config = parse_config(job.config, "config")
    config.pop("lr_config")
    return dataclasses.replace(job, config=config_text(config))


def _result(job: TrainingJob) -> tuple[dict[str, Any], dict[str, Any]]:
    content = torch.load(Path(job.folder) / "model.pth", weights_only=True)
    return json.loads((job.scratch / job.result).read_text()), content["state_dict"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stage(tmp_path_factory.mktemp("data"), train=5, val=1)


def test_with_a_constant_rate_a_continued_training_is_the_long_one(dataset: str, tmp_path: Path) -> None:
    """Averages, momentum, random numbers and the order of the tiles go on; two iterations in an epoch."""

    def job(name: str, epochs: int, **changes: Any) -> TrainingJob:
        return _without_schedule(make_job(tmp_path / name, "resnest", dataset, epochs=epochs, options=HOOKS, **changes))

    short, long = job("short", 1), job("long", 2)
    for one in (short, long):
        train(one, Team())
    further = job("further", 2, earlier=_earlier(short, 2), selection=Selection(ships_best=True))
    train(further, Team())
    (expected, weights), (found, _) = _result(long), _result(further)
    assert found["curve"] == expected["curve"]
    assert found["evaluations"] == expected["evaluations"]
    best = max(found["evaluations"], key=lambda evaluation: evaluation["scores"]["mIoU"])
    assert found["selected_iteration"] == best["iteration"]
    assert {2, 4} == {evaluation["iteration"] for evaluation in found["evaluations"]}
    last = torch.load(Path(further.folder) / "checkpoints" / "iter_00000004.pth", weights_only=True)["state_dict"]
    different = [name for name, value in weights.items() if not torch.equal(last[name], value)]
    assert not different
    lost = dataclasses.replace(_earlier(short, 2), folder=str(tmp_path / "nowhere"))
    with pytest.raises(
        ConfigError,
        match=r"expected a checkpoint in .*nowhere/checkpoints, found none \(start from its weights: --pretrained",
    ):
        train(job("lost", 2, earlier=lost), Team())


def test_the_best_is_one_whose_weights_are_there(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training kept its last weights alone, and the third finds them through the second.

    A training evaluates after its last checkpoint, so the one that continues it evaluates these weights again.
    """
    scores = iter([0.9, 0.4, 0.4, 0.3, 0.3, 0.2])
    monkeypatch.setattr(trainer, "evaluate", lambda *given: {"mIoU": next(scores)})

    def job(name: str, epochs: int, **changes: Any) -> TrainingJob:
        return _without_schedule(make_job(tmp_path / name, "resnest", dataset, epochs=epochs, **changes))

    first, best = job("first", 2), Selection(ships_best=True)
    train(first, Team())
    second = job("second", 3, earlier=_earlier(first, 4), selection=best)
    train(second, Team())
    third = job("third", 4, earlier=_earlier(second, 6), selection=best)
    train(third, Team())
    (_, expected), (found, weights) = _result(first), _result(third)
    assert found["selected_iteration"] == 4
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_only_length_and_schedule_may_differ(dataset: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, "swin", dataset, epochs=1)
    identity = {"name": "a", "seed": 0, "processes": 1, "train_splits": ["train"], "pretrained": "x", "patience": 0}
    earlier = _earlier(job, 2, **identity)
    changed = parse_config(job.config, "config")
    changed.runner.max_epochs = 9
    changed.optimizer.lr = 0.5
    changed.lr_config = {"policy": "CosineAnnealing", "min_lr": 0}
    free = {"name": "b", "pretrained": None, "patience": 3, "resume_from": "model.json"}
    earlier.check_continuable({**identity, **free, "config": config_text(changed)})
    changed.optimizer.weight_decay = 0.5
    changed.model.backbone.embed_dims = 24
    with pytest.raises(ConfigError, match="schedule only, found another seed, train_splits, config model, config opti"):
        earlier.check_continuable({**identity, "seed": 1, "train_splits": ["val"], "config": config_text(changed)})


def test_a_continued_training_is_longer(dataset: str, tmp_path: Path) -> None:
    earlier = _earlier(make_job(tmp_path, "swin", dataset, epochs=1), 2)
    earlier.check_length(3)
    with pytest.raises(ConfigError, match=r"a training longer than the 2 iterations of model\.json, found one"):
        earlier.check_length(2)


def test_patience_counts_since_the_training_continues() -> None:
    scores = [{"iteration": number, "scores": {"mIoU": value}} for number, value in enumerate((0.5, 0.4, 0.3, 0.2), 1)]
    selection = Selection(patience=2)
    assert selection.ends_early(scores[:3])
    assert not selection.ends_early(scores[:3], first=3)
    assert not selection.ends_early(scores, first=3)
    assert selection.ends_early(scores, first=2)
