"""What a training sets so that results repeat, and what --deterministic adds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from landseg.cli.main import main
from landseg.contracts.dataset import ClassSchema
from landseg.models.build import build_model
from landseg.models.configs import load_config
from landseg.training.checkpoint.random_state import seed_everything
from landseg.training.deterministic import RepeatablePool, make_repeatable
from landseg.training.provenance import environment


@pytest.mark.parametrize(("height", "width"), [(4, 4), (7, 5), (16, 16), (2, 3)])
@pytest.mark.parametrize("size", [(2, 2), (3, 3), (6, 6), (1, 4)])
def test_the_pool_is_torchs(size: tuple[int, int], height: int, width: int) -> None:
    values = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = torch.nn.functional.adaptive_avg_pool2d(values, size)
    found = RepeatablePool(size)(values)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((expected * weights).sum(), values, retain_graph=True)
    (ours,) = torch.autograd.grad((found * weights).sum(), values)
    torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-6)


def test_the_models_pools_that_add_in_varying_order() -> None:
    schema = ClassSchema(classes=("a", "b"), palette=((0, 0, 0), (1, 1, 1)), bands=(1, 2, 3))
    swin, resnest = (build_model(load_config(f"{name}_tiny"), schema) for name in ("swin", "resnest"))
    keys = set(swin.state_dict())
    assert make_repeatable(swin) == 3  # UPerHead's pools of 2, 3 and 6; that of 1 is a mean
    assert make_repeatable(resnest) == 0
    assert set(swin.state_dict()) == keys
    assert sum(isinstance(module, RepeatablePool) for module in swin.modules()) == 3


def test_the_flag_sets_cublas_workspace_and_the_result_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    arguments = ["train", "--name=swin", "--config=swin", "--run-id=r", f"--storage-uri={tmp_path / 'store'}"]
    arguments.append(f"--dataset={tmp_path / 'none.json'}")
    assert "CUBLAS_WORKSPACE_CONFIG" not in environment(torch.device("cpu"), 1)
    assert main([*arguments, "--deterministic"]) == 2  # there is no dataset
    assert environment(torch.device("cpu"), 1)["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize("deterministic", [False, True])
def test_fp32_is_no_tf32(deterministic: bool) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = True
    try:
        seed_everything(0, deterministic, cudnn_benchmark=True)
        assert not cudnn.allow_tf32
        assert not matmul.allow_tf32
        assert cudnn.benchmark is not deterministic
        assert torch.are_deterministic_algorithms_enabled() is deterministic
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before
