"""Checkpoints from anywhere: mmsegmentation's, landseg's, and weights of other code."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from landseg.contracts.errors import ContractError
from landseg.models.weights.pickle_values import Skipped, TensorRef
from landseg.models.weights.safetensors_file import is_safetensors, read_safetensors
from landseg.models.weights.torch_file import TorchFile, kind_of

_CONTAINERS = ("state_dict", "model", "model_state_dict", "teacher", "module", "params", "net", "network", "weights")
"""Where weights are: mmcv's and Lightning's, official Swin's, others', DINO's, DeepSpeed's, BasicSR's, others'."""
_AVERAGES = ("state_dict_ema", "model_ema", "ema", "params_ema", "ema_state_dict")
"""Where averages of weights are: timm's and others'. Taken where a file has nothing else."""
_MOST_CONTAINERS = 3
"""In one another."""
_MOST_PREFIXES = 64
"""That are tried, the most common ones: a file may have as many names as it likes."""


def read_checkpoint(path: Path, name: object = None) -> dict[str, Any]:
    """Read a checkpoint's `meta` and `state_dict` without running anything that is in it.

    A file that holds only weights, as those of safetensors do, counts as a checkpoint without `meta`. What else a file
    holds (optimizer, arguments, logs) is not read, and objects in `meta` that are no plain values are
    :class:`~landseg.models.weights.pickle_values.Skipped`.

    Args:
        path: a local file.
        name: what messages call it: a URI where `path` is a copy.

    Returns:
        `meta`: a dictionary; `state_dict`: tensors by name.

    Raises:
        ContractError: it is not a checkpoint.
    """
    if is_safetensors(path):
        return {"meta": {}, "state_dict": read_safetensors(path, name)}
    with TorchFile(path, name) as file:
        content = file.content
        if not isinstance(content, dict):
            raise ContractError(file.name, f"expected a checkpoint with a `state_dict`, found a {kind_of(content)}")
        state = _weights_in(content)
        if not state or not all(isinstance(value, TensorRef) and isinstance(key, str) for key, value in state.items()):
            found = ", ".join(sorted(str(key)[:40] for key in content)[:5]) or "nothing"
            if state is not content or any(isinstance(value, TensorRef) for value in state.values()):
                found += _odd(state)
            raise ContractError(file.name, f"expected a checkpoint with a `state_dict` of tensors, found {found}")
        state = {_unwrapped(key): value for key, value in file.tensors(state).items()}
        meta = content.get("meta")
        return {"meta": meta if isinstance(meta, dict) else {}, "state_dict": state}


_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and checkpointed activations add to the names of the parts that they wrap."""


def _unwrapped(key: str) -> str:
    """A weight's name without what wrappers add to it, around the model or a part; `module.` may be a part's own."""
    key = _WRAPPERS.sub("", key)
    while (shorter := key.removeprefix("module.")) != key:
        key = shorter
    return key


def _weights_in(content: dict[Any, Any]) -> dict[Any, Any]:
    """The dictionary that holds the weights: the first of the known containers, or of those inside it."""
    for _ in range(_MOST_CONTAINERS):
        inner = [content[key] for key in (*_CONTAINERS, *_AVERAGES) if isinstance(content.get(key), dict)]
        if not inner:
            break
        content = inner[0]
    return content


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
    `encoder_q.`). Where heads lie next to the wrapped network, its prefix is taken off its own weights alone.
    """
    best = state
    prefixes = Counter(key[: match.end()] for key in state for match in itertools.islice(re.finditer(r"\.", key), 4))
    for prefix, _ in prefixes.most_common(_MOST_PREFIXES):
        shorter = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if len(wanted & shorter.keys()) > len(wanted & best.keys()):
            best = {key: value for key, value in state.items() if not key.startswith(prefix)} | shorter
    return best


def _odd(state: dict[Any, Any]) -> str:
    """The first entry that is no tensor, and what it is."""
    for key, value in state.items():
        if not isinstance(value, TensorRef):
            kind = value.kind if isinstance(value, Skipped) else type(value).__name__
            kind = "NumPy array" if kind.startswith("numpy.") else kind
            return f"; {str(key)[:60]} is a {kind}"
    return ""
