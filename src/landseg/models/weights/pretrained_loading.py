"""Loading pretrained weights into a model: matched against its backbone, converted, and loaded whole or refused."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmseg.models.backbones import VisionTransformer
from mmseg.models.builder import BACKBONES

from landseg.contracts.errors import ContractError
from landseg.models.weights.checkpoint import read_checkpoint, without_averages, without_common_prefix
from landseg.models.weights.conversion import (
    State,
    convert_mmcls_resnet,
    convert_official_swin,
    converter_of,
    extend_input,
    fit_position_tables,
    is_mmcls_resnet,
    is_official_swin,
)

_OWN = ("num_batches_tracked", "relative_position_index")
"""Buffers that follow from the architecture or that old checkpoints lack; the model keeps its own."""


@dataclass(frozen=True)
class LoadReport:
    """What loading did.

    Attributes:
        loaded: number of weights (and buffers) that were loaded.
        new: weights that the file lacks, left as the model was initialised.
        unused: weights in the file that the model does not use.
        notes: the conversions that were applied.
    """

    loaded: int
    new: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.loaded} weights loaded", *self.notes]
        if self.new:
            parts.append(f"{len(self.new)} not in the file, new: {_listed(self.new)}")
        if self.unused:
            parts.append(f"{len(self.unused)} in the file not used: {_listed(self.unused)}")
        return "; ".join(parts)


def load_pretrained(model: torch.nn.Module, path: Path) -> LoadReport:
    """Load pretrained weights: a backbone's (official Swin, mmcls, or mmseg's names), or a whole segmentation model's.

    The backbone is loaded whole or not at all. Names and layouts of other code are converted, position tables of
    another window size are interpolated, and for a number of bands other than three the first convolution is extended
    (:mod:`landseg.models.weights.conversion`). In a segmentation model the layers that depend on its classes may
    have another size; they are trained from scratch.

    Raises:
        ContractError: the file is not a checkpoint, has weights that are not finite, or belongs to another
            architecture; missing and unexpected weights are listed. The model is unchanged.
    """
    expected = model.state_dict()
    state = without_averages(read_checkpoint(path, path.name)["state_dict"])
    names = {key.removeprefix("backbone.") for key in expected if key.startswith("backbone.")}
    if not is_official_swin(state):  # nothing wraps it, and each of its blocks has weights called as mmseg's norms
        state = without_common_prefix(state, names | expected.keys())
    heads = {key: value for key, value in state.items() if key.startswith(("decode_head.", "auxiliary_head.", "neck."))}
    backbone = {key: value for key, value in state.items() if key not in heads}
    if any(key.startswith("backbone.") for key in backbone):
        backbone = {key.removeprefix("backbone."): value for key, value in backbone.items()}
    matches = [_match(backbone, module, name) for name, module in _backbones(model)]
    match = next((match for match in matches if not any(match.problems.values())), matches[0])
    if any(match.problems.values()):
        problems = match.problems | {"unexpected": match.unused}
        listed = "; ".join(f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in problems.items() if keys)
        raise ContractError(
            path.name,
            f"expected pretrained weights of the config's backbone, found {listed}",
            "; ".join(filter(None, ("nothing was loaded", converter_of(backbone)))),
        )
    loaded = match.fitting | _fitting_heads(heads, expected)
    damaged = [key for key, value in loaded.items() if not torch.isfinite(value).all()]
    if damaged:
        raise ContractError(
            path.name,
            f"expected finite weights, found others in {_listed(damaged)}",
            "the training that left them had diverged: take an earlier checkpoint of it",
        )
    model.load_state_dict(loaded, strict=False)
    new, unused = match.new, match.unused
    if heads:
        new += [key for key in expected if key not in loaded and not key.startswith("backbone.")]
        unused += [key for key in heads if key not in loaded]
    return LoadReport(len(loaded), tuple(new), tuple(unused), tuple(match.notes))


@dataclass
class _Match:
    """How a file's weights fit a backbone; `problems` by kind, and `fitting` by the model's own names."""

    fitting: State
    new: list[str]
    unused: list[str]
    problems: dict[str, list[str]]
    notes: list[str]


def _backbones(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The backbone, and one inside it where it is built around another network (BiSeNet, STDC, ICNet)."""
    kinds = tuple(BACKBONES.module_dict.values())
    named = [(name, module) for name, module in model.named_modules() if re.match(r"backbone(\.|$)", name)]
    return [named[0], *((name, module) for name, module in named[1:] if isinstance(module, kinds))]


def _match(state: State, module: torch.nn.Module, name: str) -> _Match:
    own: State = module.state_dict()
    notes: list[str] = []
    state = _converted(state, module, own, notes)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    unused = [key for key in state if key not in own]
    new = [key for key in own if key not in state and not key.endswith(_OWN)]
    # Weights outside the backbone's own parts are a classifier's. Unknown ones inside them mean another architecture.
    parts = {key.partition(".")[0] for key in own}
    problems = {
        # mmseg appends norms to Swin's stages for dense prediction, which no classification checkpoint has.
        "missing": [key for key in new if not re.match(r"norm\d\.", key)],
        "unexpected": [key for key in unused if key.partition(".")[0] in parts],
        "of another shape": [
            f"{key} {list(value.shape)} for {list(own[key].shape)}"
            for key, value in state.items()
            if key in own and key not in fitting
        ],
    }
    return _Match({f"{name}.{key}": value for key, value in fitting.items()}, new, unused, problems, notes)


def _fitting_heads(heads: State, expected: State) -> State:
    """Weights of the heads that fit completely, except for the layers that depend on the classes."""
    loaded: State = {}
    for name in ("decode_head.", "auxiliary_head.", "neck."):
        own = {key: value for key, value in expected.items() if key.startswith(name)}
        fitting = {key: heads[key] for key, value in own.items() if key in heads and heads[key].shape == value.shape}
        if all(".conv_seg." in key or key.endswith(_OWN) for key in own.keys() - fitting.keys()):
            loaded |= fitting
    return loaded


def _converted(state: State, module: Any, own: State, notes: list[str]) -> State:
    if is_official_swin(state):
        state = convert_official_swin(state)
        notes.append("converted from official Swin")
    if is_mmcls_resnet(state) and "stem.0.weight" in own:
        state = convert_mmcls_resnet(state)
        notes.append("converted from mmcls")
    fitted = fit_position_tables(state, own)
    if any(fitted[key] is not state[key] for key in state):
        notes.append("position tables interpolated to the model's window size")
    if (
        isinstance(module, VisionTransformer)
        and fitted.get("pos_embed", module.pos_embed).shape != module.pos_embed.shape
    ):
        fitted["pos_embed"] = _fit_vit_positions(fitted["pos_embed"], module)
        notes.append("position embedding interpolated to the model's image size")
    for key, value in fitted.items():
        shape, wanted = tuple(value.shape), tuple(own[key].shape) if key in own else ()
        if (
            len(shape) == len(wanted) == 4
            and shape[1] == 3 != wanted[1]
            and (shape[0], *shape[2:]) == (wanted[0], *wanted[2:])
        ):
            fitted[key] = extend_input(value, wanted[1])  # only the layer that reads the image has three inputs
            notes.append(f"first convolution extended from 3 to {wanted[1]} bands")
    return fitted


def _fit_vit_positions(embedding: torch.Tensor, module: Any) -> torch.Tensor:
    """A position embedding (1, 1 + tokens, C) for another image size, as mmseg's VisionTransformer resizes it."""
    size = tuple(side // module.patch_size for side in module.img_size)
    before = math.isqrt(embedding.shape[1] - 1)
    resized: torch.Tensor = module.resize_pos_embed(embedding, size, (before, before), module.interpolate_mode)
    return resized


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
