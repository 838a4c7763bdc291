"""Retries leave everything random as it was: a training stores the state of its generators."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from landseg.contracts.errors import StorageError
from landseg.storage.retry import TransientError, retrying


def test_pauses_have_a_generator_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    before, numpys = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]

    def attempt() -> str:
        if len(pauses) < 5:
            raise TransientError(StorageError("s3://bucket/key", "is away"))
        return "answered"

    assert retrying(attempt, lambda: True) == "answered"
    assert len(set(pauses)) == 5
    assert random.getstate() == before
    assert np.random.get_state()[1].tolist() == numpys  # type: ignore[index, union-attr]
