"""Errors of torch and mmseg become one line: the part of the model, the batch, the option."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from landseg.contracts.errors import ConfigError
from landseg.models.failures import failure, is_of_team, is_out_of_memory, is_own, out_of_memory


class Attention(nn.Module):
    """Takes images of one size, as BEiT does."""

    img_size = (16, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Add a table of that size."""
        return images + torch.zeros(16, 16)


def raised(model: nn.Module, shape: tuple[int, ...]) -> ConfigError:
    try:
        model(torch.zeros(shape))
    except Exception as err:
        return failure(err, model, shape, "training")
    raise AssertionError("nothing was raised")


def test_the_innermost_part_is_named_with_the_batch_and_the_option() -> None:
    head = nn.ModuleDict({"pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))})
    model: Any = nn.Sequential(nn.Conv2d(3, 3, 1), head["pool"])
    assert str(raised(model, (1, 3, 8, 8))) == (
        "model.1.1: BatchNorm2d fails in training on a batch of 1x3x8x8: Expected more than 1 value per channel when "
        "training, got input size torch.Size([1, 3, 1, 1]) (use --batch-per-gpu 2 or more: BatchNorm needs more than "
        "one value per channel)"
    )


def test_sizes_and_class_weights_have_their_advice() -> None:
    assert "model.0: Attention fails" in str(raised(nn.Sequential(Attention()), (1, 3, 9, 9)))
    assert "model.backbone.img_size=(16, 16)" in str(raised(nn.Sequential(Attention()), (1, 3, 9, 9)))
    assert "Pad(size_divisor=32)" in str(raised(nn.Sequential(nn.Conv2d(3, 1, 7)), (1, 3, 4, 4)))

    class Loss(nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(logits, logits.argmax(1), torch.ones(5))

    assert "one number per class" in str(raised(nn.Sequential(Loss()), (1, 3, 4, 4)))

    class Alpha(nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return logits.flatten(2).transpose(1, 2) * torch.ones(5)

    line = str(raised(nn.ModuleDict({"loss_decode": Alpha()})["loss_decode"], (1, 3, 4, 4)))
    assert "Pad(" in line  # not known to be a loss
    head: Any = nn.Sequential()
    head.add_module("loss_decode", Alpha())
    assert "(class_weight, alpha) one number per class" in str(raised(head, (1, 3, 4, 4)))


@pytest.mark.parametrize(
    ("err", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), "GPU memory: 2.00 GiB more"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 96 bytes."),
            "96 by",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "ALLOC_FAILED"),
        (MemoryError("Unable to allocate 3.00 GiB for an array"), "out of memory: Unable to allocate 3.00 GiB"),
    ],
)
def test_memory_that_ran_out_is_said_with_the_flag(err: Exception, line: str) -> None:
    assert is_out_of_memory(err)
    assert str(out_of_memory(err, "--batch-size")).startswith("--batch-size: out of ")
    assert line in str(out_of_memory(err, "--batch-size"))


@pytest.mark.parametrize(
    "err",
    [
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer"),
        torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"),
    ],
)
def test_a_process_of_the_team_that_has_gone_is_no_fault_of_the_model(err: Exception) -> None:
    assert is_of_team(err)
    assert not is_of_team(RuntimeError("shape [3] mismatch in gloo/a.cc:1"))


def test_other_errors_are_neither() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    try:
        failure(None, None, 3, "")  # type: ignore[arg-type]
    except AttributeError as err:
        assert is_own(err)  # raised in landseg's own file
    try:
        torch.zeros(2) + torch.zeros(3)
    except RuntimeError as err:
        assert not is_own(err)
