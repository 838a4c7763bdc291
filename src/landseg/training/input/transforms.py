"""The fast forms of mmseg's random transforms: for the same draws the same bits, without float images in between.

Brightness and contrast map each 8-bit value independently of the others, so each is a table of 256 entries; successive
tables are joined into one, and the last is left for :mod:`landseg.training.input.pipeline` to join with normalisation.

Random numbers come from `numpy.random`, as in mmseg; :func:`seeded` sets it for each sample from (seed, epoch, index),
so neither the number of loader processes nor a restart changes what a sample looks like.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

Image = npt.NDArray[np.uint8]
"""(H, W, B) uint8, bands in the order of the class schema."""
Label = npt.NDArray[np.uint8]
"""(H, W) uint8 class ids; 255 is ignored."""

_VALUES = np.arange(256)


@contextlib.contextmanager
def seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators for one sample; restore them afterwards.

    mmseg's own transforms draw from numpy; those that a config brings along may draw from any. `epoch` may be any
    number that tells the draws of one tile apart.
    """
    before = random.getstate(), np.random.get_state(legacy=False), torch.default_generator.get_state()
    low, high = epoch & 0xFFFFFFFF, epoch >> 32  # numpy's legacy generator takes words of 32 bits
    words = [seed & 0xFFFFFFFF, low, index, *([high] if high else [])]
    np.random.seed(words)
    random.seed(np.random.default_rng(words).bytes(16))
    torch.default_generator.manual_seed(int.from_bytes(random.randbytes(7), "little"))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def _affine(alpha: float = 1.0, beta: float = 0.0) -> Image:
    """The table of mmseg's `PhotoMetricDistortion.convert`."""
    table: Image = np.clip(_VALUES.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)
    return table


def _flipped(array: Image, code: int) -> Image:
    """cv2.flip, which leaves out the last axis of an image of one band."""
    return as_uint8(cv2.flip(array, code)).reshape(array.shape)


@dataclass(frozen=True)
class Flip:
    """mmseg's RandomFlip, or landseg's IndependentFlip."""

    prob: float
    code: int

    def __call__(self, image: Image, label: Label) -> tuple[Image, Label]:
        """Draw, and flip both arrays or neither."""
        if np.random.rand() < self.prob:
            return _flipped(image, self.code), _flipped(label, self.code)
        return image, label


@dataclass(frozen=True)
class DirectionFlip:
    """One of several flips, or none, as :class:`landseg.training.input.augment.RandomDirectionFlip` draws it.

    Attributes:
        codes: of `cv2.flip`.
        probabilities: of each of them, then of none.
    """

    codes: tuple[int, ...]
    probabilities: tuple[float, ...]

    def __call__(self, image: Image, label: Label) -> tuple[Image, Label]:
        """Draw, and flip both arrays alike or neither."""
        drawn = int(np.random.choice(len(self.probabilities), p=self.probabilities))
        if drawn == len(self.codes):
            return image, label
        return _flipped(image, self.codes[drawn]), _flipped(label, self.codes[drawn])


@dataclass(frozen=True)
class PhotoMetricDistortion:
    """mmseg's PhotoMetricDistortion. Saturation and hue need RGB: with another number of bands they are not changed."""

    brightness_delta: float = 32
    contrast_range: tuple[float, float] = (0.5, 1.5)
    saturation_range: tuple[float, float] = (0.5, 1.5)
    hue_delta: int = 18

    def __call__(self, image: Image) -> tuple[Image, Image | None]:
        """Distort.

        Returns:
            The image, and the table still to be applied to it, or None.
        """
        rng = np.random
        first = second = None
        if rng.randint(2):
            first = _affine(beta=rng.uniform(-self.brightness_delta, self.brightness_delta))
        contrast_first = rng.randint(2) == 1
        if contrast_first:
            first = _joined(first, self._contrast())
        saturation = _affine(rng.uniform(*self.saturation_range)) if rng.randint(2) else None
        hue = rng.randint(-self.hue_delta, self.hue_delta) if rng.randint(2) else None
        if not contrast_first:
            second = self._contrast()
        if image.shape[2] != 3 or (saturation is None and hue is None):
            return image, _joined(first, second)
        if first is not None:
            image = as_uint8(cv2.LUT(image, first))
        # Two conversions each way, as in mmseg: 8-bit HSV is not an exact inverse.
        if saturation is not None:
            image = _in_hsv(image, 1, saturation)
        if hue is not None:
            image = _in_hsv(image, 0, ((_VALUES + hue) % 180).astype(np.uint8))
        return image, second

    def _contrast(self) -> Image | None:
        return _affine(np.random.uniform(*self.contrast_range)) if np.random.randint(2) else None


def _joined(first: Image | None, second: Image | None) -> Image | None:
    if first is None or second is None:
        return second if first is None else first
    return second[first]


def _in_hsv(image: Image, channel: int, table: Image) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
    return as_uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv))


def as_uint8(array: Any) -> Image:
    """Give what cv2 returns its type, which cv2's stubs leave open."""
    result: Image = array
    return result
