"""Scoring on val during training."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from landseg.contracts.errors import ConfigError
from landseg.models.failures import out_of_memory
from landseg.prediction.predictor import Predictor
from landseg.training.evaluation import FittingBatches


class _Small:
    """Predicts the numbers that it is given, at most `room` tiles at once."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error = room, error
        self.batches: list[int] = []

    def labels(self, batch: list[int], size: tuple[int, int]) -> torch.Tensor:
        self.batches.append(len(batch))
        if len(batch) > self.room:
            raise out_of_memory(self.error, "--batch-size") from self.error
        return torch.tensor(batch)


def test_batches_that_do_not_fit_are_halved_and_not_tried_again() -> None:
    inputs: Any = [3, 1, 2]
    predictor = _Small(1, torch.OutOfMemoryError("CUDA out of memory"))
    fitting = FittingBatches(cast(Predictor, predictor))
    assert fitting.labels(inputs, (8, 8)).tolist() == [3, 1, 2]
    assert predictor.batches == [3, 2, 1, 1, 1]
    predictor.batches.clear()
    assert fitting.labels(inputs, (8, 8)).tolist() == [3, 1, 2]
    assert fitting.labels(inputs, (9, 8)).tolist() == [3, 1, 2]
    assert predictor.batches == [1, 1, 1, 1, 1, 1]
    predictor.batches.clear()
    predictor.room = 3
    assert fitting.labels(inputs, (5, 8)).tolist() == [3, 1, 2]
    assert predictor.batches == [3]
    for room, error in ((0, torch.OutOfMemoryError()), (1, RuntimeError("another"))):
        predictor = _Small(room, error)
        with pytest.raises(ConfigError):
            FittingBatches(cast(Predictor, predictor)).labels(inputs, (8, 8))
