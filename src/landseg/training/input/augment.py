"""Training transforms that mmseg lacks, registered with it under their own names."""

from __future__ import annotations

from typing import Any

from mmseg.datasets.builder import PIPELINES

__all__ = ["PIPELINES", "IndependentFlip"]
from mmseg.datasets.pipelines import RandomFlip


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
