"""Training transforms that mmseg lacks, or has for three bands or one direction only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mmcv
import numpy as np
from mmseg.datasets.builder import PIPELINES
from mmseg.datasets.pipelines import PhotoMetricDistortion, RandomFlip

__all__ = ["DIRECTIONS", "PIPELINES", "BandDistortion", "IndependentFlip", "RandomDirectionFlip", "flip_choices"]

DIRECTIONS = ("horizontal", "vertical", "diagonal")


@PIPELINES.register_module()
class IndependentFlip(RandomFlip):  # type: ignore[misc]
    """mmseg's RandomFlip with a draw of its own.

    mmseg: mmseg/datasets/pipelines/transforms.py. A second RandomFlip in a pipeline reuses the first one's draw and
    direction, so that horizontal followed by vertical flips twice horizontally, which undoes the flip.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Flip image and labels with probability `prob`; the flags describe this draw."""
        results.pop("flip", None)
        results.pop("flip_direction", None)
        flipped: dict[str, Any] = super().__call__(results)
        return flipped


class RandomDirectionFlip:
    """RandomFlip with one of several directions, as mmdetection and mmsegmentation 1.x have it: one draw for all.

    Args:
        choices: the directions, each with its probability.
    """

    def __init__(self, choices: Mapping[str, float]) -> None:
        self.directions, self.probabilities = (*choices,), (*choices.values(), max(0.0, 1 - sum(choices.values())))

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Flip image and labels, or leave them; the flags describe this draw."""
        drawn = int(np.random.choice(len(self.probabilities), p=self.probabilities))
        results["flip"] = drawn < len(self.directions)
        results["flip_direction"] = self.directions[drawn] if results["flip"] else None
        for key in ("img", *results.get("seg_fields", [])) if results["flip"] else ():
            results[key] = mmcv.imflip(results[key], direction=results["flip_direction"]).copy()
        return results


class BandDistortion(PhotoMetricDistortion):  # type: ignore[misc]
    """mmseg's PhotoMetricDistortion for any number of bands: with another than three, colours are not changed.

    It takes float64 too, which some of mmseg's steps return, and which cv2 does not convert to HSV.
    """

    def saturation(self, img: Any) -> Any:
        """Distort the saturation of RGB."""
        return super().saturation(_for_hsv(img)) if img.shape[2:] == (3,) else img

    def hue(self, img: Any) -> Any:
        """Distort the hue of RGB."""
        return super().hue(_for_hsv(img)) if img.shape[2:] == (3,) else img


def _for_hsv(image: Any) -> Any:
    return image if image.dtype == np.uint8 else image.astype(np.float32)


def flip_choices(prob: Any, direction: Any) -> dict[str, float]:
    """The directions of a RandomFlip, each with its probability.

    mmcv: mmcv/transforms/processing.py of 2.x, `RandomFlip`. A single probability is shared among the directions.

    Raises:
        ValueError: they are no directions and probabilities, or do not fit each other.
    """
    names = [direction] if isinstance(direction, str) else direction
    if not isinstance(names, list | tuple) or not names or not {*names} <= {*DIRECTIONS} or len({*names}) < len(names):
        raise ValueError(f"expected directions among {', '.join(DIRECTIONS)}, found {direction!r}")
    shares: list[Any] = list(prob) if isinstance(prob, list | tuple) else []
    if isinstance(prob, int | float):
        shares = [prob / len(names)] * len(names)
    are_numbers = all(isinstance(share, int | float) and share >= 0 for share in shares)
    if len(shares) != len(names) or not are_numbers or math.fsum(shares) > 1 + 1e-9:
        raise ValueError(f"expected a probability, or one for each direction that add up to 1 at most, found {prob!r}")
    return {name: float(share) for name, share in zip(names, shares, strict=True)}
