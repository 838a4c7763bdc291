"""Batches are what the tiles, the order and the draws make them, however many processes fill them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from mmseg.datasets.samplers import DistributedSampler
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from training_data import stage, write_raw

from landseg.cli.main import main
from landseg.contracts.errors import DataError
from landseg.dataset.reader import StagedDataset
from landseg.training.input.batches import BatchOrder, TileBatches
from landseg.training.input.compiling import build_pipeline
from landseg.training.input.config_pipeline import IMAGENET_MEAN, IMAGENET_STD
from landseg.training.input.loader import training_batches
from landseg.training.input.transforms import seeded

STEPS: tuple[dict[str, Any], ...] = (
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PhotoMetricDistortion"},
    {"type": "Normalize"},
)
RESIZED = ({"type": "Resize", "img_scale": (32, 32), "ratio_range": (0.5, 2.0)}, *STEPS)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> StagedDataset:
    root = tmp_path_factory.mktemp("data")
    return StagedDataset.open(stage(root), root / "cache")


@pytest.mark.parametrize(
    ("steps", "batch_size"),
    [(STEPS, 3), ((*STEPS, {"type": "Pad", "size": (40, 48)}), 3), (RESIZED, 1)],
    ids=["own size", "padded", "each batch of another size"],
)
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_loader_processes_change_nothing(
    steps: tuple[dict[str, Any], ...], batch_size: int, num_workers: int, staged: StagedDataset
) -> None:
    dataset = TileBatches(staged, ("train",), build_pipeline(steps, IMAGENET_MEAN, IMAGENET_STD), seed=5)
    schedule = BatchOrder(len(dataset), batch_size, 1, 0, seed=5)
    stop = 5 * schedule.iters_per_epoch  # several times more than there are slots
    batches = training_batches(dataset, schedule, 2, stop, num_workers=num_workers, pin_memory=False)
    count = 0
    for found, keys in zip(batches, schedule.batches(2, stop), strict=True):
        expected = dataset.read(keys)
        assert torch.equal(found["img"], expected["img"])
        assert torch.equal(found["gt_semantic_seg"], expected["gt_semantic_seg"])
        assert found["img_metas"] == expected["img_metas"]
        assert found["img"].is_contiguous()
        count += 1
    assert count == stop - 2


def test_sizes_that_no_batch_can_hold_are_refused_before_training(staged: StagedDataset) -> None:
    def sized(*steps: dict[str, Any]) -> TileBatches:
        return TileBatches(
            staged, ("train", "val"), build_pipeline((*STEPS, *steps), IMAGENET_MEAN, IMAGENET_STD), seed=5
        )

    mixed = sized()  # val's tiles have two sizes
    mixed.check_sizes(batch_size=1)
    with pytest.raises(DataError, match=r"tile val01: expected samples of one size in a batch, 32x32 px .* 40x32"):
        mixed.check_sizes(batch_size=2)
    sized({"type": "Pad", "size": (40, 32)}).check_sizes(batch_size=2)
    with pytest.raises(DataError, match=r"tile val01: expected at most 36x36 px.*found 40x32"):
        sized({"type": "Pad", "size": (36, 36)}).check_sizes(batch_size=1)


def test_two_processes_share_the_batches_of_one(staged: StagedDataset) -> None:
    whole = list(BatchOrder(12, 4, 1, 0, seed=1).batches(0, 7))
    parts = [list(BatchOrder(12, 2, 2, rank, seed=1).batches(0, 7)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(first + second)
    assert sorted(index for batch in whole[:3] for _, index in batch) == list(range(12))


@pytest.mark.parametrize("rare", [False, True])
@pytest.mark.parametrize(
    ("num_tiles", "batch_size", "world_size"), [(15, 4, 2), (13, 2, 4), (9, 1, 4), (8, 4, 2), (2, 1, 5)]
)
def test_an_epoch_is_as_long_as_stocks(num_tiles: int, batch_size: int, world_size: int, rare: bool) -> None:
    data = cast("Dataset[int]", range(num_tiles))
    expected = []
    if num_tiles * 2 >= world_size:  # mmseg's sampler asserts it
        for rank in range(world_size):
            sampler = DistributedSampler(data, world_size, rank, seed=0)  # as mmseg.apis.train_segmentor builds it
            expected.append(len(DataLoader(data, batch_size, sampler=sampler, drop_last=True)))
    probabilities = np.full(num_tiles, 1 / num_tiles) if rare else None
    orders = [BatchOrder(num_tiles, batch_size, world_size, rank, 0, probabilities) for rank in range(world_size)]
    assert {order.iters_per_epoch for order in orders} == set(expected or [1])
    epoch = [[*order.batches(0, order.iters_per_epoch)] for order in orders]
    drawn = [key for batches in epoch for batch in batches for key in batch]
    assert len(drawn) == orders[0].iters_per_epoch * batch_size * world_size
    assert len({*drawn}) == len(drawn), "a tile that is drawn again is transformed differently"
    if not rare and len(drawn) >= num_tiles:
        assert {index for _, index in drawn} == {*range(num_tiles)}


def test_a_tile_drawn_any_number_of_times_has_draws_of_its_own() -> None:
    draws = []
    for number in (7, 7 + (5000 << 20), 7 + (1 << 52)):
        with seeded(1, number, 3):
            draws.append((np.random.rand(), random.random(), float(torch.rand(()))))
    assert len({*draws}) == 3


def test_ignored_pixels_are_what_the_loss_ignores(tmp_path: Path) -> None:
    raw, out = write_raw(tmp_path / "raw", train=1, val=0), tmp_path / "out"
    with (raw / "dataset.yaml").open("a") as file:
        file.write("ignore_index: 7\n")
    path = raw / "train" / "labels" / "train00.png"
    label = np.array(Image.open(path))
    label[:9] = 7
    Image.fromarray(label).save(path)
    arguments = ["--source", str(raw), "--storage-uri", str(tmp_path / "store"), "--output-dir", str(out)]
    assert main(["stage-data", *arguments]) == 0
    staged = StagedDataset.open(str(out / "dataset.json"), tmp_path)
    dataset = TileBatches(staged, ("train",), build_pipeline(STEPS[2:], IMAGENET_MEAN, IMAGENET_STD), seed=0)
    found = dataset.read([(0, 0)])["gt_semantic_seg"][0, 0].numpy()
    np.testing.assert_array_equal(found, np.where(label == 7, 255, label))
