"""Weights of the classes in the losses (`--class-weights`)."""

from __future__ import annotations

from typing import Any

import mmcv

from landseg.contracts.choices import CLASS_WEIGHTS
from landseg.contracts.dataset import DatasetManifest, Split
from landseg.contracts.errors import ConfigError
from landseg.models.build import losses

_MOST_TIMES = 10
"""A class with a thousandth of the pixels would otherwise have a thousand times the weight, in its few noisy labels."""


def set_class_weights(config: mmcv.Config, choice: str, manifest: DatasetManifest, splits: tuple[Split, ...]) -> None:
    """Write weights of the classes, computed from their pixel counts, into every head's losses.

    The weight of a class with `n` pixels is proportional to 1/n, to its root, or to 1/n and at most ten times the
    most frequent class's. The mean over pixels is 1, so that the loss keeps its scale and the learning rate still fits.
    A class without pixels gets 1.

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
    raw = [count**-power if count else 0.0 for count in counts]
    if choice == "capped-inverse-frequency" and any(raw):
        limit = _MOST_TIMES * min(weight for weight in raw if weight)
        raw = [min(weight, limit) for weight in raw]
    scale = sum(counts) / sum(count * weight for count, weight in zip(counts, raw, strict=True))
    weights = [round(weight * scale, 6) if weight else 1.0 for weight in raw]
    for loss in found:
        loss["class_weight"] = weights


def _check_class_weights(found: list[Any], num_classes: int) -> None:
    """Refuse weights that a config brings for the classes of another dataset."""
    for loss in found:
        weights = loss.get("class_weight")
        if isinstance(weights, list | tuple) and len(weights) != num_classes:
            raise ConfigError(
                "loss_decode.class_weight",
                f"expected {num_classes} weights, one per class, found {len(weights)}",
                "--class-weights inverse-frequency",
            )
