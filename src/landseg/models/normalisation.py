"""The Normalize of a config: the mean and standard deviation of each band, and what they make of its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
import numpy.typing as npt

from landseg.contracts.documents import short_repr
from landseg.contracts.errors import ConfigError
from landseg.models.preprocessing import Planes, steps_of_test_pipeline

_VALUES = np.arange(256)


def normalisation_table(mean: Sequence[float], std: Sequence[float]) -> Planes:
    """The table of `mmcv.imnormalize`.

    Returns:
        (B, 256) float32: the normalised value of each 8-bit value, per band.
    """
    # cv2 takes both as double scalars and rounds once per operation; mmcv builds them from float32.
    mean64 = np.asarray(mean, np.float32).astype(np.float64)[:, None]
    inverse = 1 / np.asarray(std, np.float32).astype(np.float64)[:, None]
    table: Planes = ((_VALUES - mean64).astype(np.float32) * inverse).astype(np.float32)
    return table


def normalised(values: npt.NDArray[Any], mean: float, std: float) -> Planes:
    """A band of floats as `mmcv.imnormalize` makes it: cv2 rounds after each operation.

    Args:
        values: (H, W), on the 0-255 scale, of any type.
        mean: of the band.
        std: of the band.

    Returns:
        (H, W) float32.
    """
    mean, std = float(np.float32(mean)), float(np.float32(std))
    centred = cv2.subtract(values.astype(np.float32), mean)  # type: ignore[call-overload] # its stubs lack numbers
    result: Planes = cv2.multiply(centred, 1 / std)  # type: ignore[call-overload]
    return result


def mean_and_std(step: Mapping[str, Any], where: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What a Normalize of a config says of each band.

    Raises:
        ConfigError: it is malformed; `where` is the pipeline.
    """
    try:
        mean, std = tuple(map(float, step["mean"])), tuple(map(float, step["std"]))
    except (KeyError, TypeError, ValueError, OverflowError) as err:
        found = f"{short_repr(step.get('mean'))} and {short_repr(step.get('std'))}"
        problem = f"Normalize: expected a list of a mean and one of a positive std per band, found {found}"
        raise ConfigError(where, problem) from err
    if len(mean) != len(std) or not np.isfinite((*mean, *std)).all() or min(std, default=0) <= 0:
        raise ConfigError(where, f"Normalize: expected a mean and a positive std per band, found {mean} and {std}")
    return mean, std


def find_normalize(config: mmcv.Config, where: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per band in a config's test pipeline.

    Raises:
        ConfigError: there is none.
    """
    try:
        for step in steps_of_test_pipeline(config):
            if step["type"] == "Normalize":
                return mean_and_std(step, where)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise ConfigError(where, f"expected a test pipeline with Normalize, found a malformed one: {err}") from err
    action = "set data.test.pipeline as mmseg's own configs do, with the mean and std of training in its Normalize"
    raise ConfigError(where, "expected a test pipeline with Normalize, found none", action)


def set_normalisation(config: mmcv.Config, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write what is used into each Normalize of the config's pipelines that is for another number of bands.

    The checkpoint's own config then says all that predicting needs.
    """
    for key, value in config._cfg_dict.items():
        if key != "model":
            _set_normalize(value, list(mean), list(std))


def _set_normalize(node: Any, mean: list[float], std: list[float]) -> None:
    if isinstance(node, list | tuple):
        for item in node:
            _set_normalize(item, mean, std)
    elif isinstance(node, dict):
        old = node.get("mean")
        if node.get("type") == "Normalize" and not (isinstance(old, list | tuple) and len(old) == len(mean)):
            node["mean"], node["std"] = mean, std
        for value in node.values():
            _set_normalize(value, mean, std)


def expects_rgb(config: mmcv.Config) -> bool:
    """Whether the model takes the bands in the schema's order; a config with `to_rgb=False` has them reversed."""
    return all(step.get("to_rgb", True) for step in steps_of_test_pipeline(config) if step["type"] == "Normalize")
