"""UPerHead's last convolution, on maps before they are enlarged: the same values for a third of the arithmetic.

The head enlarges the maps of its coarse levels to the finest one's size and convolves them all, which is half of the
work of a whole Swin-Base model. But a convolution's taps mix channels at one pixel, and enlarging mixes pixels within
one channel, so they may change places: each tap is applied at a level's own size, its result enlarged and shifted.
Enlarging is bilinear, so that it works row by row and column by column: two matrix products per level.

Only the rounding differs: inference in float32 does without, and equals mmsegmentation to the last pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models import UPerHead
from mmseg.ops import resize
from torch.nn.functional import conv2d, interpolate, pad

_TAPS = 3


def fuse_late(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Let a model whose decode head is an UPerHead enlarge after convolving; leave every other model alone.

    Args:
        model: the segmentor, in evaluation mode, on its device.
        dtype: the type that it computes in.
    """
    head: Any = getattr(model, "decode_head", None)
    if type(head) is not UPerHead or not _is_plain(head.fpn_bottleneck):
        return
    head.to(memory_format=torch.channels_last)
    levels = head.fpn_bottleneck.conv.weight.detach().to(dtype).split(head.channels, dim=1)
    if len(levels) != len(head.in_channels):
        return
    finest = levels[0].contiguous(memory_format=torch.channels_last)
    head._forward_feature = functools.partial(_features, head, finest, [_rows_of_taps(one) for one in levels[1:]])


def _is_plain(module: Any) -> bool:
    """Whether a ConvModule is a 3 x 3 convolution with zero padding, and norm and activation after it."""
    conv = module.conv
    shape = (conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups, conv.padding_mode)
    return (type(conv), module.order, shape) == (
        torch.nn.Conv2d,
        ("conv", "norm", "act"),
        ((_TAPS, _TAPS), (1, 1), (1, 1), (1, 1), 1, "zeros"),
    )


def _rows_of_taps(weight: torch.Tensor) -> list[torch.Tensor]:
    """(O, C, 3, 3) as one 1 x 1 convolution for each row of taps, with 3 x O outputs."""
    rows = weight.permute(2, 3, 0, 1).flatten(1, 2)
    return [row[:, :, None, None].contiguous(memory_format=torch.channels_last) for row in rows]


def _features(
    head: Any, finest: torch.Tensor, coarser: Sequence[list[torch.Tensor]], inputs: Sequence[torch.Tensor]
) -> torch.Tensor:
    """What UPerHead._forward_feature returns.

    Args:
        head: the head.
        finest: weights of the last convolution for the finest level.
        coarser: of :func:`_rows_of_taps`, for each of the others.
        inputs: the backbone's maps, fine to coarse.
    """
    inputs = head._transform_inputs(inputs)
    maps = [lateral(one) for lateral, one in zip(head.lateral_convs, inputs, strict=False)]
    maps.append(head.psp_forward(inputs))
    for fine in range(len(maps) - 2, -1, -1):
        size = maps[fine].shape[2:]
        maps[fine] = maps[fine] + resize(maps[fine + 1], size=size, mode="bilinear", align_corners=head.align_corners)
    maps = [conv(one) for conv, one in zip(head.fpn_convs, maps, strict=False)] + maps[-1:]
    size = maps[0].shape[2:]
    last = head.fpn_bottleneck
    total = conv2d(maps[0].to(finest.dtype), finest, last.conv.bias, padding=1)
    for one, taps in zip(maps[1:], coarser, strict=True):
        total = total + _convolve_enlarged(one.to(finest.dtype), taps, size, head.align_corners)
    if last.with_norm:
        total = last.norm(total)
    return last.activate(total) if last.with_activation else total


def _convolve_enlarged(
    values: torch.Tensor, taps: list[torch.Tensor], size: torch.Size, align_corners: bool
) -> torch.Tensor:
    """A 3 x 3 convolution with zero padding of a map enlarged to `size`.

    Args:
        values: (N, C, h, w).
        taps: as :func:`_rows_of_taps` returns them.
        size: (H, W).
        align_corners: as in `interpolate`.

    Returns:
        (N, O, H, W).
    """
    (num, _, height, width), outputs = values.shape, taps[0].shape[0] // _TAPS
    to_rows, to_columns = (
        _shifted_enlarging(old, new, align_corners, values.dtype, values.device)
        for old, new in zip((height, width), size, strict=True)
    )
    total: torch.Tensor | None = None
    for tap, weight in enumerate(taps):
        mixed = conv2d(values, weight).permute(0, 2, 3, 1).reshape(num, height, width * _TAPS * outputs)
        enlarge = to_rows[:, :, tap].contiguous().expand(num, -1, -1)
        total = torch.bmm(enlarge, mixed) if total is None else torch.baddbmm(total, enlarge, mixed)
    assert total is not None
    rows = total.reshape(num * size[0], width * _TAPS, outputs)
    enlarge = to_columns.flatten(1).expand(len(rows), -1, -1)
    return torch.bmm(enlarge, rows).reshape(num, *size, outputs).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=64)
def _shifted_enlarging(
    old: int, new: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Enlarging by interpolation, then shifting for each tap, as matrices.

    Returns:
        (new, old, 3): how much each old value counts at each new place, as the taps before, at and after it see it.
    """
    with torch.autocast(device.type, enabled=False):
        ones = torch.eye(old, device=device)[None]
        weights = interpolate(ones, size=new, mode="linear", align_corners=align_corners)[0].T
    padded = pad(weights, (0, 0, 1, 1))
    return torch.stack([padded[tap : tap + new] for tap in range(_TAPS)], dim=-1).to(dtype)
