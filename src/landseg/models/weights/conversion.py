"""Pretrained weights of other code, converted to mmseg's naming and layout.

States map names (without `backbone.`) to tensors.
"""

from __future__ import annotations

import math
import re

import torch
from torch.nn.functional import interpolate

State = dict[str, torch.Tensor]

_SWIN_NAMES = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)
_SWIN_COMPUTED = ("relative_position_index", "attn_mask")
"""Stored in official checkpoints although it follows from the window size; mmseg computes its own."""

_MERGING_ORDER = (0, 2, 1, 3)
"""Patch merging joins the four pixels of a 2x2 block column by column in official code and row by row in mmseg."""


_CONVERTERS = (
    (
        r"block1\.0\.attn\.q\.weight",
        "the official SegFormer code (MiT)",
        "mmsegmentation 0.x's tools/model_converters/mit2mmseg.py",
    ),
    (
        r"downsample_layers\.0\.0\.weight|stem\.0\.weight\n(.*\n)*stages\.0\.blocks\.0\.conv_dw\.weight",
        "the official ConvNeXt code, or timm's",
        "mmclassification 0.x's tools/convert_models/convnext_to_mmcls.py, from the official file",
    ),
    (
        r"blocks\.0\.attn\.(q_bias|relative_position_bias_table)",
        "the official BEiT code",
        "mmsegmentation 0.x's tools/model_converters/beit2mmseg.py",
    ),
    (r"blocks\.0\.attn\.qkv\.weight", "timm's ViT", "mmsegmentation 0.x's tools/model_converters/vit2mmseg.py"),
)
"""By what a line of the names is: whose the names are, and what converts them."""
_WITHOUT_CONVERTER = (
    (
        r".*attention\.(self|attention|output)\.\w+\.\w+|.*\.layers\.\d+\.(dwconv|pwconv1)\.weight",
        "Hugging Face's transformers",
    ),
    (r"features\.\d+\.\d+\.", "torchvision"),
)
"""The same of those that nothing converts."""


def converter_of(state: State) -> str:
    """Advice for weights under the names of other code, which landseg does not convert; empty if they are unknown."""
    names = "\n".join(state)
    for pattern, whose, converter in _CONVERTERS:
        if re.search(rf"^({pattern})", names, re.MULTILINE):
            return f"these are names of {whose}: convert the file with {converter}"
    for pattern, whose in _WITHOUT_CONVERTER:
        if re.search(rf"^({pattern})", names, re.MULTILINE):
            return f"these are names of {whose}: give the checkpoint that the model's authors published"
    return ""


def is_official_swin(state: State) -> bool:
    """Whether the names are those of the official Swin Transformer code."""
    return "patch_embed.proj.weight" in state and any(key.endswith(".attn.qkv.weight") for key in state)


def convert_official_swin(state: State) -> State:
    """Rename and reorder the weights of the official Swin Transformer code, or of timm's.

    Newer timm merges patches at the beginning of a stage, not at the end of the one before.

    In patch merging official code joins the pixels of a block as 4 groups of C channels, mmseg's `nn.Unfold` as C
    groups of 4 pixels.
    """
    converted = {}
    merges_first = "layers.0.downsample.norm.weight" not in state
    for key, value in state.items():
        if key.endswith(_SWIN_COMPUTED):
            continue
        if merges_first:
            key = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", key)
        if ".downsample.reduction." in key or ".downsample.norm." in key:
            blocks = value.reshape(*value.shape[:-1], 4, -1)[..., _MERGING_ORDER, :]
            value = blocks.transpose(-1, -2).reshape(value.shape)
        for pattern, name in _SWIN_NAMES:
            key = re.sub(pattern, name, key)
        converted[key] = value
    return converted


def fit_position_tables(state: State, expected: State) -> State:
    """Interpolate relative position tables of another window size, bicubically, as official code does.

    Args:
        state: weights in mmseg's naming.
        expected: the model's own.
    """
    fitted = dict(state)
    for key, target in expected.items():
        source = state.get(key)
        if not key.endswith("relative_position_bias_table") or source is None or source.shape == target.shape:
            continue
        (entries, heads), size = source.shape, math.isqrt(target.shape[0])
        side = math.isqrt(entries)
        if heads != target.shape[1] or side * side != entries:
            continue  # another architecture, which the caller refuses
        planes = source.T.reshape(1, heads, side, side).float()
        resized = interpolate(planes, size=(size, size), mode="bicubic", align_corners=False)
        fitted[key] = resized.reshape(heads, size * size).T.to(source.dtype).contiguous()
    return fitted


def is_mmcls_resnet(state: State) -> bool:
    """Whether the names are mmcls's for a ResNet with a deep stem (ResNeSt, ResNetV1c, ResNetV1d)."""
    return "stem.0.conv.weight" in state and "layer1.0.conv1.weight" in state


def convert_mmcls_resnet(state: State) -> State:
    """Rename mmcls's deep stem and first shortcut.

    mmcls builds the stem from three (conv, bn) modules where mmseg lists conv, bn and relu one by one, and it omits the
    pooling of stride 1 that mmseg has before the convolution of the first stage's shortcut.
    """
    converted = {}
    shift = "layer1.0.downsample.0.weight" in state
    for key, value in state.items():
        stem = re.fullmatch(r"stem\.(\d)\.(conv|bn)\.(\w+)", key)
        shortcut = re.fullmatch(r"layer1\.0\.downsample\.(\d)\.(\w+)", key)
        if stem:
            key = f"stem.{3 * int(stem[1]) + (stem[2] == 'bn')}.{stem[3]}"
        elif shortcut and shift:
            key = f"layer1.0.downsample.{int(shortcut[1]) + 1}.{shortcut[2]}"
        converted[key] = value
    return converted


def extend_input(weight: torch.Tensor, num_bands: int) -> torch.Tensor:
    """Extend the first convolution of an RGB model to another number of bands.

    The first three bands keep the weights of red, green and blue, each further band gets their mean, and fewer than
    three bands get the mean alone. All are multiplied by 3 / bands, so that the sum over bands responds as strongly as
    it did to RGB, and the following layers see what they were trained on.

    Args:
        weight: (out, 3, h, w).
        num_bands: bands of the dataset.

    Returns:
        (out, num_bands, h, w).
    """
    mean = weight.mean(1, keepdim=True)
    bands = [weight[:, band : band + 1] if num_bands >= 3 and band < 3 else mean for band in range(num_bands)]
    return torch.cat(bands, 1) * (3 / num_bands)
