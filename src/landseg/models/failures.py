"""What mmseg and torch raise while a model computes, as one line: which part failed, on what, and what helps."""

from __future__ import annotations

import gc
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from landseg.contracts.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]
_OUT_OF_MEMORY = (
    r"(out of memory|can't allocate memory|not enough memory|cannot allocate memory|failed to allocate|_ALLOC_FAILED)"
)
_SIZE = (
    r"(divisible|must match|mismatch|is invalid for input|too small|greater than actual input|should be (the )?same|"
    r"doesn't match|not aligned|expected size|Padding size)"
)
_HINTS = (
    (
        r"more than 1 value per channel",
        "use --batch-per-gpu 2 or more: BatchNorm needs more than one value per channel",
    ),
    (r"weight tensor should be defined|class_weight", "give loss_decode.class_weight one number per class"),
    (
        _SIZE,
        "pad or resize tiles to a size that the model takes, in train_pipeline and in test_pipeline: "
        "Pad(size_divisor=32) or ResizeToMultiple(size_divisor=32)",
    ),
)


def is_out_of_memory(err: BaseException) -> bool:
    """Whether memory ran out: the GPU's, or the machine's, for which torch has no exception of its own."""
    if isinstance(err, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(err, RuntimeError) and re.search(_OUT_OF_MEMORY, str(err), re.IGNORECASE) is not None


def came_from_lack_of_memory(err: BaseException) -> bool:
    """Whether memory ran out, or an error in other words says that it did."""
    return any(one is not None and is_out_of_memory(one) for one in (err, err.__cause__))


def free_memory() -> None:
    """Give back what torch holds of a GPU's memory without using it: in pieces that may fit nothing larger."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(err: BaseException, option: str) -> ConfigError:
    """The error to raise where memory ran out.

    Args:
        err: what was raised.
        option: the flag that sets how many tiles are computed at once.
    """
    where = "GPU memory" if isinstance(err, torch.OutOfMemoryError) else "memory"
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", str(err))
    size = f": {asked[1]} more were needed" if asked else f": {first_line(err)}" if str(err) else ""
    return ConfigError(option, f"out of {where}{size}", "use a smaller batch, or smaller tiles")


def failure(err: Exception, model: torch.nn.Module, shape: Sequence[int], doing: str) -> ConfigError:
    """The error to raise where a model failed.

    Args:
        err: what was raised.
        model: the segmentor.
        shape: (tiles, bands, height, width) of the batch.
        doing: what it was doing: "training" or "predicting".
    """
    parts = list(_parts(err, model))
    path, part = parts[-1] if parts else ("", model)
    where = ".".join(filter(None, ["model", path]))
    size, text = "x".join(map(str, shape)), first_line(err)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, text)), "")
    if ".loss_" in f".{path}" and re.search(rf"{_SIZE}|must be real number", text):
        hint = "give the lists of the loss (class_weight, alpha) one number per class"
    sides = next((module.img_size for _, module in parts if getattr(module, "img_size", None)), None)
    if sides is not None and re.search(_SIZE, text):
        hint = f"it takes images of model.backbone.img_size={sides}: resize tiles to that size, or set it to theirs"
    return ConfigError(
        where,
        f"{type(part).__name__} fails in {doing} on a batch of {size}: {text[:140] or type(err).__name__}",
        hint,
    )


def is_own(err: BaseException) -> bool:
    """Whether landseg's own code raised it: a bug, whose traceback is wanted."""
    frames = traceback.extract_tb(err.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(_PACKAGE)


def is_of_team(err: BaseException) -> bool:
    """Whether another training process could not be reached, mostly because it has ended: its own error is wanted.

    pytorch: NCCL raises a DistError; gloo a RuntimeError that begins with a place in its source.
    """
    return isinstance(err, torch.distributed.DistError) or bool(re.match(r"\[\S*/gloo/\S+:\d+\]", str(err)))


def first_line(err: BaseException) -> str:
    """The first line of an error's message, cut to a length that a line has room for."""
    return str(err).strip().partition("\n")[0][:300]


def _parts(err: BaseException, model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The model's parts that were computing when an error was raised, outer ones first, by name."""
    names = {id(module): name for name, module in model.named_modules()}
    step = err.__traceback__
    while step is not None:
        module = step.tb_frame.f_locals.get("self")
        if isinstance(module, torch.nn.Module) and id(module) in names:
            yield names[id(module)], module
        step = step.tb_next
