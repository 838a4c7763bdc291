"""ResNets laid out channels last, for inference in bf16 on a CPU: little is left but convolutions near its peak.

Where the channels of a pixel lie next to each other, oneDNN convolves in bf16 at nearly the processor's peak; in planes
it loses a seventh, and norms, sums and products between convolutions are passes over memory, in split attention with
strides. So weights are converted and laid out once, norms become part of them, and what is slow in this layout is
computed in another way: split attention, dilated depthwise convolutions, and the convolution after global pooling.

Only the rounding differs: inference in float32 does without it, and equals mmsegmentation to the last pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule, fuse_conv_bn
from mmseg.models import ASPPHead, DepthwiseSeparableASPPHead, FCNHead, PSPHead, ResNeSt, ResNet, ResNetV1c, ResNetV1d
from mmseg.models.backbones import resnest, resnet
from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.psp_head import PPM
from mmseg.models.decode_heads.sep_aspp_head import DepthwiseSeparableASPPModule
from mmseg.models.utils import ResLayer
from torch.nn.functional import pad

_KNOWN = {
    *(ResNet, ResNetV1c, ResNetV1d, ResNeSt, ResLayer),
    *(resnet.BasicBlock, resnet.Bottleneck, resnest.Bottleneck, resnest.SplitAttentionConv2d, resnest.RSoftmax),
    *(FCNHead, PSPHead, PPM, ASPPHead, ASPPModule, DepthwiseSeparableASPPHead, DepthwiseSeparableASPPModule),
    *(ConvModule, DepthwiseSeparableConvModule),
}
"""Parts that take any layout, and whose norms follow the convolutions in the order in which they are listed."""
_LOSSES = {"loss_decode", "sampler"}
"""What a decode head does not predict with."""
_EDGE = 3
"""Places of a 3 x 3 convolution's output that differ where its input is constant: first, inner, last."""
_PAGE = 2048
"""Channels of 2 bytes that fill a page. Pixels so far apart compete for the same lines of the cache."""
_OFF_PAGE = 32
"""More channels that convolving 2048 takes a seventh less time with than without."""


def lay_out_channels_last(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Rebuild a model of known parts; leave every other model unchanged.

    Args:
        model: the segmentor, in evaluation mode, on the CPU.
        dtype: the type that it computes in.
    """
    parts: list[Any] = [getattr(model, name, None) for name in ("backbone", "decode_head")]
    if hasattr(model, "neck") or not all(map(_is_known, parts)):
        return
    for part in parts:
        fuse_conv_bn(part)
        for module in list(part.modules()):
            for name, child in list(module.named_children()):
                if type(child) is resnest.SplitAttentionConv2d:
                    setattr(module, name, SplitAttention(child))
                elif _is_dilated_depthwise(child):
                    setattr(module, name, DilatedDepthwise(child))
            if isinstance(module, ASPPHead):
                module.bottleneck.conv = AfterPooling(module.bottleneck.conv, module.channels)
        for module in part.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _is_known(part: Any) -> bool:
    if type(part) is ConvModule and part.order != ("conv", "norm", "act"):
        return False
    if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and (part.weight is None or part.running_var is None):
        return False
    known = type(part) in _KNOWN or type(part).__module__.startswith("torch.nn.modules.")
    return known and all(_is_known(child) for name, child in part.named_children() if name not in _LOSSES)


def _is_dilated_depthwise(module: Any) -> bool:
    if type(module) is not torch.nn.Conv2d or module.groups != module.in_channels or max(module.dilation) == 1:
        return False
    shape = (module.kernel_size, module.stride, module.padding, module.padding_mode)
    return shape == ((3, 3), (1, 1), module.dilation, "zeros")


class SplitAttention(torch.nn.Module):
    """Takes the place of a SplitAttentionConv2d whose norms are folded; passes over its maps twice.

    Args:
        split: what it takes the place of, whose layers it uses.
    """

    def __init__(self, split: Any) -> None:
        super().__init__()
        self.radix = split.radix
        self.conv, self.fc1, self.fc2, self.rsoftmax = split.conv, split.fc1, split.fc2, split.rsoftmax
        self.norm0, self.norm1 = split.norm0, split.norm1

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) to (N, channels, H, W)."""
        values = self.norm0(self.conv(values)).relu_()
        num, channels = values.shape[:2]
        pooled = values.mean((2, 3), dtype=torch.float32).view(num, self.radix, channels // self.radix).sum(1)
        weights = self.fc2(self.norm1(self.fc1(pooled[:, :, None, None])).relu_())
        weights = self.rsoftmax(weights).to(values.dtype).reshape(num, channels, 1, 1)
        pairs = zip(weights.chunk(self.radix, 1), values.chunk(self.radix, 1), strict=True)
        total: torch.Tensor | None = None
        for weight, part in pairs:
            total = weight * part if total is None else torch.addcmul(total, weight, part)
        assert total is not None
        return total


class DilatedDepthwise(torch.nn.Module):
    """A dilated depthwise 3 x 3 convolution as one without dilation, for which oneDNN has a kernel in this layout.

    With a dilation of d, only pixels whose rows and columns are d apart meet: each such grid is an image of its own.

    Args:
        conv: what it takes the place of.
    """

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        self.dilation = conv.dilation
        self.conv = torch.nn.Conv2d(
            conv.in_channels, conv.out_channels, 3, padding=1, groups=conv.groups, bias=conv.bias is not None
        )
        self.conv.load_state_dict(conv.state_dict())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, O, H, W)."""
        (num, channels, height, width), (down, right) = values.shape, self.dilation
        pixels = pad(values.permute(0, 2, 3, 1), (0, 0, 0, -width % right, 0, -height % down))
        rows, columns = pixels.shape[1] // down, pixels.shape[2] // right
        grids = pixels.view(num, rows, down, columns, right, channels).permute(0, 2, 4, 1, 3, 5)
        found: torch.Tensor = self.conv(grids.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2))
        grids = found.permute(0, 2, 3, 1).reshape(num, down, right, rows, columns, -1)
        pixels = grids.permute(0, 3, 1, 4, 2, 5).reshape(num, rows * down, columns * right, -1)
        return pixels[:, :height, :width].permute(0, 3, 1, 2)


class AfterPooling(torch.nn.Module):
    """A 3 x 3 convolution with zero padding of maps whose first channels are the same at every pixel.

    What becomes of these differs at the edges alone, so it is computed for one inner pixel and those around it.

    Args:
        conv: what it takes the place of.
        num_constant: how many channels are the same at every pixel.
    """

    def __init__(self, conv: torch.nn.Conv2d, num_constant: int) -> None:
        super().__init__()
        if num_constant > _OFF_PAGE and (conv.in_channels - num_constant) % _PAGE == 0:
            num_constant -= _OFF_PAGE
        weights = torch.split(conv.weight.detach(), [num_constant, conv.in_channels - num_constant], 1)
        self.constant, self.varying = (
            torch.nn.Conv2d(weight.shape[1], conv.out_channels, 3, padding=1, bias=bias is not None)
            for weight, bias in zip(weights, (None, conv.bias), strict=True)
        )
        for part, weight in zip((self.constant, self.varying), weights, strict=True):
            part.weight = torch.nn.Parameter(weight)
        self.varying.bias = conv.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, O, H, W)."""
        split = self.constant.in_channels
        edges: torch.Tensor = self.constant(values[:, :split, :_EDGE, :_EDGE])
        total: torch.Tensor = self.varying(values[:, split:])
        rows, columns = (_places(size, values.device) for size in values.shape[2:])
        return total.add_(edges[:, :, rows][:, :, :, columns])


def _places(size: int, device: torch.device) -> torch.Tensor:
    """For each place of an axis, the one of the first three that is like it: the first, an inner one or the last."""
    places = torch.arange(size, device=device)
    return places if size <= _EDGE else (places > 0).long() + (places == size - 1)
