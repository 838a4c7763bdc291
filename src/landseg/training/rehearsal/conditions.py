"""What rehearsals share: nothing of them is left, and a GPU has as little room as it will have in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from landseg.training.checkpoint.random_state import random_state, restore_random_state
from landseg.training.session import Session

MAX_SIZES = 12
"""That are tried: of more, the largest, the smallest, and some in between."""


@contextlib.contextmanager
def untouched(session: Session) -> Iterator[None]:
    """Put back what computing changes: buffers, gradients and random numbers."""
    model, device = session.model, session.team.device
    generators = random_state(device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        for parameter, gradient in gradients:
            parameter.grad = gradient
        restore_random_state(generators, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)  # what training reports as its peak is its own


@contextlib.contextmanager
def memory_of_training(session: Session, gradients: bool) -> Iterator[None]:
    """Hold as much of a GPU's memory as the optimizer will from the second iteration on, and perhaps the gradients."""
    if session.team.device.type != "cuda":
        yield
        return
    options = session.runner.optimizer.defaults
    per_weight = (1 if "momentum" in options else 2) + gradients  # Adam and its kin keep two moments
    weights = sum(p.numel() for p in session.model.parameters() if p.requires_grad)
    held = torch.empty(per_weight * weights, device=session.team.device)
    try:
        yield
    finally:
        del held
