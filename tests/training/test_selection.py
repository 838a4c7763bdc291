"""Which weights become the model, and when training ends early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mmcv
import pytest
import torch
from training_data import make_job, stage

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError
from landseg.training.distributed.team import Team
from landseg.training.selection import Selection
from landseg.training.trainer import train

SCHEMA = ClassSchema(classes=("a", "b"), palette=((0, 0, 0), (1, 1, 1)), bands=(1, 2, 3))


def scores(*values: float) -> list[dict[str, Any]]:
    """Evaluations with these scores; NaN for one without."""
    return [
        {"iteration": number, "epoch": number, "scores": {} if value != value else {"mIoU": value}}
        for number, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("choice", "save_best", "scored", "ships_best", "metric"),
    [
        ("auto", None, True, False, "mIoU"),
        ("auto", "mIoU", True, True, "mIoU"),
        ("auto", "auto", True, True, "mIoU"),
        ("auto", "IoU.b", True, True, "IoU.b"),
        ("auto", "mDice", True, True, "mIoU"),
        ("auto", "mIoU", False, False, "mIoU"),
        ("last", "mIoU", True, False, "mIoU"),
        ("best", None, True, True, "mIoU"),
    ],
)
def test_what_ships(choice: str, save_best: str | None, scored: bool, ships_best: bool, metric: str) -> None:
    config = mmcv.Config({"evaluation": {"save_best": save_best}})
    selection = Selection.of(choice, 0, config, SCHEMA, scored)
    assert (selection.ships_best, selection.metric) == (ships_best, metric)


@pytest.mark.parametrize(("choice", "patience", "flag"), [("best", 0, "--selection best"), ("auto", 3, "--patience")])
def test_without_scores_nothing_can_be_selected(choice: str, patience: int, flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: expected labelled val tiles"):
        Selection.of(choice, patience, mmcv.Config({}), SCHEMA, scored=False)


def test_patience_counts_evaluations_since_the_best_score() -> None:
    selection = Selection(patience=2)
    assert not selection.ends_early([])
    assert not selection.ends_early(scores(0.5, 0.4))
    assert selection.ends_early(scores(0.5, 0.4, 0.5))  # an equal score is no better one
    assert not selection.ends_early(scores(0.5, 0.4, 0.6, 0.1))
    assert not Selection().ends_early(scores(0.5, 0.4, 0.3))
    assert not selection.ends_early(scores(*[float("nan")] * 4))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stage(tmp_path_factory.mktemp("data"))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The scores that evaluation is to find, in order."""
    found = [0.1, 0.5, 0.3, 0.2, 0.9]

    def evaluate(*_: Any) -> dict[str, float]:
        return {"mIoU": found.pop(0), "mAcc": 0.0, "aAcc": 0.0}

    monkeypatch.setattr("landseg.training.trainer.evaluate", evaluate)
    return found


def test_the_best_weights_ship_and_patience_ends_training(dataset: str, tmp_path: Path, scripted: list[float]) -> None:
    options = {"evaluation.interval": 1}
    selection = Selection(ships_best=True, patience=2)
    job = make_job(tmp_path, "swin", dataset, iterations=9, options=options, selection=selection)
    train(job, Team())
    result = json.loads((job.scratch / job.result).read_text())
    assert (result["iterations"], result["selected_iteration"]) == (4, 2)
    assert scripted == [0.9]
    model = torch.load(Path(job.folder) / "model.pth", weights_only=True)
    best = torch.load(Path(job.folder) / "best" / "iter_00000002.pth", weights_only=True)
    assert model["meta"]["iter"] == 2
    assert all(torch.equal(value, best["state_dict"][name]) for name, value in model["state_dict"].items())


def test_the_last_weights_ship_where_the_best_are_lost(
    dataset: str, tmp_path: Path, scripted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landseg.training.checkpoint.store.CheckpointStore.read", lambda self, iteration: None)
    job = make_job(
        tmp_path,
        "swin",
        dataset,
        iterations=3,
        options={"evaluation.interval": 1},
        selection=Selection(ships_best=True),
    )
    train(job, Team())
    assert json.loads((job.scratch / job.result).read_text())["selected_iteration"] == 3
