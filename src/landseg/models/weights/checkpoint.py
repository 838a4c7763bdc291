"""Checkpoints from anywhere: mmsegmentation's, landseg's, and weights of other code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from landseg.contracts.errors import ContractError
from landseg.models.weights.pickle_values import Skipped, TensorRef
from landseg.models.weights.torch_file import TorchFile, kind_of

_CONTAINERS = ("state_dict", "model", "model_state_dict", "teacher")
"""Where weights are: mmcv's and Lightning's, official Swin's, others', DINO's."""


def read_checkpoint(path: Path, name: object = None) -> dict[str, Any]:
    """Read a checkpoint's `meta` and `state_dict` without running anything that is in it.

    A file that holds only weights counts as a checkpoint without `meta`. What else a file holds (optimizer, arguments,
    logs) is not read, and objects in `meta` that are no plain values are
    :class:`~landseg.models.weights.pickle_values.Skipped`.

    Args:
        path: a local file.
        name: what messages call it: a URI where `path` is a copy.

    Returns:
        `meta`: a dictionary; `state_dict`: tensors by name.

    Raises:
        ContractError: it is not a checkpoint.
    """
    with TorchFile(path, name) as file:
        content = file.content
        if not isinstance(content, dict):
            raise ContractError(file.name, f"expected a checkpoint with a `state_dict`, found a {kind_of(content)}")
        state = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), dict)), content)
        if not state or not all(isinstance(value, TensorRef) and isinstance(key, str) for key, value in state.items()):
            found = ", ".join(sorted(str(key)[:40] for key in content)[:5]) or "nothing"
            raise ContractError(
                file.name, f"expected a checkpoint with a `state_dict` of tensors, found {found}{_odd(state)}"
            )
        # Weights of a DistributedDataParallel that was saved without unwrapping have this prefix.
        state = {key.removeprefix("module."): value for key, value in file.tensors(state).items()}
        meta = content.get("meta")
        return {"meta": meta if isinstance(meta, dict) else {}, "state_dict": state}


def is_mmseg_1(meta: dict[str, Any]) -> bool:
    """Whether a checkpoint's `meta` is that of mmsegmentation 1.x."""
    return "mmengine_version" in meta or "dataset_meta" in meta


def without_averages(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights without the copies that mmcv's `EMAHook` keeps of each of them in the model's buffers.

    The hook names a copy after its weight, `ema_` before it and `_` in place of dots. While it scores and saves, the
    averages stand in the weights' own places, so the copies are not needed for predicting.
    """
    copies = {f"ema_{key.replace('.', '_')}" for key in state}
    return {key: value for key, value in state.items() if key not in copies}


def without_common_prefix(state: dict[str, torch.Tensor], wanted: set[str]) -> dict[str, torch.Tensor]:
    """The weights without a prefix that all of them have, where then more of the wanted names are among them.

    Lightning, segmentation_models_pytorch, MoCo and DINO wrap the network (`model.backbone.`, `encoder.`,
    `encoder_q.`).
    """
    best, prefix = state, ""
    while (match := re.match(r"[^.]+\.", next(iter(state))[len(prefix) :])) is not None:
        prefix += match[0]
        if not all(key.startswith(prefix) and len(key) > len(prefix) for key in state):
            break
        shorter = {key.removeprefix(prefix): value for key, value in state.items()}
        if len(wanted & shorter.keys()) > len(wanted & best.keys()):
            best = shorter
    return best


def _odd(state: dict[Any, Any]) -> str:
    """The first entry that is no tensor, where others are."""
    if not any(isinstance(value, TensorRef) for value in state.values()):
        return ""
    for key, value in state.items():
        if not isinstance(value, TensorRef):
            kind = value.kind if isinstance(value, Skipped) else type(value).__name__
            return f"; {str(key)[:60]} is a {kind}"
    return ""
