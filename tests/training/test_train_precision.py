"""Number formats, clipping, accumulation, and what is done for speed."""

from __future__ import annotations

import copy
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import team_work  # noqa: F401  # registers FreezeNorms and KeepGradients
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_data import make_job, stage

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError
from landseg.models import precision
from landseg.models.build import build_model
from landseg.models.configs import load_config
from landseg.training.acceleration import Acceleration
from landseg.training.distributed.team import Team
from landseg.training.hooks import HookRunner
from landseg.training.job import TrainingJob
from landseg.training.session import merged_groups
from landseg.training.trainer import train
from landseg.training.update import Update, update_from_config

# isort: split
import mmcv
from mmcv.runner import GradientCumulativeOptimizerHook, OptimizerHook
from mmseg.core import build_optimizer

CPU = torch.device("cpu")
TYPES = ("cpu", "cuda")
FP16_HOOK = {"optimizer_config": {"type": "Fp16OptimizerHook", "loss_scale": 128.0}}
WITHOUT_DROPOUT = {"model.decode_head.dropout_ratio": 0.0, "model.auxiliary_head.dropout_ratio": 0.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stage(tmp_path_factory.mktemp("data"))


def _result(job: TrainingJob) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((job.scratch / job.result).read_text())
    return result


def _weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(Path(job.folder) / "model.pth", weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize("config", ["swin", "resnest", "swin_tiny", "resnest_tiny"])
def test_auto_follows_the_config_and_the_device(config: str) -> None:
    loaded = load_config(config)  # the recipe's: fp16 with a loss scale of 512
    assert precision.resolve("auto", loaded, on_gpu=True) == "fp16"
    assert precision.resolve("auto", loaded, on_gpu=False) == ("bf16" if precision.cpu_is_faster_in_bf16() else "fp32")
    plain = load_config(config, {"fp16": None})
    assert {precision.resolve("auto", plain, on_gpu=on_gpu) for on_gpu in (False, True)} == {"fp32"}
    for choice in ("fp32", "fp16", "bf16"):
        assert precision.resolve(choice, plain, on_gpu=True) == choice


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nvendor_id : AuthenticAMD\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f avx512_bf16 sse\n", False),
        ("vendor_id : GenuineIntel\nflags : avx512_bf16 amx_bf16 amx_tile\n", True),
        ("flags : fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags : fpu avx2 avx512f avx512bw\n", False),
        ("model name : bf16\nvendor_id : AuthenticAMD\n", False),
    ],
)
def test_units_for_bf16_are_read_from_the_kernel(text: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.cpu_is_faster_in_bf16(tmp_path / "cpuinfo") is expected
    assert not precision.cpu_is_faster_in_bf16(tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "scale", "fixed"),
    [
        ({}, 512.0, 512.0),
        (FP16_HOOK, 128.0, 128.0),
        ({"fp16.loss_scale": "dynamic"}, 65536.0, None),
        ({"fp16": {"loss_scale": {"init_scale": 16.0, "growth_interval": 7}, "_delete_": True}}, 16.0, None),
        ({"fp16": None}, 512.0, 512.0),
    ],
)
def test_the_loss_scale_is_the_configs(options: dict[str, Any], scale: float, fixed: float | None) -> None:
    scaler, fixed_scale = precision.build_scaler("fp16", load_config("swin_tiny", options), CPU)
    assert scaler.is_enabled()
    assert scaler.get_scale() == scale
    assert fixed_scale == fixed


@pytest.mark.parametrize("family", ["swin", "resnest"])
def test_losses_in_16_bits_stay_near_those_in_32(family: str, dataset: str, tmp_path: Path) -> None:
    options = dict(WITHOUT_DROPOUT)
    losses, results = {}, {}
    for name in ("fp32", "bf16", "fp16"):
        job = make_job(
            tmp_path / name, family, dataset, iterations=25, options=options, precision=name, eval_split=None
        )
        train(job, Team())
        results[name] = _result(job)
        losses[name] = results[name]["curve"]["loss"]
        assert {value.dtype for value in _weights(job).values()} <= {torch.float32, torch.int64}
    assert results["fp32"]["speed"] == {"channels_last": False, "fused_optimizer": False, "compiled": False}
    for choice in ("bf16", "fp16"):
        assert losses[choice] != losses["fp32"]
        assert losses[choice][0] == pytest.approx(losses["fp32"][0], rel=0.01)
        assert losses[choice] == pytest.approx(losses["fp32"], rel=0.15)
        assert losses[choice][-1] < losses[choice][0]
        assert results[choice]["speed"] == {"channels_last": False, "fused_optimizer": True, "compiled": False}


@pytest.mark.gpu
def test_fp16_on_a_gpu_keeps_the_recipes_loss_scale(dataset: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, "resnest", dataset, iterations=8, precision="fp16", checkpoint_interval=4)
    train(job, Team(device=torch.device("cuda", 0)))
    newest = max(Path(job.folder, "checkpoints").glob("*.pth"))
    assert torch.load(newest, weights_only=True)["resume"]["scaler"]["scale"] == 512.0
    assert _result(job)["speed"]["channels_last"]


def _gradients(root: Path, family: str, dataset: str, accumulate: int) -> dict[str, torch.Tensor]:
    """Of the first step, with 6 tiles; nothing depends on the batch (BatchNorm frozen)."""
    path = root / "gradients.pth"
    options: dict[str, Any] = {
        **WITHOUT_DROPOUT,
        "optimizer.lr": 0.0,
        "lr_config": None,
        "optimizer_config": {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": accumulate},
        "custom_hooks": [{"type": "FreezeNorms"}, {"type": "KeepGradients", "path": str(path)}],
    }
    sizes: dict[str, Any] = {"iterations": accumulate, "batch_per_gpu": 6 // accumulate}
    train(make_job(root, family, dataset, options=options, eval_split=None, **sizes), Team())
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return found


@pytest.mark.parametrize("family", ["swin", "resnest"])
def test_accumulated_gradients_are_those_of_a_larger_batch(family: str, dataset: str, tmp_path: Path) -> None:
    expected = _gradients(tmp_path / "one", family, dataset, 1)
    found = _gradients(tmp_path / "three", family, dataset, 3)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=1e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


def no() -> torch.Tensor:
    return torch.zeros(())


def nothing() -> None:
    pass


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

    def train_step(self) -> None:
        """mmcv's runner asks for one."""


def _updated(hook: Any, iterations: int) -> dict[str, torch.Tensor]:
    model = _Net()
    runner = HookRunner(
        model,
        torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        by_epoch=False,
        max_iters=iterations,
        iters_per_epoch=iterations,
        work_dir=".",
        meta={},
    )
    hook.before_run(runner)
    generator = torch.Generator().manual_seed(1)
    for iteration in range(iterations):
        runner.go_to(iteration)
        values = torch.rand(4, 8, generator=generator)
        runner.outputs = {"loss": (model.layers(values) - 3).square().mean(), "num_samples": 4}
        hook.after_train_iter(runner)
    return model.state_dict()


@pytest.mark.parametrize("clip", [None, {"max_norm": 0.05, "norm_type": 2}, {"max_norm": 0.01, "norm_type": "inf"}])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_updates_equal_mmcvs_to_the_bit(clip: dict[str, Any] | None, accumulate: int) -> None:
    options: dict[str, Any] = {"grad_clip": clip}
    stock: Any = OptimizerHook(**options)
    if accumulate > 1:
        options |= {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": accumulate}
        stock = GradientCumulativeOptimizerHook(grad_clip=clip, cumulative_iters=accumulate)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    ours = update_from_config(mmcv.Config({"optimizer_config": options}), scaler, None, no, nothing)
    expected, found = _updated(stock, 8), _updated(ours, 8)  # 8 = 3 + 3 + 2: the last step has fewer
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    unclipped = _updated(Update(scaler, None, None, accumulate, no, nothing), 8)
    assert (clip is None) == all(torch.equal(unclipped[name], value) for name, value in expected.items())


def test_clipping_sees_gradients_without_the_loss_scale() -> None:
    clip = {"max_norm": 0.05, "norm_type": 2}
    plain = Update(torch.amp.GradScaler("cpu", enabled=False), None, clip, 1, no, nothing)
    scaled = Update(torch.amp.GradScaler("cpu", init_scale=512.0), 512.0, clip, 1, no, nothing)
    expected, found = _updated(plain, 6), _updated(scaled, 6)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


def test_a_step_is_skipped_where_the_loss_is_not_finite_although_its_gradients_are() -> None:
    finite = iter([True, False, True])
    update = Update(
        torch.amp.GradScaler("cpu", init_scale=512.0),
        512.0,
        None,
        1,
        lambda: torch.tensor(float(not next(finite))),
        nothing,
    )
    model = _Net()
    options = {"by_epoch": False, "max_iters": 3, "iters_per_epoch": 3, "work_dir": ".", "meta": {}}
    runner = HookRunner(model, torch.optim.SGD(model.parameters(), lr=0.5), **options)
    changed, skipped = [], []
    for iteration in range(3):
        runner.go_to(iteration)
        before = copy.deepcopy(model.state_dict())
        runner.outputs = {"loss": (model.layers(torch.ones(4, 8)) - 3).square().mean(), "num_samples": 4}
        update.after_train_iter(runner)
        changed.append(any(not torch.equal(before[name], value) for name, value in model.state_dict().items()))
        skipped.append(bool(update.skipped))
    assert changed == [True, False, True]
    assert skipped == [False, True, False]


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_a_fused_optimizer_skips_such_a_step_before_anything_is_read(kind: str) -> None:
    model, order = _Net(), []
    options = {"by_epoch": False, "max_iters": 4, "iters_per_epoch": 4, "work_dir": ".", "meta": {}}
    optimizer: Any = getattr(torch.optim, kind)(model.parameters(), lr=0.1, fused=True)
    optimizer.register_step_post_hook(lambda *args: order.append("step"))
    flags = iter([0.0, 2.0, 0.0, 0.0])
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    update = Update(scaler, None, None, 1, lambda: torch.tensor(next(flags)), lambda: order.append("read"))
    runner = HookRunner(model, optimizer, **options)
    changed = []
    for iteration in range(4):
        runner.go_to(iteration)
        before = copy.deepcopy(model.state_dict())
        runner.outputs = {"loss": (model.layers(torch.ones(4, 8)) - 3).square().mean(), "num_samples": 4}
        update.after_train_iter(runner)
        changed.append(any(not torch.equal(before[name], value) for name, value in model.state_dict().items()))
    assert changed == [True, False, True, True]
    assert order == ["step", "read"] * 4
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_first_steps_that_are_skipped_leave_no_trace(kind: str) -> None:
    """torch's fused SGD would go on with a momentum that nothing was written to."""
    trained = []
    for overflowing in ([], [0, 1]):
        model = _Net()
        options = {"momentum": 0.9, "dampening": 0.5} if kind == "SGD" else {}
        optimizer: Any = getattr(torch.optim, kind)(model.parameters(), lr=0.1, fused=True, **options)
        numbers = range(2 if not overflowing else 0, 5)
        flags = iter([float(number in overflowing) for number in numbers])
        scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
        update = Update(scaler, 512.0, None, 1, lambda flags=flags: torch.tensor(next(flags)), nothing)  # type: ignore[misc]
        counts = {"by_epoch": False, "max_iters": 5, "iters_per_epoch": 5, "work_dir": ".", "meta": {}}
        runner = HookRunner(model, optimizer, **counts)
        for iteration in numbers:
            runner.go_to(iteration)
            runner.outputs = {"loss": (model.layers(torch.ones(4, 8)) - 3).square().mean(), "num_samples": 4}
            update.after_train_iter(runner)
            if iteration in overflowing:
                assert not optimizer.state
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][name], value) for name, value in trained[1].items())


class Order(TorchDispatchMode):
    """Notes when weights are updated, and when a value is read: on a GPU, a wait for all that it has been given."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name()
        if name.startswith("aten::_fused_"):
            self.events.append("step")
        elif name in {"aten::_local_scalar_dense", "aten::nonzero"}:
            self.events.append("read")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
@pytest.mark.parametrize("clip", [None, {"max_norm": 0.05, "norm_type": 2}])
@pytest.mark.parametrize(("enabled", "fixed_scale"), [(True, 512.0), (True, None), (False, None)])
def test_nothing_is_read_between_the_backward_pass_and_the_step(
    kind: str, clip: dict[str, Any] | None, enabled: bool, fixed_scale: float | None
) -> None:
    model = _Net()
    optimizer: Any = getattr(torch.optim, kind)(model.parameters(), lr=0.1, fused=True)
    options = {"by_epoch": False, "max_iters": 3, "iters_per_epoch": 3, "work_dir": ".", "meta": {}}
    runner = HookRunner(model, optimizer, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, enabled=enabled)
    with Order() as order:
        update = Update(scaler, fixed_scale, clip, 1, no, lambda: order.events.append("read"))
        for iteration in range(3):
            order.events.append("iteration")
            runner.go_to(iteration)
            runner.outputs = {"loss": (model.layers(torch.ones(4, 8)) - 3).square().mean(), "num_samples": 4}
            update.after_train_iter(runner)
    iterations = " ".join(order.events).split("iteration")[1:]
    assert len(iterations) == 3
    assert all(events.split()[:2] == ["step", "read"] for events in iterations), order.events
    assert ("grad_norm" in runner.log_buffer.val_history) == (clip is not None)


@pytest.mark.parametrize("scale", ["static", True, -1.0, {"no_such": 1}, {"growth_factor": 0.5}, [512.0]])
def test_a_loss_scale_of_another_kind_is_refused(scale: Any) -> None:
    with pytest.raises(ConfigError, match=r"fp16\.loss_scale: expected a number, 'dynamic' or a dictionary, found"):
        precision.build_scaler("fp16", mmcv.Config({"fp16": {"loss_scale": scale}}), CPU)


@pytest.mark.parametrize(
    ("kind", "in_bf16"), [("AdamW", True), ("SGD", True), ("RMSprop", False), ("NoSuchOptimizer", False)]
)
@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
def test_optimizers_are_fused_where_torch_has_them(kind: str, in_bf16: bool, device: torch.device) -> None:
    config = {"type": kind, "lr": 0.1}
    before = copy.deepcopy(config)
    speed = Acceleration.of("bf16", device, config, compiled=False)
    assert speed.optimizer(config) == {**({"fused": True} if in_bf16 else {}), **config}
    assert speed.optimizer({**config, "fused": False})["fused"] is False
    assert Acceleration.of("fp32", device, config, compiled=False).optimizer(config) == before == config


def test_adagrad_is_fused_on_a_cpu_alone() -> None:
    on = {name: Acceleration.of("fp16", torch.device(name), {"type": "Adagrad"}, compiled=False) for name in TYPES}
    assert {name: speed.fused_optimizer for name, speed in on.items()} == {"cpu": True, "cuda": False}


def test_groups_with_equal_options_are_one() -> None:
    config = load_config("swin_tiny")
    schema = ClassSchema(classes=("a", "b"), palette=((0, 0, 0), (1, 1, 1)), bands=(1, 2, 3))
    stock = build_optimizer(build_model(config, schema), config.optimizer)
    merged = merged_groups(stock.param_groups)
    assert len(stock.param_groups) > 20
    assert sorted(group["weight_decay"] for group in merged) == [0.0, 0.01]

    def options(groups: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
        return {id(p): {**group, "params": None} for group in groups for p in group["params"]}

    assert options(merged) == options(stock.param_groups)


def test_layouts() -> None:
    assert Acceleration.of("fp16", torch.device("cuda"), None, compiled=False).memory_format is torch.channels_last
    assert Acceleration.of("fp32", torch.device("cuda"), None, compiled=False).memory_format is torch.preserve_format
    assert Acceleration.of("bf16", CPU, None, compiled=False).memory_format is torch.preserve_format


def test_channels_last_computes_the_same(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What GPUs do, on the CPU: losses differ by rounding. Dropout draws in the order of memory, so it is off."""
    losses = {}
    for name in ("as they are", "channels last"):
        if name == "channels last":
            monkeypatch.setattr(Acceleration, "memory_format", torch.channels_last)
        # BatchNorm of two values, in the pooled branches, has their sign alone: that of the last digit, at times.
        options = {**WITHOUT_DROPOUT, "custom_hooks": [{"type": "FreezeNorms"}], "optimizer.lr": 0.01}
        job = make_job(tmp_path / name, "resnest", dataset, iterations=4, options=options, eval_split=None)
        train(job, Team())
        losses[name] = _result(job)["curve"]["loss"]
    assert losses["channels last"] == pytest.approx(losses["as they are"], rel=1e-3)


def test_without_a_compiler_training_goes_on_and_says_so(dataset: str, tmp_path: Path) -> None:
    code = (
        "import sys; from landseg.cli.console import begin; begin('normal');"
        "sys.path.insert(0, sys.argv[1]);"
        "from pathlib import Path; from training_data import make_job;"
        "from landseg.training.trainer import train; from landseg.training.distributed.team import Team;"
        "train(make_job(Path(sys.argv[2]), 'swin', sys.argv[3], iterations=2, compile=True, eval_split=None), Team())"
    )
    environment = {
        **os.environ,
        "PATH": "/none",
        "CXX": "/none/c++",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[1] / "support"), str(tmp_path), dataset],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "--compile" in line]
    assert len(lines) == 1
    assert "torch.compile does not work here, training continues without it: " in lines[0]
    result = json.loads((tmp_path / "scratch" / "result.json").read_text())
    assert result["speed"]["compiled"] is False


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_kernels_compute_the_same(dataset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    losses = {}
    with caplog.at_level(logging.WARNING, "landseg"):
        for compiled in (False, True):
            job = make_job(tmp_path / str(compiled), "swin", dataset, iterations=5, compile=compiled, eval_split=None)
            train(job, Team())
            losses[compiled] = _result(job)["curve"]["loss"]
    if not _result(job)["speed"]["compiled"]:
        pytest.skip(caplog.text)
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


def test_evaluation_in_bf16_leaves_the_model_that_trains_alone(dataset: str, tmp_path: Path) -> None:
    """Export computes UPerHead in another way; a model that goes on training must not."""
    weights = []
    for name, interval in (("once", 1000), ("often", 2)):
        options = {"evaluation.interval": interval}
        job = make_job(tmp_path / name, "swin", dataset, iterations=6, options=options, precision="bf16")
        train(job, Team(device=CPU))
        weights.append(_weights(job))
        assert len(_result(job)["evaluations"]) == 6 // interval + bool(6 % interval)
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())
