"""A config's `train_pipeline`, compiled: which steps get a fast form, and which run as mmseg's own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from landseg.contracts.errors import ConfigError
from landseg.models.normalisation import mean_and_std, normalisation_table
from landseg.models.preprocessing import find_padding, steps_load_floats
from landseg.training.input.augment import DIRECTIONS, PIPELINES, BandDistortion, RandomDirectionFlip, flip_choices
from landseg.training.input.mixing import MIXED, BandMosaic, is_mixing
from landseg.training.input.pipeline import SEG_PAD_VALUE, Pipeline
from landseg.training.input.transforms import DirectionFlip, Flip, PhotoMetricDistortion

_FLIPS = {"RandomFlip", "IndependentFlip"}
_FAST = _FLIPS | {"PhotoMetricDistortion", "Normalize", "Pad"}
_FLIP_CODES = dict(zip(DIRECTIONS, (1, 0, -1), strict=True))
"""Of `cv2.flip`."""

_LOADING = {"LoadImageFromFile", "LoadAnnotations"}  # tiles are read from shards
_PACKING = {"DefaultFormatBundle", "Collect", "ImageToTensor", "ToTensor", "Transpose", "ToDataContainer"}
"""Batches are filled directly."""


def build_pipeline(
    steps: Sequence[Mapping[str, Any]],
    mean: Sequence[float],
    std: Sequence[float],
    mixed: Sequence[Mapping[str, Any]] = (),
) -> Pipeline:
    """Compile a config's `train_pipeline`.

    Args:
        steps: mmseg pipeline steps; loading and packing steps are left out.
        mean: per band; the config's Normalize takes precedence where it has as many bands.
        std: as `mean`.
        mixed: the steps of a MultiImageMixDataset, which come after those that each tile passes alone.

    Raises:
        ConfigError: a step is unknown, or comes after Normalize and has no fast form.
    """
    own, mixed = ([dict(step) for step in part if step["type"] not in _LOADING | _PACKING] for part in (steps, mixed))
    plan = own + mixed
    fast_from = len(plan)
    while fast_from and plan[fast_from - 1]["type"] in _FAST and not _moves_padding(plan[fast_from - 1 :]):
        fast_from -= 1
    mmseg_steps, fast = plan[:fast_from], plan[fast_from:]
    kinds = [step["type"] for step in fast]
    _check_order(mmseg_steps, fast)
    normalize = fast[kinds.index("Normalize")]
    if "mean" in normalize:
        own_mean, own_std = mean_and_std(normalize, "train_pipeline")
        if len(own_mean) == len(mean):
            mean, std = own_mean, own_std
    pad = fast[kinds.index("Pad")] if "Pad" in kinds else {}
    random_steps = [step for step in fast if step["type"] not in {"Normalize", "Pad"}]
    built = tuple(_build_mmseg(step) for step in mmseg_steps)
    num_alone = min(len(own), len(built))
    _check_alone(built[:num_alone], mmseg_steps)
    return Pipeline(
        mmseg_steps=built,
        num_alone=num_alone,
        steps=tuple(map(_fast, random_steps)),
        slow_steps=tuple(map(_build_mmseg, random_steps)),
        loads_float=steps_load_floats(steps)
        and (bool(built) or "PhotoMetricDistortion" in kinds),  # to the others, it makes no difference
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
        padding=find_padding(fast, normalisation_table(mean, std), "train_pipeline"),
        reverse=len(mean) == 3 and not normalize.get("to_rgb", True),
        seg_pad_value=int(pad.get("seg_pad_val", SEG_PAD_VALUE)),
    )


def _check_order(mmseg_steps: Sequence[Mapping[str, Any]], fast: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an order in which a step would not see what it expects."""
    before, kinds = [step["type"] for step in mmseg_steps], [step["type"] for step in fast]
    if kinds.count("Normalize") != 1 or "Normalize" in before:
        raise ConfigError(
            "train_pipeline",
            f"expected one Normalize, after every step that moves pixels, found {before + kinds}",
            "reorder the pipeline: Resize, RandomCrop, ..., RandomFlip, PhotoMetricDistortion, Normalize, Pad",
        )
    if (before + kinds).count("RandomFlip") > 1:
        raise ConfigError(
            "train_pipeline",
            "a second RandomFlip repeats the first one's draw and direction, and so undoes it",
            "use IndependentFlip, which draws independently",
        )


def _check_alone(built: Sequence[Any], steps: Sequence[Mapping[str, Any]]) -> None:
    """Refuse steps that need other tiles, of those that each tile passes alone."""
    for transform, step in zip(built, steps, strict=False):
        if is_mixing(transform):
            raise ConfigError(
                "train_pipeline",
                f"{step['type']} needs other tiles, which only a {MIXED} has",
                f"make data.train a {MIXED} with this step in its pipeline, around the dataset",
            )


def _moves_padding(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first step pads and a later one flips or distorts what it added: mmseg's classes do that."""
    return steps[0]["type"] == "Pad" and any(step["type"] in _FLIPS | {"PhotoMetricDistortion"} for step in steps)


def _fast(step: dict[str, Any]) -> Flip | DirectionFlip | PhotoMetricDistortion:
    options = {key: value for key, value in step.items() if key != "type"}
    if step["type"] == "PhotoMetricDistortion":
        return PhotoMetricDistortion(**options)
    choices = _flip_choices(step)
    if _is_stock_flip(step):
        ((direction, prob),) = choices.items()
        return Flip(prob, _FLIP_CODES[direction])
    slow = RandomDirectionFlip(choices)
    return DirectionFlip(tuple(map(_FLIP_CODES.__getitem__, slow.directions)), slow.probabilities)


def _flip_choices(step: dict[str, Any]) -> dict[str, float]:
    try:
        return flip_choices(step.get("prob", step.get("flip_ratio")), step.get("direction", "horizontal"))
    except ValueError as err:
        raise ConfigError("train_pipeline", f"{step['type']}: {err}") from err


def _is_stock_flip(step: dict[str, Any]) -> bool:
    """Whether mmseg 0.x's own RandomFlip does it: lists and the diagonal are mmdetection's and mmseg 1.x's."""
    prob, direction = step.get("prob", step.get("flip_ratio")), step.get("direction", "horizontal")
    return not isinstance(prob, list | tuple) and direction in ("horizontal", "vertical")


def _build_mmseg(step: dict[str, Any]) -> Any:
    options = {key: value for key, value in step.items() if key != "type"}
    try:
        if step["type"] == "RandomMosaic":
            return BandMosaic(**options)
        if step["type"] == "PhotoMetricDistortion":
            return BandDistortion(**options)
        if step["type"] in _FLIPS:
            choices = _flip_choices(step)
            if not _is_stock_flip(step):
                return RandomDirectionFlip(choices)
        return PIPELINES.build(step)
    except (KeyError, TypeError, ValueError, AssertionError) as err:
        is_unknown = isinstance(err, KeyError)
        hint = "leave it out; for a step of your own, custom_imports lists its module" if is_unknown else ""
        raise ConfigError("train_pipeline", f"step {step} cannot be built: {err}", hint) from err
