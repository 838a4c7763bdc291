"""Samples made of several tiles: mmseg's MultiImageMixDataset, whose RandomMosaic puts four of them into one.

mmseg: mmseg/datasets/dataset_wrappers.py. A step with `get_indexes` draws which other tiles it needs. The draws follow
from (seed, epoch, tile), as all others do, so a restart mixes the same tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import mmcv
import numpy as np
from mmseg.datasets.pipelines import RandomMosaic

from landseg.contracts.errors import ConfigError
from landseg.training.input.transforms import Image, Label

MIXED = "MultiImageMixDataset"


class TileSource(Protocol):
    """All training tiles, by number."""

    def __len__(self) -> int: ...

    def decoded(self, number: int) -> tuple[Image, Label]:
        """A tile's image and label, before any transform."""


class BandMosaic(RandomMosaic):  # type: ignore[misc]
    """mmseg's RandomMosaic for any number of bands; for three, the same bits."""

    def __init__(self, prob: float, img_scale: Sequence[int] = (640, 640), **options: Any) -> None:
        super().__init__(prob, tuple(img_scale), **options)  # a list in configs written as JSON, YAML or an option

    def _mosaic_transform_img(self, results: dict[str, Any]) -> dict[str, Any]:
        bands = results["img"].shape[2] if results["img"].ndim == 3 else 1
        if bands == 3:
            whole: dict[str, Any] = super()._mosaic_transform_img(results)
            return whole
        others, state, planes = results["mix_results"], np.random.get_state(legacy=False), []
        for band in range(bands):
            np.random.set_state(state)  # the same centre for every band
            alone = {**_one_band(results, band), "mix_results": [_one_band(other, band) for other in others]}
            planes.append(super()._mosaic_transform_img(alone)["img"])
        image = np.stack(planes, axis=-1)
        return {**results, "img": image, "img_shape": image.shape, "ori_shape": image.shape}


def _one_band(results: Mapping[str, Any], band: int) -> dict[str, Any]:
    image = results["img"]
    return {"img": np.ascontiguousarray(image[..., band]) if image.ndim == 3 else image}


def is_mixing(step: Any) -> bool:
    """Whether a built step makes a sample of several tiles."""
    return hasattr(step, "get_indexes")


def other_results(
    step: Any, tiles: TileSource, alone: Callable[[Image, Label], dict[str, Any]]
) -> list[dict[str, Any]]:
    """What a mixing step takes as `mix_results`.

    Args:
        step: with `get_indexes`, which draws.
        tiles: all training tiles. A number past the last starts again with the first: some steps draw one too many.
        alone: runs the steps that each tile passes before it is mixed.
    """
    drawn = step.get_indexes(tiles)
    numbers = drawn if isinstance(drawn, Sequence) else [drawn]
    return [alone(*tiles.decoded(int(number) % len(tiles))) for number in numbers]


def training_steps(config: mmcv.Config, default: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    """The steps that each tile of a config's training dataset passes alone, and those that may mix tiles.

    Args:
        config: the config.
        default: the steps of a config that has none of its own.

    Raises:
        ConfigError: data.train is no dataset, its pipeline no list of steps, or tiles are mixed twice.
    """
    *wrappers, own = train_datasets(config)
    mixing = [dataset for dataset in (*wrappers, own) if dataset.get("type") == MIXED]
    if len(mixing) > 1:
        raise ConfigError(
            "data.train", f"expected one {MIXED}, found another inside it", "put the steps of both into one"
        )
    if not mixing or mixing[0] is own:
        return _steps(own.get("pipeline") or config.get("train_pipeline") or default), []
    (mixed,) = mixing
    skipped = mixed.get("skip_type_keys") or []
    return _steps(own.get("pipeline") or []), [
        step for step in _steps(mixed.get("pipeline") or []) if step["type"] not in skipped
    ]


def _steps(pipeline: Any) -> list[Any]:
    """A pipeline's steps.

    Raises:
        ConfigError: it is no list of steps.
    """
    is_list = isinstance(pipeline, list | tuple)
    if not is_list or not all(isinstance(step, Mapping) and isinstance(step.get("type"), str) for step in pipeline):
        found = str(pipeline)[:80]
        raise ConfigError("train_pipeline", f"expected a list of dictionaries with a `type`, found {found!r}")
    return list(pipeline)


def train_datasets(config: mmcv.Config) -> Iterator[Mapping[str, Any]]:
    """A config's training dataset: the wrappers around it from the outermost in, then the dataset; of a list the first.

    Raises:
        ConfigError: data.train is no dataset.
    """
    dataset = (config.get("data") or {}).get("train") or {}
    while True:
        while isinstance(dataset, list | tuple):
            dataset = dataset[0] if dataset else {}
        if not isinstance(dataset, Mapping):
            raise ConfigError("data.train", f"expected a dataset, a dictionary, found {str(dataset)[:80]!r}")
        yield dataset
        inner = next((key for key in ("dataset", "datasets") if key in dataset), None)
        if inner is None:
            return
        dataset = dataset[inner]
