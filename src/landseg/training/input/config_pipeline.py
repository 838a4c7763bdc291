"""The training pipeline of a config, or the recipe's where it has none, with the normalisation that fits the data."""

from __future__ import annotations

from typing import Any

import mmcv

from landseg.contracts.dataset import Split
from landseg.dataset.reader import StagedDataset
from landseg.dataset.statistics import SplitStatistics
from landseg.models.normalisation import mean_and_std
from landseg.training.input.compiling import build_pipeline
from landseg.training.input.mixing import training_steps
from landseg.training.input.pipeline import SEG_PAD_VALUE, Pipeline

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

RECIPE_STEPS: tuple[dict[str, Any], ...] = (
    {"type": "IndependentFlip", "prob": 0.5, "direction": "horizontal"},
    {"type": "IndependentFlip", "prob": 0.5, "direction": "vertical"},
    {"type": "PhotoMetricDistortion"},
    {"type": "Normalize"},
    {"type": "Pad", "size": (512, 512), "pad_val": 0, "seg_pad_val": SEG_PAD_VALUE},
)
"""The recipe's training transforms, for configs that have no pipeline of their own."""


def find_pipeline(config: mmcv.Config, dataset: StagedDataset, splits: tuple[Split, ...]) -> Pipeline:
    """The training transforms of a config, with the normalisation that fits the dataset's bands."""
    mean, std = normalisation(config, dataset, splits)
    alone, mixed = training_steps(config, RECIPE_STEPS)
    return build_pipeline(alone, mean, std, mixed)


def normalisation(
    config: mmcv.Config, dataset: StagedDataset, splits: tuple[Split, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per band on the 0-255 scale.

    They are the config's where it has as many bands, else ImageNet's for three bands, which pretrained RGB weights
    expect, and the data's own for any other number: those of all splits that are trained on.
    """
    bands = len(dataset.schema.bands)
    alone, mixed = training_steps(config, RECIPE_STEPS)
    for step in alone + mixed:
        if step["type"] == "Normalize" and "mean" in step:
            mean, std = mean_and_std(step, "train_pipeline")
            if len(mean) == bands:
                return mean, std
    if bands == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return _data_statistics(dataset, splits)


def _data_statistics(dataset: StagedDataset, splits: tuple[Split, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    schema = dataset.schema
    if len(splits) == 1:
        info = dataset.manifest.splits[splits[0]]
        mean, std = list(info.band_mean), list(info.band_std)
    else:
        statistics = SplitStatistics()
        for split in splits:
            for tile in dataset.index(split):
                statistics.add(tile)
        mean, std = map(list, statistics.mean_std(schema.bands))
    if schema.scale is not None:
        for band, (low, high) in enumerate(zip(schema.scale.low, schema.scale.high, strict=True)):
            mean[band] = (mean[band] - low) * 255 / (high - low)
            std[band] = std[band] * 255 / (high - low)
    return tuple(mean), tuple(max(value, 1e-3) for value in std)  # a constant band has no spread to divide by
