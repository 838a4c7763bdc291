"""What training says while it runs."""

from __future__ import annotations

import logging

import pytest
import torch

from landseg.training import log as log_module
from landseg.training.log import TrainingLog


@pytest.mark.parametrize(("timeout_s", "is_said"), [(None, False), (1, True), (10**9, False)])
def test_a_training_that_outlasts_its_step_is_warned_of_once(tmp_path, caplog, monkeypatch, timeout_s, is_said):
    monkeypatch.setattr(log_module, "_PACE_S", 0.0)
    log = TrainingLog(
        "training m", max_iters=10**9, iters_per_epoch=100, batch_size=8, interval=10, line_interval=10,
        folder=tmp_path, device=torch.device("cpu"), timeout_s=timeout_s,
    )  # fmt: skip
    log.start(0)
    with caplog.at_level(logging.WARNING, "landseg"):
        for iteration in (1, 2, 3):
            log.got_batch()
            log.iteration(iteration, {"loss": 1.0}, 1e-3)
    log.close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == is_said
    if is_said:
        assert "the pipeline ends the step after 0.000278 h" in said[0]
        assert 'SET="train.timeout=' in said[0]
