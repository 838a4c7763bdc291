"""Weights of the classes in the losses (`--class-weights`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import mmcv
import numpy as np

from landseg.contracts.choices import CLASS_WEIGHTS
from landseg.contracts.dataset import ClassSchema, DatasetManifest, Split
from landseg.contracts.documents import short_repr
from landseg.contracts.errors import ConfigError
from landseg.contracts.tile import Tile
from landseg.models.build import losses
from landseg.training.input.sampling import pixels_per_class

_MOST_TIMES = 10
"""A class with a thousandth of the pixels would otherwise have a thousand times the weight, in its few noisy labels."""


def set_class_weights(
    config: mmcv.Config, choice: str, manifest: DatasetManifest, splits: tuple[Split, ...], tiles: Iterable[Tile]
) -> None:
    """Write weights of the classes, computed from their pixel counts, into every head's losses.

    The weight of a class with `n` pixels is proportional to 1/n, to its root, or to 1/n and at most ten times the
    most frequent class's. With `median-frequency` it is proportional to 1/f, where f is the class's share of the
    labelled pixels of the tiles in which it occurs (Eigen & Fergus 2015, arXiv:1411.4734, section 6.3): a class that
    covers its few tiles weighs less than one that is thin everywhere. The mean over pixels is 1, so that the loss keeps
    its scale and the learning rate still fits; it takes the place of the median, a factor alike for all classes.
    A class without pixels gets 1.

    Args:
        config: changed.
        choice: of `--class-weights`.
        manifest: the dataset's.
        splits: what is trained on.
        tiles: of these splits; read for `median-frequency` only.

    Raises:
        ConfigError: the choice is unknown, or the config's own weights are for another number of classes.
    """
    found = list(losses(config.model))
    if choice == "none":
        _check_class_weights(found, manifest.class_schema.num_classes)
        return
    if choice not in CLASS_WEIGHTS:
        raise ConfigError("--class-weights", f"expected one of {', '.join(CLASS_WEIGHTS)}, found {choice!r}")
    counts = [sum(values) for values in zip(*(manifest.splits[split].class_pixels for split in splits), strict=True)]
    power = 0.5 if choice == "sqrt-inverse-frequency" else 1.0
    frequencies = _frequencies(tiles, manifest.class_schema) if choice == "median-frequency" else counts
    raw = [value**-power if value else 0.0 for value in frequencies]
    if choice == "capped-inverse-frequency" and any(raw):
        limit = _MOST_TIMES * min(weight for weight in raw if weight)
        raw = [min(weight, limit) for weight in raw]
    scale = sum(counts) / sum(count * weight for count, weight in zip(counts, raw, strict=True))
    weights = [round(weight * scale, 6) if weight else 1.0 for weight in raw]
    for loss in found:
        loss["class_weight"] = weights


def _frequencies(tiles: Iterable[Tile], schema: ClassSchema) -> list[float]:
    """Each class's share of the labelled pixels of the tiles in which it occurs; 0 where it occurs in none."""
    own, around = [0] * schema.num_classes, [0] * schema.num_classes
    for tile in tiles:
        pixels = pixels_per_class(tile, schema)
        labelled = sum(pixels)
        for number, count in enumerate(pixels):
            if count:
                own[number] += count
                around[number] += labelled
    return [count / total if total else 0.0 for count, total in zip(own, around, strict=True)]


def _check_class_weights(found: list[Any], num_classes: int) -> None:
    """Refuse weights that a config brings for the classes of another dataset, and those that are none."""
    for loss in found:
        weights = loss.get("class_weight")
        if not isinstance(weights, list | tuple | np.ndarray):
            continue
        if len(weights) != num_classes:
            raise ConfigError(
                "loss_decode.class_weight",
                f"expected {num_classes} weights, one per class, found {len(weights)}",
                "--class-weights inverse-frequency",
            )
        are_numbers = all(isinstance(weight, Real) and 0 <= float(weight) < math.inf for weight in weights)
        if not are_numbers or not any(weights):
            raise ConfigError(
                "loss_decode.class_weight",
                f"expected numbers of at least 0, not all 0, found {short_repr(list(weights))}",
                "correct them, or leave them out and let --class-weights compute them",
            )
