"""Several processes and their groups, as far as one card shows them.

NCCL takes one process per card. gloo takes tensors of a GPU, SyncBN's too, so two processes that share a card train
together over gloo here, and a group of NCCL has a single process.
"""

from __future__ import annotations

import json
import multiprocessing
from typing import Any

import torch
import torch.distributed as dist
from mmcv.runner import HOOKS, Hook
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu.plan import Plan
from benchmarks.gpu.training import make_job
from benchmarks.turns import write_config
from landseg.models.precision import autocast
from landseg.training.distributed import processes
from landseg.training.distributed.team import Team
from landseg.training.input.loader import training_batches
from landseg.training.job import TrainingJob
from landseg.training.session import Session
from landseg.training.trainer import train

ITERATIONS = 6
TOLERANCE = 2e-3
"""Relative, of a loss in fp32 after a few updates."""
_LIMIT_S = 50.0


@HOOKS.register_module()
class FreezeNormsWithoutSync(Hook):  # type: ignore[misc]
    """BatchNorm sees the tiles of one process alone where it cannot be SyncBN: on a CPU."""

    def before_train_iter(self, runner: Any) -> None:
        """Use the running statistics."""
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
                module.eval()


def two_processes(plan: Plan) -> dict[str, Any]:
    """Two processes with 4 tiles each on one device, over gloo, against one with 8: the losses of a few updates."""
    job_of = {size: _job(plan, f"team-of-{size}", 8 // size) for size in (1, 2)}
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_member, args=(plan, job, size, rank))
        for size, job in job_of.items()
        for rank in range(size)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(_LIMIT_S if plan.on_gpu else 5 * _LIMIT_S)
        statuses = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(statuses):
        raise RuntimeError(f"the processes ended with {statuses}; None is one that hung")
    losses = {size: json.loads((job.scratch / job.result).read_text())["curve"]["loss"] for size, job in job_of.items()}
    one, two = losses.values()
    largest = max(abs(a - b) / abs(a) for a, b in zip(one, two, strict=True))
    synced = int((job_of[2].scratch / "synced").read_text())
    if plan.on_gpu and not synced:
        raise RuntimeError("no SyncBN in a process of a group with GPUs")
    if largest > TOLERANCE:
        raise RuntimeError(f"the losses differ by {largest:.2g}: {losses}")
    return {"losses": one, "largest_difference": largest, "sync_bn_layers": synced}


def _job(plan: Plan, name: str, batch: int) -> TrainingJob:
    overrides: dict[str, Any] = {
        "runner": {"type": "IterBasedRunner", "max_iters": ITERATIONS, "_delete_": True},
        "checkpoint_config": {"by_epoch": False, "interval": 1000},
        "data": {"samples_per_gpu": batch},
        "model": {"decode_head": {"dropout_ratio": 0.0}, "auxiliary_head": {"dropout_ratio": 0.0}},
        "lr_config": {"warmup_iters": 2},
        "optimizer": {"lr": 1e-4},
        "log_config": {"interval": 1},
        "cudnn_benchmark": False,
        # Each process has a BatchNorm of its own on a CPU.
        "custom_hooks": [] if plan.on_gpu else [{"type": "FreezeNormsWithoutSync"}],
    }
    config = write_config(plan.folder / "configs" / f"{name}.py", "swin_tiny", overrides)
    return make_job(plan, plan.dataset("small"), config, name, "fp32")


def _member(plan: Plan, job: TrainingJob, size: int, rank: int) -> None:
    torch.set_num_threads(1)
    if plan.on_gpu:
        torch.cuda.set_device(plan.device)
    backend = "cpu:gloo,cuda:gloo" if plan.on_gpu else "gloo"
    store = f"file://{(job.scratch / 'store').resolve()}"
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=size)
    objects = dist.new_group(backend="gloo")
    assert isinstance(objects, dist.ProcessGroup)
    if size == 2 and rank == 0:
        built = Session.build(job, Team(0, 1, plan.device)).model
        (job.scratch / "synced").write_text(str(sum(isinstance(one, SyncBatchNorm) for one in built.modules())))
    train(job, Team(rank, size, plan.device, objects))
    dist.destroy_process_group()


def one_process_group(plan: Plan) -> dict[str, Any]:
    """The group that landseg makes, with one process: gradients over NCCL, objects over gloo."""
    meeting = plan.folder / "nccl"
    meeting.mkdir(parents=True, exist_ok=True)
    (meeting / "store").unlink(missing_ok=True)
    job = _job(plan, "group-of-one", 4)
    with processes.joined(meeting.resolve(), 0, 1, plan.device) as objects:
        session = Session.build(job, Team(device=plan.device, objects=objects))
        wrapped = DistributedDataParallel(session.model, device_ids=[plan.device.index] if plan.on_gpu else None)
        batches = training_batches(session.tiles, session.order, 0, 2, num_workers=0, pin_memory=False)
        losses = []
        for batch in batches:
            batch["img"] = batch["img"].to(plan.device)
            batch["gt_semantic_seg"] = batch["gt_semantic_seg"].to(plan.device).long()
            session.runner.optimizer.zero_grad()
            with autocast("bf16", plan.device):
                total: Any = sum(value.mean() for name, value in wrapped(**batch).items() if "loss" in name)
            total.backward()
            session.runner.optimizer.step()
            losses.append(float(total))
        summed = torch.ones(8, device=plan.device)
        dist.all_reduce(summed)
        sent: list[Any] = [{"iteration": 1}]
        dist.broadcast_object_list(sent, src=0, group=objects)
        gathered: list[Any] = [None]
        dist.all_gather_object(gathered, "value", group=objects)
        backends = {"all": str(dist.get_backend()), "objects": str(dist.get_backend(objects))}
        synced = sum(isinstance(one, SyncBatchNorm) for one in session.model.modules())
    assert summed.tolist() == [1.0] * 8 and sent == [{"iteration": 1}] and gathered == ["value"]
    if not all(loss == loss for loss in losses):
        raise RuntimeError(f"expected finite losses, found {losses}")
    return {"backends": backends, "sync_bn_layers": synced, "losses": losses}
