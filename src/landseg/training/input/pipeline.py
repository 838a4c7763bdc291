"""A training pipeline at work: from a tile's bytes to a slot of the batch.

Flips and photometric distortion run in their fast form (:mod:`landseg.training.input.transforms`). Normalisation is a
table too, joined with the distortion's last one, and writes float32 planes directly. Steps without a fast form
(Resize, RandomCrop, RandomRotate, ...) run as mmseg's own classes, and so do all where images are not of 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from landseg.contracts.errors import ConfigError, DataError, LandsegError
from landseg.models.normalisation import normalisation_table, normalised
from landseg.models.preprocessing import TilePadding
from landseg.training.input.mixing import TileSource, is_mixing, other_results
from landseg.training.input.transforms import DirectionFlip, Flip, Image, Label, PhotoMetricDistortion, as_uint8

Planes = npt.NDArray[np.float32]
"""(B, H, W) float32, normalised."""

SEG_PAD_VALUE = 255


@dataclass
class Pipeline:
    """A config's training transforms.

    Attributes:
        mmseg_steps: steps with no fast form, run first, by mmseg's classes.
        steps: flips and distortions with a fast form.
        slow_steps: the same as mmseg's classes, for images that are not of 8 bits.
        mean, std: per band, on the 0-255 scale.
        padding: what samples are padded to, or None to keep their own size.
        reverse: whether the model expects the bands in reverse order (a config with `to_rgb=False`).
        seg_pad_value: the label of padding.
        num_alone: how many of the mmseg steps each tile passes alone where others then mix tiles.
        loads_float: whether the steps are given float32 (LoadImageFromFile's `to_float32`).
    """

    mmseg_steps: tuple[Any, ...]
    steps: tuple[Flip | DirectionFlip | PhotoMetricDistortion, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: TilePadding | None
    reverse: bool = False
    seg_pad_value: int = SEG_PAD_VALUE
    num_alone: int = 0
    slow_steps: tuple[Any, ...] = ()
    loads_float: bool = False
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

    def augment(self, image: Image, label: Label, tiles: TileSource | None = None) -> tuple[Image, Label, Image | None]:
        """Draw and apply everything before normalisation.

        Args:
            image: the tile's.
            label: the tile's.
            tiles: all training tiles, for steps that mix several.

        Returns:
            Image, label, and the table still to be applied to the image's values, or None. The image is of uint8, or,
            with None, of floats.
        """
        steps = self.steps
        if self.mmseg_steps or self.loads_float:
            image, label, all_done = self._run_mmseg(image, label, tiles)
            steps = () if all_done else steps
        pending: Image | None = None
        for step in steps:
            if not isinstance(step, PhotoMetricDistortion):
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
        is_float = image.dtype != np.uint8
        table = self.table if pending is None else np.ascontiguousarray(self.table[:, pending])
        if (height, width) != target.shape:
            planes[:] = np.array(self.padding.values if self.padding else 0, np.float32).reshape(-1, 1, 1)
            target[:] = self.seg_pad_value
        whole = planes.flags.c_contiguous and (height, width) == target.shape
        bands = cv2.split(image)
        for plane, values in enumerate(reversed(bands) if self.reverse else bands):
            if is_float:
                planes[plane, :height, :width] = normalised(values, self.mean[plane], self.std[plane])
            elif whole:
                cv2.LUT(values, table[plane], dst=planes[plane])
            else:
                planes[plane, :height, :width] = cv2.LUT(values, table[plane])
        target[:height, :width] = label

    def _run_mmseg(self, image: Image, label: Label, tiles: TileSource | None) -> tuple[Image, Label, bool]:
        """What mmseg's classes return, and whether that is after the flips and distortions too."""
        results = self._alone(image, label)
        for step in self.mmseg_steps[self.num_alone :]:
            if is_mixing(step) and tiles is not None:
                results["mix_results"] = other_results(step, tiles, self._alone)
            results = _applied(step, results)
            results.pop("mix_results", None)
        is_float = results["img"].dtype != np.uint8
        for step in self.slow_steps if is_float else ():
            results = _applied(step, results)
        out = results["img"] if results["img"].dtype == np.uint8 else results["img"].astype(np.float32)
        rgb = image.shape[2] == 3
        label = np.ascontiguousarray(results["gt_semantic_seg"])
        if out.shape[:2] != label.shape:
            sizes = " and ".join("x".join(map(str, shape)) for shape in (out.shape[:2], label.shape))
            raise ConfigError(
                "train_pipeline",
                f"expected image and label of one size after its steps, found {sizes} px",
                "leave out SegRescale: losses enlarge what the network predicts to the label's size",
            )
        return np.ascontiguousarray(out[..., ::-1] if rgb else out), label, is_float

    def _alone(self, image: Image, label: Label) -> dict[str, Any]:
        """What mmseg's classes pass on, after the steps that a tile passes alone."""
        loaded = np.ascontiguousarray(image[..., ::-1]) if image.shape[2] == 3 else image  # mmseg reads RGB as BGR
        results: dict[str, Any] = {
            "img": loaded.astype(np.float32) if self.loads_float else loaded,
            "gt_semantic_seg": label,
            "seg_fields": ["gt_semantic_seg"],
            "img_shape": image.shape,
            "ori_shape": image.shape,
            "pad_shape": image.shape,
            "scale_factor": 1.0,
        }
        for step in self.mmseg_steps[: self.num_alone]:
            results = _applied(step, results)
        return results


def _applied(step: Any, results: dict[str, Any]) -> dict[str, Any]:
    """What a step of mmseg's or of the user's own returns; its error is one line."""
    try:
        returned: Any = step(results)
    except (LandsegError, MemoryError):
        raise
    except Exception as err:  # transforms of many kinds, in configs for other data
        size = "x".join(map(str, np.shape(results["img"])))
        raise ConfigError(
            f"train_pipeline {type(step).__name__}",
            f"fails on an image of {size}: {type(err).__name__}: {str(err).strip().partition(chr(10))[0][:140]}",
        ) from err
    if not isinstance(returned, dict):
        raise ConfigError(f"train_pipeline {type(step).__name__}", f"expected a dictionary, found {returned!r}"[:200])
    # Some of cv2's functions leave out the axis of a single band.
    if "img" in returned and np.ndim(returned["img"]) == 2:
        returned["img"] = returned["img"][..., None]
    return returned


def target_size(pipeline: Pipeline, size: tuple[int, int] | None, shape: tuple[int, int], name: str) -> tuple[int, int]:
    """The (height, width) of a batch, given the previous samples' (None for the first) and the next sample's.

    Raises:
        DataError: the sample does not fit, or samples differ and nothing pads them.
    """
    size = pipeline.size or size or pipeline.padded(shape)
    if pipeline.size is None and pipeline.padded(shape) != size:
        raise DataError(
            f"tile {name}",
            f"expected samples of one size in a batch, {size[0]}x{size[1]} px as the one before, found "
            f"{shape[0]}x{shape[1]}",
            "add RandomCrop and Pad to train_pipeline, or use --batch-per-gpu 1",
        )
    if shape[0] > size[0] or shape[1] > size[1]:
        raise DataError(
            f"tile {name}",
            f"expected at most {size[0]}x{size[1]} px, the crop of the config, found {shape[0]}x{shape[1]}",
            "stage the data with smaller tiles, or use a config with RandomCrop and Pad",
        )
    return size
