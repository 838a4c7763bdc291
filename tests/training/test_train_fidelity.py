"""In fp32 on the CPU, with the same seed and batches, the losses are those of mmseg's own trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_data import make_job, stage

from landseg.dataset.reader import StagedDataset
from landseg.models.build import build_model, parse_config
from landseg.training.checkpoint.random_state import seed_everything
from landseg.training.distributed.team import Team
from landseg.training.input.batches import BatchOrder, TileBatches
from landseg.training.input.config_pipeline import find_pipeline
from landseg.training.job import TrainingJob
from landseg.training.trainer import train

# isort: split
from mmcv.parallel import DataContainer
from mmcv.runner import HOOKS, Hook
from mmseg.apis import train_segmentor

ITERATIONS = 20
BATCH = 2
recorded: list[dict[str, float]] = []


@HOOKS.register_module()
class RecordLosses(Hook):  # type: ignore[misc]
    def before_train_iter(self, runner: Any) -> None:
        if runner.iter == 0:
            torch.manual_seed(0)  # its DataLoader has drawn a number; dropout shall start from the same state

    def after_train_iter(self, runner: Any) -> None:
        recorded.append({**runner.outputs["log_vars"], "lr": runner.current_lr()[0]})


class OurTiles(torch.utils.data.Dataset[Any]):
    """The tiles of our batches, one by one and in their order, as mmseg's datasets give them."""

    CLASSES = PALETTE = None

    def __init__(self, job: TrainingJob) -> None:
        staged = StagedDataset.open(job.dataset, job.cache)
        pipeline = find_pipeline(parse_config(job.config, "config"), staged, job.splits)
        dataset = TileBatches(staged, job.splits, pipeline, job.seed)
        self.samples = []
        for keys in BatchOrder(len(dataset), BATCH, 1, 0, job.seed).batches(0, ITERATIONS):
            batch = dataset.read(keys)
            self.samples += [
                {
                    "img": DataContainer(batch["img"][i], stack=True),
                    "gt_semantic_seg": DataContainer(batch["gt_semantic_seg"][i].long(), stack=True),
                    "img_metas": DataContainer(batch["img_metas"][i], cpu_only=True),
                }
                for i in range(BATCH)
            ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def _stock(job: TrainingJob, work_dir: Path) -> list[dict[str, float]]:
    config = parse_config(job.config, "config")
    config.merge_from_dict(
        {
            "gpu_ids": [0],
            "device": "cpu",
            "seed": job.seed,
            "work_dir": str(work_dir),
            "custom_hooks": [{"type": "RecordLosses"}],
            "data.workers_per_gpu": 0,
            "data.train_dataloader": {"shuffle": False, "persistent_workers": False},
            "log_level": "ERROR",
            "log_config.hooks": [],
        }
    )
    seed_everything(job.seed, False, False)
    model = build_model(config, StagedDataset.open(job.dataset, job.cache).schema)
    model.init_weights()  # type: ignore[operator]
    recorded.clear()
    train_segmentor(model, OurTiles(job), config, validate=False, meta={})
    return list(recorded)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("swin", {"lr_config.warmup_iters": 5, "optimizer_config": {"grad_clip": {"max_norm": 1.0, "norm_type": 2}}}),
        ("resnest", {}),
    ],
)
def test_loss_curve_of_stock_mmseg(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    job = make_job(tmp_path, family, stage(tmp_path), iterations=ITERATIONS, options=options, eval_split=None)
    expected = _stock(job, tmp_path / "stock")
    train(job, Team())
    curve = json.loads((job.scratch / job.result).read_text())["curve"]
    assert len(expected) == ITERATIONS
    for name in ("loss", "decode.loss_ce", "aux.loss_ce", "decode.acc_seg", "lr"):
        assert curve[name] == pytest.approx([values[name] for values in expected], abs=1e-5), name
    assert curve["loss"][-1] < curve["loss"][0]
