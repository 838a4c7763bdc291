"""Evaluation counts pixels where they are predicted; the counts are those of the scoring room."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landseg.scoring.confusion import confusion_matrix
from landseg.training.evaluation import confusion_counts


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("num_classes", "ignored"), [(9, 255), (2, 255), (150, 255), (255, 255)])
def test_the_same_counts(num_classes: int, ignored: int, device: str) -> None:
    rng = np.random.default_rng(num_classes)
    truth = rng.integers(0, num_classes, (3, 17, 23)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = ignored
    labels = rng.integers(0, num_classes, truth.shape).astype(np.uint8)
    expected = sum(confusion_matrix(*pair, num_classes, ignored) for pair in zip(truth, labels, strict=True))
    found = confusion_counts(
        torch.from_numpy(truth).to(device), torch.from_numpy(labels).to(device), num_classes, ignored
    )
    np.testing.assert_array_equal(found.cpu().numpy().reshape(num_classes, num_classes), expected)


def test_where_nothing_is_labelled() -> None:
    truth = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    assert confusion_counts(truth, torch.zeros_like(truth), 3, 255).tolist() == [0] * 9
