"""Training transforms: mmseg's, for the same random draws bit for bit, without its round trips through float images.

Brightness, contrast and normalisation map each 8-bit value on its own, so each is a table of 256 entries; tables that
follow each other are joined, and the last one writes the normalised float32 planes directly. Steps this module has no
fast form for (Resize, RandomCrop, RandomRotate, ...) run as mmseg's own classes.

Random numbers come from `numpy.random`, as in mmseg; :func:`seeded` sets it for each sample from (seed, epoch, index),
so neither the number of workers nor a restart changes what a sample looks like.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from landseg.contracts.errors import ConfigError, DataError
from landseg.models.test_pipeline import normalisation_table
from landseg.training.augment import PIPELINES

Image = npt.NDArray[np.uint8]
"""(H, W, B) uint8, bands in the order of the class schema."""
Label = npt.NDArray[np.uint8]
"""(H, W) uint8 class ids; 255 is ignored."""
Planes = npt.NDArray[np.float32]
"""(B, H, W) float32, normalised."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
SEG_PAD_VALUE = 255

_FLIPS = {"RandomFlip", "IndependentFlip"}
_FAST = _FLIPS | {"PhotoMetricDistortion", "Normalize", "Pad"}

_VALUES = np.arange(256)
_LOADING = {"LoadImageFromFile", "LoadAnnotations"}  # shards are read instead
_PACKING = {"DefaultFormatBundle", "Collect", "ImageToTensor"}  # batches are filled instead

RECIPE_STEPS: tuple[dict[str, Any], ...] = (
    {"type": "IndependentFlip", "prob": 0.5, "direction": "horizontal"},
    {"type": "IndependentFlip", "prob": 0.5, "direction": "vertical"},
    {"type": "PhotoMetricDistortion"},
    {"type": "Normalize"},
    {"type": "Pad", "size": (512, 512), "pad_val": 0, "seg_pad_val": SEG_PAD_VALUE},
)
"""The recipe's training transforms, for configs that have no pipeline of their own."""


@contextlib.contextmanager
def seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seed `numpy.random`, where every draw comes from, for one sample; restore it afterwards."""
    before = np.random.get_state(legacy=False)
    np.random.seed([seed & 0xFFFFFFFF, epoch, index])
    try:
        yield
    finally:
        np.random.set_state(before)


def _affine(alpha: float = 1.0, beta: float = 0.0) -> Image:
    """The table of mmseg's `PhotoMetricDistortion.convert`."""
    table: Image = np.clip(_VALUES.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)
    return table


@dataclass(frozen=True)
class Flip:
    """mmseg's RandomFlip, or landseg's IndependentFlip."""

    prob: float
    code: int

    def __call__(self, image: Image, label: Label) -> tuple[Image, Label]:
        """Draw, and flip both arrays or none."""
        if np.random.rand() < self.prob:
            return _uint8(cv2.flip(image, self.code)), _uint8(cv2.flip(label, self.code))
        return image, label


@dataclass(frozen=True)
class PhotoMetricDistortion:
    """mmseg's PhotoMetricDistortion. Saturation and hue need RGB: with another number of bands they are left alone."""

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
            image = _uint8(cv2.LUT(image, first))
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
    return _uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv))


def _uint8(array: Any) -> Image:
    """cv2 is typed too loosely to be believed, and drops the band axis of single-band images."""
    result: Image = array
    return result


@dataclass
class Pipeline:
    """A config's training transforms, from a tile's bytes to a slot of the batch.

    Attributes:
        mmseg_steps: steps with no fast form, run first, by mmseg's classes.
        steps: flips and distortions with a fast form.
        mean, std: per band, on the 0-255 scale.
        size: (height, width) that samples are padded to, or None: as they come.
        reverse: whether the model expects the bands in reverse order (a config with `to_rgb=False`).
    """

    mmseg_steps: tuple[Any, ...]
    steps: tuple[Flip | PhotoMetricDistortion, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None
    reverse: bool = False
    seg_pad_value: int = SEG_PAD_VALUE
    table: Planes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.table = normalisation_table(self.mean, self.std)

    def augment(self, image: Image, label: Label) -> tuple[Image, Label, Image | None]:
        """Draw and apply everything before normalisation.

        Returns:
            Image, label, and the table still to be applied to the image's values, or None.
        """
        if self.mmseg_steps:
            image, label = self._run_mmseg(image, label)
        pending: Image | None = None
        for step in self.steps:
            if isinstance(step, Flip):
                image, label = step(image, label)
            else:
                if pending is not None:
                    image = _uint8(cv2.LUT(image, pending)).reshape(image.shape)
                image, pending = step(image)
        return image.reshape(*label.shape, -1), label, pending

    def write(self, image: Image, label: Label, pending: Image | None, planes: Planes, target: Label) -> None:
        """Normalise and pad into a slot of the batch.

        Args:
            image: what :meth:`augment` returned, like the next two.
            label: (h, w) uint8, at most (H, W).
            pending: table to apply before normalisation, or None.
            planes: (B, H, W) float32, written.
            target: (H, W) uint8, written.
        """
        height, width = label.shape
        table = self.table if pending is None else np.ascontiguousarray(self.table[:, pending])
        if (height, width) != target.shape:
            planes[:] = 0
            target[:] = self.seg_pad_value
        whole = planes.flags.c_contiguous and (height, width) == target.shape
        order = range(image.shape[2])
        for plane, band in enumerate(reversed(order) if self.reverse else order):
            values = cv2.extractChannel(image, band)
            if whole:
                cv2.LUT(values, table[plane], dst=planes[plane])
            else:
                planes[plane, :height, :width] = cv2.LUT(values, table[plane])
        target[:height, :width] = label

    def _run_mmseg(self, image: Image, label: Label) -> tuple[Image, Label]:
        rgb = image.shape[2] == 3  # mmseg reads RGB files as BGR
        results: dict[str, Any] = {
            "img": np.ascontiguousarray(image[..., ::-1]) if rgb else image,
            "gt_semantic_seg": label,
            "seg_fields": ["gt_semantic_seg"],
            "img_shape": image.shape,
            "ori_shape": image.shape,
            "pad_shape": image.shape,
            "scale_factor": 1.0,
        }
        for step in self.mmseg_steps:
            results = step(results)
        out = results["img"]
        if out.dtype != np.uint8:
            raise ConfigError(
                "train_pipeline", f"expected 8-bit images before Normalize, found {out.dtype}", "put Normalize behind"
            )
        return np.ascontiguousarray(out[..., ::-1] if rgb else out), np.ascontiguousarray(results["gt_semantic_seg"])


def target_size(pipeline: Pipeline, size: tuple[int, int] | None, shape: tuple[int, int], name: str) -> tuple[int, int]:
    """The (height, width) of a batch, given that of the samples before (None for the first) and the next one's.

    Raises:
        DataError: the sample does not fit, or samples differ and nothing pads them.
    """
    size = pipeline.size or size or shape
    if shape[0] > size[0] or shape[1] > size[1] or (pipeline.size is None and shape != size):
        raise DataError(
            f"tile {name}",
            f"expected at most {size[0]}x{size[1]} px, the crop of the config, found {shape[0]}x{shape[1]}",
            "stage the data with smaller tiles, or use a config with RandomCrop and Pad",
        )
    return size


def build_pipeline(steps: Sequence[Mapping[str, Any]], mean: Sequence[float], std: Sequence[float]) -> Pipeline:
    """Compile a config's `train_pipeline`.

    Args:
        steps: mmseg pipeline steps; loading and packing steps are left out.
        mean: per band; the config's Normalize goes before where it has as many.
        std: as `mean`.

    Raises:
        ConfigError: a step is unknown, or comes behind Normalize and has no fast form.
    """
    plan = [dict(step) for step in steps if step["type"] not in _LOADING | _PACKING]
    fast_from = len(plan)
    while fast_from and plan[fast_from - 1]["type"] in _FAST:
        fast_from -= 1
    mmseg_steps, fast = plan[:fast_from], plan[fast_from:]
    kinds = [step["type"] for step in fast]
    if kinds.count("Normalize") != 1 or any(kind in {"Normalize", "Pad"} for kind in (s["type"] for s in mmseg_steps)):
        raise ConfigError(
            "train_pipeline",
            f"expected one Normalize, behind every step that moves pixels, found {[s['type'] for s in plan]}",
            "reorder the pipeline: Resize, RandomCrop, ..., RandomFlip, PhotoMetricDistortion, Normalize, Pad",
        )
    if [step["type"] for step in plan].count("RandomFlip") > 1:
        raise ConfigError(
            "train_pipeline",
            "a second RandomFlip repeats the first one's draw and direction, and so undoes it",
            "use IndependentFlip, which draws for itself",
        )
    normalize = fast[kinds.index("Normalize")]
    if len(normalize.get("mean", ())) == len(mean):
        mean, std = normalize["mean"], normalize["std"]
    pad = fast[kinds.index("Pad")] if "Pad" in kinds else {}
    if pad.get("size_divisor") or pad.get("pad_val", 0) != 0:
        raise ConfigError("train_pipeline", f"expected Pad(size=..., pad_val=0), found {pad}")
    size = pad.get("size")
    return Pipeline(
        mmseg_steps=tuple(_build_mmseg(step) for step in mmseg_steps),
        steps=tuple(_fast(step) for step in fast if step["type"] not in {"Normalize", "Pad"}),
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
        size=None if size is None else (int(size[0]), int(size[1])),
        reverse=len(mean) == 3 and not normalize.get("to_rgb", True),
        seg_pad_value=int(pad.get("seg_pad_val", SEG_PAD_VALUE)),
    )


def _fast(step: dict[str, Any]) -> Flip | PhotoMetricDistortion:
    options = {key: value for key, value in step.items() if key != "type"}
    if step["type"] == "PhotoMetricDistortion":
        return PhotoMetricDistortion(**options)
    direction = options.get("direction", "horizontal")
    prob = options.get("prob", options.get("flip_ratio"))
    if prob is None or direction not in {"horizontal", "vertical"}:
        raise ConfigError("train_pipeline", f"expected RandomFlip(prob, 'horizontal' or 'vertical'), found {step}")
    return Flip(float(prob), 1 if direction == "horizontal" else 0)


def _build_mmseg(step: dict[str, Any]) -> Any:
    try:
        return PIPELINES.build(step)
    except (KeyError, TypeError, AssertionError) as err:
        raise ConfigError("train_pipeline", f"step {step} cannot be built: {err}") from err
