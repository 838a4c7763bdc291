"""The test pipeline of a config: how a tile is resized and padded before a model sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mmcv
import numpy as np
import numpy.typing as npt

from landseg.contracts.errors import ConfigError

Image = npt.NDArray[np.uint8]
"""(H, W, B) uint8, bands in the order of the class schema."""
Planes = npt.NDArray[np.float32]
"""(B, H, W) float32, normalised."""

_MAX_SIDE = 1 << 14
_MAX_SCALES = 16
_MAX_ENLARGEMENT = 64
_SMALL_PX = 1 << 22

_VIEWS = "MultiScaleFlipAug"
_LOADING = ("LoadImageFromFile", "LoadAnnotations")
"""What staged tiles take the place of."""
_PACKING = ("ImageToTensor", "Collect", "DefaultFormatBundle")
"""Batches are filled directly."""
_SIZING = ("Resize", "ResizeToMultiple")
_IN_VIEWS = (*_SIZING, "RandomFlip", "Normalize", "Pad", *_PACKING)
_ALONE = ("Normalize", "Pad", *_PACKING)
"""The steps of a pipeline without views, which sees each tile at its own size."""


@dataclass(frozen=True)
class TileScale:
    """How a config's test pipeline resizes: to fit into `size` (width, height), or by a factor of the tile's own size.

    With `min_size` the shorter side is at least that, however long the other becomes; with `divisor` both sides are
    then rounded to multiples of it.
    """

    size: tuple[int, int] | None
    ratio: float = 1.0
    keep_ratio: bool = True
    min_size: int | None = None
    divisor: int | None = None

    def __call__(self, image: Image) -> Image:
        """Resize; a tile that already has the size is returned unchanged.

        Raises:
            ConfigError: the tile would become very much larger than it is.
        """
        height, width = image.shape[:2]
        size: tuple[float, float] = self.size or (int(width * self.ratio), int(height * self.ratio))
        if self.keep_ratio and self.min_size is not None:
            short = max(self.min_size, min(size))
            size = (short * height / width, short) if height > width else (short, short * width / height)
        new_width, new_height = mmcv.rescale_size((width, height), size) if self.keep_ratio else size
        found = _multiple(int(new_height), int(new_width), self.divisor or 1)
        _check_enlarged((height, width), found)
        resized = mmcv.imrescale(image, size) if self.keep_ratio else mmcv.imresize(image, size)
        if self.divisor is not None:
            resized = mmcv.imresize_to_multiple(resized, self.divisor, scale_factor=1)
        return cast(Image, resized.reshape(*resized.shape[:2], image.shape[2]))


@dataclass(frozen=True)
class TilePadding:
    """How a config's test pipeline pads, below and to the right, after resizing; what is added is cut off the logits.

    Attributes:
        size: (height, width) to pad to, or None.
        divisor: both sides become multiples of it where there is no size.
        values: per band, in the order in which the model takes them, normalised.
    """

    size: tuple[int, int] | None
    divisor: int
    values: tuple[float, ...]

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of this one is padded to.

        Raises:
            ConfigError: the image is larger than the size, or very much smaller.
        """
        if self.size is None:
            found = _multiple(height, width, self.divisor)
            _check_enlarged((height, width), found)
            return found
        if height > self.size[0] or width > self.size[1]:
            raise ConfigError(
                "test_pipeline",
                f"Pad(size={self.size}) expects tiles of at most that size, found {height}x{width}",
                "pad with size_divisor, or to a larger size",
            )
        _check_enlarged((height, width), self.size)
        return self.size


def _multiple(height: int, width: int, divisor: int) -> tuple[int, int]:
    """Both sides, rounded up to multiples."""
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _check_enlarged(own: tuple[int, int], found: tuple[int, int]) -> None:
    """Refuse to make so much of a tile, (height, width), that memory and time are spent on nothing."""
    if found[0] * found[1] > max(_SMALL_PX, _MAX_ENLARGEMENT * own[0] * own[1]):
        raise ConfigError(
            "test_pipeline",
            f"expected tiles to become at most {_MAX_ENLARGEMENT} times as large, found one of {own[0]}x{own[1]} px "
            f"that becomes {found[0]}x{found[1]}",
            "lower img_scale, img_ratios or the size of Pad",
        )


def tile_padding(config: mmcv.Config, table: Planes) -> TilePadding | None:
    """How a config's test pipeline pads; None where it does not.

    Args:
        config: the config.
        table: what :func:`landseg.models.normalisation.normalisation_table` returns.

    Raises:
        ConfigError: the step is malformed.
    """
    return find_padding(steps_of_test_pipeline(config), table, "test_pipeline")


def find_padding(steps: Sequence[Any], table: Planes, where: str) -> TilePadding | None:
    """What the `Pad` among a pipeline's steps does; None where there is none.

    mmcv fills the first band alone with a `pad_val` that is one number, and the others with 0 (cv2.copyMakeBorder);
    before Normalize that is blue.

    Args:
        steps: of the pipeline, Normalize among them.
        table: what :func:`landseg.models.normalisation.normalisation_table` returns.
        where: the pipeline's name in error lines.

    Raises:
        ConfigError: the step is malformed.
    """
    kinds = [step["type"] for step in steps]
    if "Pad" not in kinds:
        return None
    pad, rest = steps[kinds.index("Pad")], steps[kinds.index("Pad") :]
    size, divisor, value = pad.get("size"), pad.get("size_divisor"), pad.get("pad_val", 0)
    try:
        sides = [divisor] if size is None else list(size)
        if (size is None) == (divisor is None) or len(sides) != (1 if size is None else 2):
            raise ValueError("expected one of size and size_divisor")
        if not all(isinstance(side, int) and 1 <= side <= _MAX_SIDE for side in sides):
            raise ValueError(f"expected sides of 1 to {_MAX_SIDE} px")
        values = list(value) if isinstance(value, list | tuple) else [value, *([0] * (len(table) - 1))]
        later = next((step for step in rest if step["type"] == "Normalize"), None)
        if later is not None:
            rgb = len(table) == 3 and later.get("to_rgb", True)
            values = [row[int(item)] for row, item in zip(table, values[::-1] if rgb else values, strict=True)]
        if len(values) != len(table):
            raise ValueError("expected a value per band")
        return TilePadding(None if size is None else (size[0], size[1]), divisor or 1, tuple(map(float, values)))
    except (TypeError, ValueError, IndexError) as err:
        raise ConfigError(
            where, f"expected Pad(size=(height, width)) or Pad(size_divisor=...), found {dict(pad)}"
        ) from err


def tile_scales(config: mmcv.Config, where: str = "test_pipeline") -> tuple[TileScale, ...]:
    """The scales of a config's test pipeline.

    Args:
        config: the config.
        where: what error lines call the pipeline.

    Raises:
        ConfigError: the pipeline is malformed, or has a step, or an order of steps, that landseg lacks: tiles would not
            be predicted as mmsegmentation predicts them.
    """
    try:
        scales = _tile_scales(config, where)
        sides = [side for scale in scales for side in (scale.size or (1, 1))]
        if len(scales) > _MAX_SCALES:
            raise ConfigError(where, f"expected at most {_MAX_SCALES} scales, found {len(scales)}")
        sane = all(1 <= side <= _MAX_SIDE for side in sides) and all(0 < scale.ratio <= 16 for scale in scales)
        if not sane or not all(1 <= (scale.divisor or 1) <= _MAX_SIDE for scale in scales):
            raise ConfigError(where, f"expected scales of 1 to {_MAX_SIDE} px, found {scales[0]}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as err:
        raise ConfigError(where, f"expected mmseg's {_VIEWS}, found a malformed one: {err}") from err
    return scales


def _tile_scales(config: mmcv.Config, where: str) -> tuple[TileScale, ...]:
    views, steps = _known_steps(_test_pipeline(config), where)
    if views is None:
        return (TileScale(None),)
    multiple = steps.get("ResizeToMultiple", {"size_divisor": None})
    divisor = multiple.get("size_divisor", 32)
    resize = steps.get("Resize")
    if resize is None:
        return (TileScale(None, divisor=divisor),)
    if multiple.get("interpolation") not in {None, "bilinear"}:
        raise ConfigError(where, f"expected bilinear interpolation, found {dict(multiple)}")
    options = {
        "keep_ratio": bool(resize.get("keep_ratio", True)),
        "min_size": resize.get("min_size"),
        "divisor": divisor,
    }
    scale, ratios = views.get("img_scale"), views.get("img_ratios")
    ratios = [1.0] if ratios is None else ratios if isinstance(ratios, list | tuple) else [ratios]
    if scale is None:
        return tuple(TileScale(None, float(ratio), **options) for ratio in ratios)
    sizes = scale if isinstance(scale, list) else [scale]
    return tuple(
        TileScale((int(width * ratio), int(height * ratio)), **options) for width, height in sizes for ratio in ratios
    )


def _known_steps(pipeline: Sequence[Any], where: str) -> tuple[Any, dict[str, Any]]:
    """The MultiScaleFlipAug of a test pipeline, or None, and by type the steps that change tiles.

    Raises:
        ConfigError: a step is not known, there twice, or in a place where landseg does not have it.
    """
    views = next((step for step in pipeline if step["type"] == _VIEWS), None)
    outside = [step for step in pipeline if step is not views and step["type"] not in _LOADING]
    if outside and str(outside[0]["type"]).startswith("Load"):
        found_one = f"found {outside[0]['type']}, which landseg does not have"
        raise ConfigError(
            where,
            f"expected tiles to be read by LoadImageFromFile, {found_one}",
            "where that changes no values, write LoadImageFromFile in its place into the config (a checkpoint's is "
            "meta.config)",
        )
    if views is not None and outside:
        problem = f"expected only {_VIEWS} after LoadImageFromFile, found {outside[0]['type']}"
        raise ConfigError(where, problem, "landseg has no such step: predict with mmsegmentation, or train without it")
    steps = outside if views is None else list(views["transforms"])
    known = _ALONE if views is None else _IN_VIEWS
    kinds = [step["type"] for step in steps]
    for kind in kinds:
        if kind not in known:
            hint = f"steps that resize belong in {_VIEWS}" if kind in _SIZING else "train without it"
            raise ConfigError(where, f"expected only {', '.join(sorted(known))}, found {kind}", hint)
        if kinds.count(kind) > 1 and kind not in _PACKING:
            raise ConfigError(where, f"expected {kind} once, found it {kinds.count(kind)} times")
    found = dict(zip(kinds, steps, strict=True))
    changed = [kind for kind in kinds if kind in ("Normalize", "Pad")]
    for kind in _SIZING:
        if kind in found and changed and kinds.index(kind) > kinds.index(changed[0]):
            raise ConfigError(where, f"expected {kind} before {changed[0]}, found it after")
    return views, found


def loads_floats(config: mmcv.Config) -> bool:
    """Whether a config's test pipeline resizes floats, which are not rounded."""
    return steps_load_floats(steps_of_test_pipeline(config))


def steps_load_floats(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a pipeline's steps are given float32: `LoadImageFromFile`'s `to_float32`."""
    return any(step["type"] == "LoadImageFromFile" and bool(step.get("to_float32")) for step in steps)


def loads_blue_first(config: mmcv.Config) -> bool:
    """Whether a config's test pipeline reads images of four bands as cv2 does: the third band of the file first."""
    loading = [step for step in steps_of_test_pipeline(config) if step["type"] == "LoadImageFromFile"]
    return any(
        step.get("color_type") == "unchanged" and step.get("imdecode_backend", "cv2") == "cv2" for step in loading
    )


def _test_pipeline(config: mmcv.Config) -> list[Any]:
    test = (config.get("data") or {}).get("test") or {}
    return list(test.get("pipeline") or config.get("test_pipeline") or [])


def steps_of_test_pipeline(config: mmcv.Config) -> list[Any]:
    """The steps of a config's test pipeline, those inside of others too."""
    steps = _test_pipeline(config)
    return steps + [inner for step in steps for inner in step.get("transforms", [])]
