"""ResNets laid out channels last give what they give in mmsegmentation's layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from landseg.contracts.dataset import ClassSchema
from landseg.models.build import build_model
from landseg.models.channels_last import AfterPooling, DilatedDepthwise, SplitAttention, lay_out_channels_last
from landseg.models.configs import load_config

SCHEMA = ClassSchema(classes=tuple("abcde"), palette=((0, 0, 0),) * 5, bands=(1, 2, 3))
STOCK = (
    "resnest_tiny",
    "deeplabv3plus_r18-d8_512x1024_80k_cityscapes",
    "deeplabv3_r50b-d8_769x769_80k_cityscapes",
    "pspnet_r18-d8_512x1024_80k_cityscapes",
    "fcn_r18b-d8_512x1024_80k_cityscapes",
)


def make_model(name: str = "resnest_tiny", **options: Any) -> Any:
    """A model whose norms do something, so that one folded into the wrong convolution is seen."""
    torch.manual_seed(0)
    model: Any = build_model(load_config(name, options), SCHEMA).eval()
    for value in (*model.parameters(), *model.buffers()):
        if value.dim() == 1:
            value.data.add_(torch.rand_like(value), alpha=0.5)
    return model


def logits(model: Any, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model._decode_head_forward_test(model.extract_feat(images), [{}] * len(images))
        return found


def kinds(model: Any) -> set[type]:
    return {type(module) for part in (model.backbone, model.decode_head) for module in part.modules()}


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.filterwarnings("ignore:When align_corners")
def test_equals_mmsegs_layout(name: str) -> None:
    model = make_model(name)
    batches = [torch.randn(2, 3, *size) for size in ((65, 65), (96, 40), (15, 33))]
    expected = [logits(model, images) for images in batches]
    lay_out_channels_last(model, torch.float32)
    assert torch.nn.BatchNorm2d not in kinds(model)
    for images, before in zip(batches, expected, strict=True):
        found = logits(model, images)
        assert found.is_contiguous(memory_format=torch.channels_last)
        error, scale = float((found - before).abs().max()), float(before.std())
        assert 0 < error < 1e-3 * scale  # it does compute in another order


def test_the_slow_parts_are_replaced() -> None:
    model = make_model()
    lay_out_channels_last(model, torch.bfloat16)
    assert {SplitAttention, DilatedDepthwise, AfterPooling} <= kinds(model)
    for part in (model.backbone, model.decode_head):
        for module in part.modules():
            if isinstance(module, torch.nn.Conv2d):
                assert module.weight.dtype == torch.bfloat16
                assert module.weight.is_contiguous(memory_format=torch.channels_last)
                assert module.groups < module.in_channels or module.dilation == (1, 1)


@pytest.mark.parametrize(("radix", "groups"), [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_split_attention_of_any_radix(radix: int, groups: int) -> None:
    model = make_model(**{"model.backbone.radix": radix, "model.backbone.groups": groups})
    images = torch.randn(2, 3, 64, 48)
    expected = logits(model, images)
    lay_out_channels_last(model, torch.float32)
    torch.testing.assert_close(logits(model, images), expected, atol=1e-3 * float(expected.std()), rtol=0)


def test_bf16_is_as_close_as_without() -> None:
    model, images = make_model(), torch.randn(2, 3, 64, 64)
    exact = logits(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = logits(model, images)
        lay_out_channels_last(model, torch.bfloat16)
        found = logits(model, images)
    assert found.dtype == torch.bfloat16
    assert float((found - exact).abs().mean()) < 1.2 * float((plain - exact).abs().mean())


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (12, 12), (13, 30)])
@pytest.mark.parametrize("dilation", [2, 5, (3, 4), 36])
@pytest.mark.parametrize("bias", [False, True])
def test_a_dilated_depthwise_convolution_is_one_of_grids(
    size: tuple[int, int], dilation: int | tuple[int, int], bias: bool
) -> None:
    conv = torch.nn.Conv2d(4, 8, 3, padding=dilation, dilation=dilation, groups=4, bias=bias)
    images = torch.randn(2, 4, *size)
    torch.testing.assert_close(DilatedDepthwise(conv)(images), conv(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 4), (9, 6)])
@pytest.mark.parametrize("channels", [(3, 5), (40, 2048), (7, 2048)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_after_pooling_sees_edges(size: tuple[int, int], channels: tuple[int, int], bias: bool) -> None:
    constant, varying = channels
    conv = torch.nn.Conv2d(constant + varying, 6, 3, padding=1, bias=bias)
    maps = torch.cat([torch.randn(2, constant, 1, 1).expand(-1, -1, *size), torch.randn(2, varying, *size)], 1)
    torch.testing.assert_close(AfterPooling(conv, constant)(maps), conv(maps), atol=1e-5, rtol=1e-5)


def test_models_with_other_parts_stay_as_they_are() -> None:
    others = [make_model("swin_tiny")]
    for change in ("order", "affine", "kind"):
        model = make_model()
        shortcut = model.decode_head.c1_bottleneck
        if change == "order":
            shortcut.order = ("norm", "conv", "act")
        elif change == "affine":
            shortcut.bn = torch.nn.BatchNorm2d(shortcut.out_channels, affine=False)
        else:
            shortcut.conv = type("Subclass", (torch.nn.Conv2d,), {})(96, 32, 1)
        others.append(model)
    for model in others:
        before = [*model.named_parameters()]
        lay_out_channels_last(model, torch.bfloat16)
        after = [*model.named_parameters()]
        assert [name for name, _ in after] == [name for name, _ in before]
        assert all(one is other for (_, one), (_, other) in zip(after, before, strict=True))
        assert torch.nn.BatchNorm2d in kinds(model)
