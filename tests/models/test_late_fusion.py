"""UPerHead that enlarges after its last convolution gives what UPerHead gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from landseg.contracts.dataset import ClassSchema
from landseg.models.build import build_model
from landseg.models.configs import load_config
from landseg.models.late_fusion import LateFusion, fuse_late

SCHEMA = ClassSchema(classes=tuple("abcde"), palette=((0, 0, 0),) * 5, bands=(1, 2, 3))


def make_model(name: str = "swin_tiny", **options: Any) -> Any:
    torch.manual_seed(0)
    model: Any = build_model(load_config(name, options), SCHEMA).eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer), alpha=0.5)
    return model


def logits(model: Any, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model._decode_head_forward_test(model.extract_feat(images), [{}] * len(images))
        return found


@pytest.mark.parametrize("size", [(64, 64), (100, 75), (32, 160), (33, 7)])
@pytest.mark.filterwarnings("ignore:When align_corners")
@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_the_head_that_enlarges_first(size: tuple[int, int], align_corners: bool) -> None:
    model = make_model(**{"model.decode_head.align_corners": align_corners})
    images = torch.randn(3, 3, *size)
    expected = logits(model, images)
    fuse_late(model, torch.float32)
    assert isinstance(model.decode_head._forward_feature, LateFusion)
    found = logits(model, images)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert float((found - expected).abs().max()) > 0  # it does compute in another order


def test_batch_norm_and_its_absence_are_both_right() -> None:
    model = make_model(**{"model.decode_head.norm_cfg": None})
    assert model.decode_head.fpn_bottleneck.conv.bias is not None
    images = torch.randn(1, 3, 64, 64)
    expected = logits(model, images)
    fuse_late(model, torch.float32)
    torch.testing.assert_close(logits(model, images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_without(dtype: torch.dtype) -> None:
    model, images = make_model(), torch.randn(2, 3, 64, 64)
    exact = logits(model, images)
    with torch.autocast("cpu", dtype=dtype):
        plain = logits(model, images)
        fuse_late(model, dtype)
        found = logits(model, images)
    assert float((found - exact).abs().mean()) < 1.5 * float((plain - exact).abs().mean()) + 1e-6


def test_other_heads_stay_as_they_are() -> None:
    model = make_model("resnest_tiny")
    fuse_late(model, torch.float32)
    assert "_forward_feature" not in vars(model.decode_head)
    padded = make_model()
    padded.decode_head.fpn_bottleneck.conv.padding_mode = "reflect"
    fuse_late(padded, torch.float32)
    assert "_forward_feature" not in vars(padded.decode_head)
