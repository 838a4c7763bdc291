"""Mosaics: the samples that mmsegmentation's MultiImageMixDataset gives, whichever process makes them, and when."""

from __future__ import annotations

from typing import Any

import mmcv
import numpy as np
import pytest
from mmseg.datasets.dataset_wrappers import MultiImageMixDataset
from training_data import stage

from landseg.contracts.errors import ConfigError
from landseg.dataset.reader import StagedDataset
from landseg.training.input.augment import PIPELINES
from landseg.training.input.batches import TileBatches
from landseg.training.input.compiling import build_pipeline
from landseg.training.input.config_pipeline import IMAGENET_MEAN, IMAGENET_STD
from landseg.training.input.mixing import BandMosaic, training_steps
from landseg.training.input.pipeline import Pipeline, target_size
from landseg.training.input.transforms import seeded

ALONE: list[dict[str, Any]] = [
    {"type": "Resize", "img_scale": (40, 32), "ratio_range": (0.8, 1.5)},
    {"type": "RandomCrop", "crop_size": (24, 24)},
]
NORMALIZE: dict[str, Any] = {"type": "Normalize", "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "to_rgb": True}
MIXED: list[dict[str, Any]] = [
    {"type": "RandomMosaic", "prob": 0.8, "img_scale": (32, 40), "pad_val": 7},
    {"type": "RandomCrop", "crop_size": (48, 48)},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PhotoMetricDistortion"},
    NORMALIZE,
]


class Tiles:
    """Random tiles, as landseg reads them, and as a dataset of mmseg's that runs `ALONE`."""

    CLASSES, PALETTE = ("a",), ((0, 0, 0),)

    def __init__(self, num: int = 5, bands: int = 3) -> None:
        rng = np.random.default_rng(1)
        self.tiles = [
            (rng.integers(0, 256, (30, 36, bands), np.uint8), rng.integers(0, 9, (30, 36), np.uint8))
            for _ in range(num)
        ]

    def __len__(self) -> int:
        return len(self.tiles)

    def decoded(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return self.tiles[number]

    def __getitem__(self, number: int) -> dict[str, Any]:
        image, label = self.tiles[number]
        results: dict[str, Any] = {"img": image[..., ::-1].copy(), "gt_semantic_seg": label.copy()}
        results |= {"seg_fields": ["gt_semantic_seg"], "img_shape": image.shape, "scale_factor": 1.0}
        for step in ALONE:
            results = PIPELINES.build(dict(step))(results)
        return results


def _sample(pipeline: Pipeline, tiles: Tiles, number: int) -> tuple[np.ndarray, np.ndarray]:
    image, label, pending = pipeline.augment(*tiles.decoded(number), tiles)
    size = target_size(pipeline, None, label.shape, "a")
    planes, target = np.empty((image.shape[2], *size), np.float32), np.empty(size, np.uint8)
    pipeline.write(image, label, pending, planes, target)
    return planes, target


@pytest.mark.parametrize("skipped", [None, ["RandomMosaic"]], ids=["mosaic", "skipped"])
def test_equal_to_mmseg_bit_for_bit_for_the_same_draws(skipped: list[str] | None) -> None:
    tiles = Tiles()
    mixed = {"type": "MultiImageMixDataset", "pipeline": MIXED, "skip_type_keys": skipped}
    wrapped = {**mixed, "dataset": {"type": "RepeatDataset", "times": 2, "dataset": {"pipeline": ALONE}}}
    config = mmcv.Config({"data": {"train": wrapped}})
    alone, rest = training_steps(config, ())
    pipeline = build_pipeline(alone, IMAGENET_MEAN, IMAGENET_STD, rest)
    stock = MultiImageMixDataset(tiles, MIXED, skipped)
    for draw in range(12):
        with seeded(3, draw, 1):
            planes, target = _sample(pipeline, tiles, 1)
        with seeded(3, draw, 1):
            expected = stock[1]
        np.testing.assert_array_equal(planes, expected["img"].transpose(2, 0, 1))
        np.testing.assert_array_equal(target, expected["gt_semantic_seg"])


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_every_band_of_a_mosaic_has_the_same_centre(bands: int) -> None:
    """mmseg's own class takes three bands only."""
    tiles, step = Tiles(bands=bands), BandMosaic(1.0, [32, 40])
    results: list[dict[str, Any]] = [
        {"img": image, "gt_semantic_seg": label, "seg_fields": ["gt_semantic_seg"]} for image, label in tiles.tiles
    ]
    np.random.seed(5)
    found = step({**results[0], "mix_results": results[1:4]})
    np.random.seed(5)
    for part in results:
        part["img"] = np.repeat(part["img"][..., -1:], 3, axis=2)
    three = step({**results[0], "mix_results": results[1:4]})
    assert found["img"].shape == (64, 80, bands)
    np.testing.assert_array_equal(found["img"][..., -1], three["img"][..., 0])
    np.testing.assert_array_equal(found["gt_semantic_seg"], three["gt_semantic_seg"])


def test_a_batch_of_mosaics_repeats_and_mixes_other_tiles(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("data")
    steps = [{"type": "RandomMosaic", "prob": 1.0, "img_scale": (32, 32)}, {"type": "Normalize"}]

    def batches() -> TileBatches:
        staged = StagedDataset.open(stage(root), root / "cache")
        return TileBatches(staged, ("train",), build_pipeline([], IMAGENET_MEAN, IMAGENET_STD, steps), seed=5)

    first, again = batches(), batches()
    first.read([(0, 3), (0, 1)])  # what was drawn before makes no difference
    found, expected = first.read([(1, 0), (1, 2)]), again.read([(1, 0), (1, 2)])
    assert found["img"].shape == (2, 3, 64, 64)
    assert found["img"].equal(expected["img"])
    assert not found["img"].equal(again.read([(2, 0), (2, 2)])["img"])


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ConfigError, match="RandomMosaic needs other tiles, which only a MultiImageMixDataset has"):
        build_pipeline(MIXED, IMAGENET_MEAN, IMAGENET_STD)
    twice: dict[str, Any] = {"type": "MultiImageMixDataset", "pipeline": MIXED}
    twice = {**twice, "dataset": {**twice, "dataset": {"pipeline": ALONE}}}
    with pytest.raises(ConfigError, match="expected one MultiImageMixDataset, found another inside it"):
        training_steps(mmcv.Config({"data": {"train": twice}}), ())
    with pytest.raises(ConfigError, match="expected a dataset, a dictionary, found 'cityscapes'"):
        training_steps(mmcv.Config({"data": {"train": "cityscapes"}}), ())


def test_the_error_of_a_step_is_one_line_that_says_which() -> None:
    pipeline = build_pipeline([{"type": "Resize", "ratio_range": (0.5, 2.0)}, NORMALIZE], IMAGENET_MEAN, IMAGENET_STD)
    pipeline.mmseg_steps[0].ratio_range = None
    with pytest.raises(ConfigError, match="train_pipeline Resize: fails on an image of 30x36x3: "):
        _sample(pipeline, Tiles(), 0)
