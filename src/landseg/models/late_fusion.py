"""UPerHead's last convolution, applied to maps before they are enlarged: the same values for a third of the arithmetic.

The head enlarges the maps of its coarse levels to the finest one's size and convolves them all, which is half of the
work of a whole Swin-Base model. But a convolution's taps mix channels at one pixel, and enlarging mixes pixels within
one channel, so the order can be swapped: each tap is applied at a level's own size, its result enlarged and shifted.
Bilinear enlarging is separable into rows and columns, so it takes two matrix products per level.

Only the rounding differs: inference in float32 does without it, and equals mmsegmentation to the last pixel.
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
    """Make a model whose decode head is an UPerHead enlarge after convolving; leave every other model unchanged.

    Args:
        model: the segmentor, in evaluation mode, on its device.
        dtype: the type that it computes in.
    """
    head: Any = getattr(model, "decode_head", None)
    if type(head) is not UPerHead or not _is_plain(head.fpn_bottleneck):
        return
    head.to(memory_format=torch.channels_last)
    if len(head.in_channels) * head.channels != head.fpn_bottleneck.conv.in_channels:
        return
    head._forward_feature = LateFusion(head, dtype)


def _is_plain(module: Any) -> bool:
    """Whether a ConvModule is a 3 x 3 convolution with zero padding, then norm, then activation."""
    conv = module.conv
    shape = (conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups, conv.padding_mode)
    return (type(conv), module.order, shape) == (
        torch.nn.Conv2d,
        ("conv", "norm", "act"),
        ((_TAPS, _TAPS), (1, 1), (1, 1), (1, 1), 1, "zeros"),
    )


class LateFusion:
    """Takes the place of a head's `UPerHead._forward_feature`.

    Owns the last convolution's weights in the form used here, and the matrices that enlarge, those of the latest sizes.

    Args:
        head: the head, on its device, with a plain last convolution (`fpn_bottleneck`).
        dtype: the type that the model computes in.
    """

    def __init__(self, head: Any, dtype: torch.dtype) -> None:
        self._head = head
        finest, *coarser = head.fpn_bottleneck.conv.weight.detach().to(dtype).split(head.channels, dim=1)
        self._finest = finest.contiguous(memory_format=torch.channels_last)
        self._coarser = [_rows_of_taps(weight) for weight in coarser]
        self._shifted_enlarging = functools.lru_cache(maxsize=64)(_shifted_enlarging)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Fuse the backbone's maps.

        Args:
            inputs: the backbone's maps, each (N, C, h, w), fine to coarse.

        Returns:
            (N, channels, H, W) at the finest map's size, as `UPerHead._forward_feature` returns it.
        """
        head = self._head
        inputs = head._transform_inputs(inputs)
        maps = [lateral(one) for lateral, one in zip(head.lateral_convs, inputs, strict=False)]
        maps.append(head.psp_forward(inputs))
        for fine in range(len(maps) - 2, -1, -1):
            size = maps[fine].shape[2:]
            maps[fine] = maps[fine] + resize(
                maps[fine + 1], size=size, mode="bilinear", align_corners=head.align_corners
            )
        maps = [conv(one) for conv, one in zip(head.fpn_convs, maps, strict=False)] + maps[-1:]
        size = maps[0].shape[2:]
        last = head.fpn_bottleneck
        total = conv2d(maps[0].to(self._finest.dtype), self._finest, last.conv.bias, padding=1)
        for one, taps in zip(maps[1:], self._coarser, strict=True):
            total = total + self._convolve_enlarged(one.to(self._finest.dtype), taps, size)
        if last.with_norm:
            total = last.norm(total)
        activated: torch.Tensor = last.activate(total) if last.with_activation else total
        return activated

    def _convolve_enlarged(self, values: torch.Tensor, taps: list[torch.Tensor], size: torch.Size) -> torch.Tensor:
        """A 3 x 3 convolution with zero padding of a map enlarged to `size`.

        Args:
            values: (N, C, h, w).
            taps: as :func:`_rows_of_taps` returns them.
            size: (H, W).

        Returns:
            (N, O, H, W).
        """
        (num, _, height, width), outputs = values.shape, taps[0].shape[0] // _TAPS
        to_rows, to_columns = (
            self._shifted_enlarging(old, new, self._head.align_corners, values.dtype, values.device)
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


def _rows_of_taps(weight: torch.Tensor) -> list[torch.Tensor]:
    """(O, C, 3, 3) as one 1 x 1 convolution for each row of taps, with 3 x O outputs."""
    rows = weight.permute(2, 3, 0, 1).flatten(1, 2)
    return [row[:, :, None, None].contiguous(memory_format=torch.channels_last) for row in rows]


def _shifted_enlarging(
    old: int, new: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Enlarging by interpolation, then shifting for each tap, as matrices.

    Returns:
        (new, old, 3): the weight of each old value at each new place, as the taps before, at and after it see it.
    """
    with torch.autocast(device.type, enabled=False):
        ones = torch.eye(old, device=device)[None]
        weights = interpolate(ones, size=new, mode="linear", align_corners=align_corners)[0].T
    padded = pad(weights, (0, 0, 1, 1))
    return torch.stack([padded[tap : tap + new] for tap in range(_TAPS)], dim=-1).to(dtype)
