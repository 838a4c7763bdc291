"""Batches of every size are tried before the first one, and leave no trace in the training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_data import make_job, stage

from landseg.contracts.errors import ConfigError, DataError
from landseg.training.distributed.team import Team
from landseg.training.rehearsal import steps
from landseg.training.rehearsal.steps import rehearse_steps
from landseg.training.session import Session

# isort: split
from mmseg.datasets.builder import PIPELINES

NORMALIZE = {"type": "Normalize", "mean": [100.0] * 3, "std": [50.0] * 3}


def own_sizes(*steps: dict[str, Any]) -> dict[str, Any]:
    """Options for a pipeline without Pad; one tile at a time, so no BatchNorm over pooled maps of 1x1."""
    return {
        "data.train.pipeline": [*steps, NORMALIZE],
        "model.decode_head.norm_cfg": {"type": "GN", "num_groups": 1},
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stage(tmp_path_factory.mktemp("sizes"), train=3, val=4)  # train: 32x32; val: 32x32 and 40x32


def _session(root: Path, dataset: str, options: dict[str, Any], batch: int = 1) -> Session:
    job = make_job(
        root, "swin", dataset, options=options, batch_per_gpu=batch, splits=("train", "val"), eval_split=None
    )
    return Session.build(job, Team())


def _state(session: Session) -> list[Any]:
    weights = [value.clone() for value in session.model.state_dict().values()]
    drawn = [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].copy())]  # type: ignore[union-attr]
    return [*weights, *drawn, hash(random.getstate()), len(session.runner.optimizer.state)]


def _tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    compute = steps.compute_losses

    def spy(session: Session, forward: torch.nn.Module, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        assert session.model.training
        shapes.append(tuple(batch["img"].shape))
        return compute(session, forward, batch)

    monkeypatch.setattr(steps, "compute_losses", spy)
    return shapes


def test_each_size_is_tried_and_nothing_is_changed(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, shapes = _session(tmp_path, dataset, own_sizes()), _tried(monkeypatch)
    first = next(session.model.parameters())
    first.grad = torch.ones_like(first)  # of a training that is continued in the midst of a step
    before = _state(session)
    rehearse_steps(session)
    assert shapes == [(1, 3, 40, 32), (1, 3, 32, 32)]
    for found, expected in zip(_state(session), before, strict=True):
        assert torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected
    gradients = [parameter.grad for parameter in session.model.parameters()]
    assert torch.equal(gradients[0], torch.ones_like(first))  # type: ignore[arg-type]
    assert gradients[1:] == [None] * (len(gradients) - 1)


def test_what_the_first_batch_shows_is_left_to_it(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = [NORMALIZE, {"type": "Pad", "size": (48, 48)}]
    session, shapes = _session(tmp_path, dataset, {"data.train.pipeline": pipeline}), _tried(monkeypatch)
    rehearse_steps(session)
    assert shapes == []


class OnlySmall(torch.nn.Module):
    """A loss that fails where the map is high."""

    loss_name = "loss_small"

    def forward(self, logits: torch.Tensor, label: torch.Tensor, **_: Any) -> torch.Tensor:
        assert logits.shape[2] < 40, "the map is too high"
        return logits.mean()


def test_a_size_that_the_network_does_not_take_is_refused(dataset: str, tmp_path: Path) -> None:
    session = _session(tmp_path, dataset, own_sizes())
    session.model.decode_head.loss_decode = OnlySmall()  # type: ignore[union-attr]
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"OnlySmall fails in training on a batch of 1x3x40x32: the map is too high"):
        rehearse_steps(session)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_that_would_make_no_batch_are_refused(dataset: str, tmp_path: Path) -> None:
    options = own_sizes({"type": "RandomCrop", "crop_size": [36, 24]})
    with pytest.raises(
        DataError, match="expected samples of one size in a batch, 36x24 px as the one before, found 32"
    ):
        rehearse_steps(_session(tmp_path, dataset, options, batch=2))


def test_a_transform_that_fails_on_some_tiles_is_refused(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tall:
        def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
            assert results["img"].shape[0] == 40, "expected 40 rows"
            return results

    monkeypatch.setitem(PIPELINES.module_dict, "Tall", Tall)
    options = own_sizes({"type": "Tall"}, {"type": "Resize", "img_scale": (32, 32), "keep_ratio": False})
    with pytest.raises(ConfigError, match=r"train_pipeline Tall: fails on an image of 32x32x3: Ass.*40 rows"):
        rehearse_steps(_session(tmp_path, dataset, options, batch=2))
