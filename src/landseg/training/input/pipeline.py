"""A config's training pipeline, compiled: from a tile's bytes to a slot of the batch.

Flips and photometric distortion run in their fast form (:mod:`landseg.training.input.transforms`). Normalisation is a
table too, joined with the distortion's last one, and writes float32 planes directly. Steps without a fast form
(Resize, RandomCrop, RandomRotate, ...) run as mmseg's own classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import mmcv
import numpy as np
import numpy.typing as npt

from landseg.contracts.dataset import ClassSchema, DatasetManifest, Split
from landseg.contracts.errors import ConfigError, DataError
from landseg.models.preprocessing import TilePadding, find_padding, normalisation_table
from landseg.training.input.augment import PIPELINES
from landseg.training.input.transforms import Flip, Image, Label, PhotoMetricDistortion, as_uint8

Planes = npt.NDArray[np.float32]
"""(B, H, W) float32, normalised."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
SEG_PAD_VALUE = 255

_FLIPS = {"RandomFlip", "IndependentFlip"}
_FAST = _FLIPS | {"PhotoMetricDistortion", "Normalize", "Pad"}

_LOADING = {"LoadImageFromFile", "LoadAnnotations"}  # tiles are read from shards
_PACKING = {"DefaultFormatBundle", "Collect", "ImageToTensor"}  # batches are filled directly

RECIPE_STEPS: tuple[dict[str, Any], ...] = (
    {"type": "IndependentFlip", "prob": 0.5, "direction": "horizontal"},
    {"type": "IndependentFlip", "prob": 0.5, "direction": "vertical"},
    {"type": "PhotoMetricDistortion"},
    {"type": "Normalize"},
    {"type": "Pad", "size": (512, 512), "pad_val": 0, "seg_pad_val": SEG_PAD_VALUE},
)
"""The recipe's training transforms, for configs that have no pipeline of their own."""


@dataclass
class Pipeline:
    """A config's training transforms.

    Attributes:
        mmseg_steps: steps with no fast form, run first, by mmseg's classes.
        steps: flips and distortions with a fast form.
        mean, std: per band, on the 0-255 scale.
        padding: what samples are padded to, or None to keep their own size.
        reverse: whether the model expects the bands in reverse order (a config with `to_rgb=False`).
    """

    mmseg_steps: tuple[Any, ...]
    steps: tuple[Flip | PhotoMetricDistortion, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: TilePadding | None
    reverse: bool = False
    seg_pad_value: int = SEG_PAD_VALUE
    table: Planes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.table = normalisation_table(self.mean, self.std)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every sample, where padding decides it."""
        return None if self.padding is None else self.padding.size

    def padded(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """The (height, width) that a sample of a smaller or equal one is padded to."""
        height, width = shape
        return (height, width) if self.padding is None or self.size else self.padding(height, width)

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
                    image = as_uint8(cv2.LUT(image, pending)).reshape(image.shape)
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
            planes[:] = np.array(self.padding.values if self.padding else 0, np.float32).reshape(-1, 1, 1)
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
                "train_pipeline", f"expected 8-bit images before Normalize, found {out.dtype}", "put Normalize last"
            )
        return np.ascontiguousarray(out[..., ::-1] if rgb else out), np.ascontiguousarray(results["gt_semantic_seg"])


def target_size(pipeline: Pipeline, size: tuple[int, int] | None, shape: tuple[int, int], name: str) -> tuple[int, int]:
    """The (height, width) of a batch, given the previous samples' (None for the first) and the next sample's.

    Raises:
        DataError: the sample does not fit, or samples differ and nothing pads them.
    """
    size = pipeline.size or size or pipeline.padded(shape)
    if shape[0] > size[0] or shape[1] > size[1] or (pipeline.size is None and pipeline.padded(shape) != size):
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
        mean: per band; the config's Normalize takes precedence where it has as many bands.
        std: as `mean`.

    Raises:
        ConfigError: a step is unknown, or comes after Normalize and has no fast form.
    """
    plan = [dict(step) for step in steps if step["type"] not in _LOADING | _PACKING]
    fast_from = len(plan)
    while fast_from and plan[fast_from - 1]["type"] in _FAST and not _moves_padding(plan[fast_from - 1 :]):
        fast_from -= 1
    mmseg_steps, fast = plan[:fast_from], plan[fast_from:]
    kinds = [step["type"] for step in fast]
    if kinds.count("Normalize") != 1 or any(step["type"] == "Normalize" for step in mmseg_steps):
        raise ConfigError(
            "train_pipeline",
            f"expected one Normalize, after every step that moves pixels, found {[s['type'] for s in plan]}",
            "reorder the pipeline: Resize, RandomCrop, ..., RandomFlip, PhotoMetricDistortion, Normalize, Pad",
        )
    if [step["type"] for step in plan].count("RandomFlip") > 1:
        raise ConfigError(
            "train_pipeline",
            "a second RandomFlip repeats the first one's draw and direction, and so undoes it",
            "use IndependentFlip, which draws independently",
        )
    normalize = fast[kinds.index("Normalize")]
    if len(normalize.get("mean", ())) == len(mean):
        mean, std = normalize["mean"], normalize["std"]
    pad = fast[kinds.index("Pad")] if "Pad" in kinds else {}
    return Pipeline(
        mmseg_steps=tuple(_build_mmseg(step) for step in mmseg_steps),
        steps=tuple(_fast(step) for step in fast if step["type"] not in {"Normalize", "Pad"}),
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
        padding=find_padding(fast, normalisation_table(mean, std), "train_pipeline"),
        reverse=len(mean) == 3 and not normalize.get("to_rgb", True),
        seg_pad_value=int(pad.get("seg_pad_val", SEG_PAD_VALUE)),
    )


def _moves_padding(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first step pads and a later one flips or distorts what it added: mmseg's classes do that."""
    return steps[0]["type"] == "Pad" and any(step["type"] in _FLIPS | {"PhotoMetricDistortion"} for step in steps)


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


def find_pipeline(config: mmcv.Config, manifest: DatasetManifest, splits: tuple[Split, ...]) -> Pipeline:
    """The training transforms of a config, with the normalisation that fits the dataset's bands."""
    mean, std = normalisation(config, manifest, splits)
    return build_pipeline(_train_steps(config), mean, std)


def normalisation(
    config: mmcv.Config, manifest: DatasetManifest, splits: tuple[Split, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per band on the 0-255 scale.

    They are the config's where it has as many bands, else ImageNet's for three bands, which pretrained RGB weights
    expect, and the data's own for any other number.
    """
    bands = len(manifest.class_schema.bands)
    for step in _train_steps(config):
        if step["type"] == "Normalize" and len(step.get("mean", ())) == bands:
            return tuple(map(float, step["mean"])), tuple(map(float, step["std"]))
    if bands == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return _data_statistics(manifest, splits)


def _data_statistics(
    manifest: DatasetManifest, splits: tuple[Split, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    schema: ClassSchema = manifest.class_schema
    info = manifest.splits[splits[0]]
    mean, std = list(info.band_mean), list(info.band_std)
    if schema.scale is not None:
        for band, (low, high) in enumerate(zip(schema.scale.low, schema.scale.high, strict=True)):
            mean[band] = (mean[band] - low) * 255 / (high - low)
            std[band] = std[band] * 255 / (high - low)
    return tuple(mean), tuple(max(value, 1e-3) for value in std)  # a constant band has no spread to divide by


def train_dataset(config: mmcv.Config) -> Any:
    """A config's own training dataset; only its pipeline is used."""
    dataset = (config.get("data") or {}).get("train") or {}
    while True:  # wrappers: RepeatDataset, lists of datasets
        if isinstance(dataset, list | tuple):
            dataset = dataset[0]
        elif dataset.get("type") == "MultiImageMixDataset":
            raise ConfigError(
                "data.train.type",
                "MultiImageMixDataset is not supported: a sample is made of one tile, and RandomMosaic needs four",
                "make data.train the dataset inside it, with RandomMosaic left out of its pipeline",
            )
        elif "dataset" in dataset:
            dataset = dataset["dataset"]
        else:
            return dataset


def _train_steps(config: mmcv.Config) -> list[dict[str, Any]]:
    return list(train_dataset(config).get("pipeline") or config.get("train_pipeline") or RECIPE_STEPS)
