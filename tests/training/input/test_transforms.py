"""Training transforms: reproducible, and equal to stock mmsegmentation where it has them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.contracts.errors import ConfigError, DataError
from landseg.training.input.augment import PIPELINES
from landseg.training.input.compiling import build_pipeline
from landseg.training.input.config_pipeline import IMAGENET_MEAN, IMAGENET_STD
from landseg.training.input.pipeline import Pipeline, target_size
from landseg.training.input.transforms import seeded

STEPS: list[dict[str, Any]] = [
    {"type": "IndependentFlip", "prob": 0.5, "direction": "horizontal"},
    {"type": "IndependentFlip", "prob": 0.5, "direction": "vertical"},
    {"type": "PhotoMetricDistortion"},
    {"type": "Normalize", "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "to_rgb": True},
    {"type": "Pad", "size": (48, 56), "pad_val": 0, "seg_pad_val": 255},
]


def _tile(height: int, width: int, bands: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, bands), np.uint8)
    return image, rng.integers(0, 9, (height, width), np.uint8)


def _ours(pipeline: Pipeline, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image, label, pending = pipeline.augment(image, label)
    size = target_size(pipeline, None, label.shape, "a")
    planes, target = np.empty((image.shape[2], *size), np.float32), np.empty(size, np.uint8)
    pipeline.write(image, label, pending, planes, target)
    return planes, target


def _stock(steps: list[dict[str, Any]], image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mmseg's own classes, given the BGR image that mmseg reads from an RGB file."""
    results: dict[str, Any] = {"img": image[..., ::-1].copy(), "gt_semantic_seg": label.copy()}
    results |= {"seg_fields": ["gt_semantic_seg"], "img_shape": image.shape, "scale_factor": 1.0}
    for step in steps:
        if step["type"] == "LoadImageFromFile":
            results["img"] = results["img"].astype(np.float32)
            continue
        results = PIPELINES.build(dict(step))(results)
    return results["img"].transpose(2, 0, 1), results["gt_semantic_seg"]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 48), width=st.integers(1, 56))
def test_equal_to_mmseg_bit_for_bit_for_the_same_draws(seed: int, height: int, width: int) -> None:
    image, label = _tile(height, width, seed=seed)
    pipeline = build_pipeline(STEPS, IMAGENET_MEAN, IMAGENET_STD)
    np.random.seed(seed)
    planes, target = _ours(pipeline, image, label)
    np.random.seed(seed)
    expected, expected_target = _stock(STEPS, image, label)
    np.testing.assert_array_equal(planes, expected)
    np.testing.assert_array_equal(target, expected_target)


@pytest.mark.parametrize(
    "steps",
    [
        [*STEPS[:4], {"type": "Pad", "size_divisor": 32}],
        [*STEPS[:4], {"type": "Pad", "size": (48, 56), "pad_val": 2.5, "seg_pad_val": 7}],
        [*STEPS[:3], {"type": "Pad", "size_divisor": 16, "pad_val": 9}, STEPS[3]],
        [{"type": "Pad", "size": (48, 56), "pad_val": 3}, *STEPS[:4]],
    ],
)
def test_padding_of_all_kinds_is_mmsegs(steps: list[dict[str, Any]]) -> None:
    image, label = _tile(40, 33)
    np.random.seed(5)
    planes, target = _ours(build_pipeline(steps, IMAGENET_MEAN, IMAGENET_STD), image, label)
    np.random.seed(5)
    expected, expected_target = _stock(steps, image, label)
    np.testing.assert_array_equal(planes, expected)
    np.testing.assert_array_equal(target, expected_target)


def test_samples_padded_to_a_multiple_make_a_batch() -> None:
    pipeline = build_pipeline([STEPS[3], {"type": "Pad", "size_divisor": 32}], IMAGENET_MEAN, IMAGENET_STD)
    assert target_size(pipeline, None, (40, 33), "a") == (64, 64)
    assert target_size(pipeline, (64, 64), (64, 50), "b") == (64, 64)
    with pytest.raises(DataError, match="tile c"):
        target_size(pipeline, (64, 64), (20, 64), "c")


@pytest.mark.parametrize("seed", range(6))
def test_steps_without_a_fast_form_run_as_mmseg_has_them(seed: int) -> None:
    steps = [
        {"type": "Resize", "img_scale": (80, 64), "ratio_range": (0.8, 1.5)},
        {"type": "RandomCrop", "crop_size": (32, 40), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        *STEPS[2:],
    ]
    image, label = _tile(60, 70)
    np.random.seed(seed)
    planes, target = _ours(build_pipeline(steps, IMAGENET_MEAN, IMAGENET_STD), image, label)
    np.random.seed(seed)
    expected, expected_target = _stock(steps, image, label)
    np.testing.assert_array_equal(planes, expected)
    np.testing.assert_array_equal(target, expected_target)


class _RandomFlipOfOthers:
    """The documented draw of mmdetection 2.x's and mmcv 2.x's RandomFlip, written anew."""

    def __init__(self, prob: Any, direction: Any) -> None:
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        self.prob = prob if isinstance(prob, list) else [prob / len(self.directions)] * len(self.directions)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        drawn = np.random.choice([*self.directions, None], p=[*self.prob, 1 - sum(self.prob)])
        axes = {"horizontal": (1,), "vertical": (0,), "diagonal": (0, 1), None: ()}
        return np.flip(image, axes[drawn])


@pytest.mark.parametrize("crops", [False, True])
@pytest.mark.parametrize(
    ("prob", "direction"),
    [
        ([0.3, 0.5], ["horizontal", "vertical"]),
        (0.9, ["horizontal", "vertical", "diagonal"]),
        ([0.6], "vertical"),
        (0.5, "diagonal"),
    ],
)
def test_flips_may_have_several_directions(prob: Any, direction: Any, crops: bool) -> None:
    steps = [{"type": "RandomFlip", "prob": prob, "direction": direction}, STEPS[3]]
    if crops:  # after which flips have no fast form
        steps.insert(1, {"type": "RandomCrop", "crop_size": (30, 40)})
    image, label = _tile(30, 40)
    seen = set()
    for seed in range(12):
        np.random.seed(seed)
        planes, target = _ours(build_pipeline(steps, IMAGENET_MEAN, IMAGENET_STD), image, label)
        np.random.seed(seed)
        expected = _RandomFlipOfOthers(prob, direction)(np.dstack([image, label]))
        np.testing.assert_array_equal(target, expected[..., 3])
        table = build_pipeline(STEPS[3:4], IMAGENET_MEAN, IMAGENET_STD)
        np.testing.assert_array_equal(planes, _ours(table, np.ascontiguousarray(expected[..., :3]), target)[0])
        seen.add(planes.tobytes())
    assert len(seen) > 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "steps",
    [
        [{"type": "Rerange", "min_value": 3, "max_value": 200}, {"type": "RandomFlip", "prob": 0.5}, *STEPS[3:]],
        [{"type": "RGB2Gray", "out_channels": 3}, *STEPS[3:]],
        [{"type": "LoadImageFromFile", "to_float32": True}, *STEPS],
        [
            {"type": "LoadImageFromFile", "to_float32": True},
            {"type": "Resize", "img_scale": (50, 44), "ratio_range": (0.8, 1.0)},
            *STEPS[1:],
        ],
    ],
    ids=["Rerange", "RGB2Gray", "to_float32", "to_float32 resized"],
)
def test_images_may_be_floats_before_they_are_normalised(steps: list[dict[str, Any]], seed: int) -> None:
    image, label = _tile(40, 50)
    np.random.seed(seed)
    planes, target = _ours(build_pipeline(steps, IMAGENET_MEAN, IMAGENET_STD), image, label)
    np.random.seed(seed)
    expected, expected_target = _stock(steps, image, label)
    np.testing.assert_array_equal(planes, expected)
    np.testing.assert_array_equal(target, expected_target)


def test_colours_of_float64_are_distorted_where_cv2_would_not() -> None:
    steps = [{"type": "Rerange"}, *STEPS[2:4]]
    for seed in range(8):
        np.random.seed(seed)
        planes, _ = _ours(build_pipeline(steps, IMAGENET_MEAN, IMAGENET_STD), *_tile(8, 8))
        assert np.isfinite(planes).all()


def test_float_images_may_have_any_number_of_bands() -> None:
    image, label = _tile(16, 20, bands=5)
    mean, std = (10.0, 20.0, 30.0, 40.0, 50.0), (2.0, 4.0, 8.0, 16.0, 32.0)
    distortion = {"type": "PhotoMetricDistortion", "brightness_delta": 0, "contrast_range": (1, 1)}
    steps = [{"type": "LoadImageFromFile", "to_float32": True}, distortion, *STEPS[3:4]]
    planes, _ = _ours(build_pipeline(steps, mean, std), image, label)
    np.testing.assert_array_equal(planes, _ours(build_pipeline(steps[2:], mean, std), image, label)[0])


def test_labels_of_another_size_than_their_image_are_refused() -> None:
    pipeline = build_pipeline([{"type": "SegRescale", "scale_factor": 0.25}, STEPS[3]], IMAGENET_MEAN, IMAGENET_STD)
    with pytest.raises(ConfigError, match=r"found 16x20 and 4x5 px \(leave out SegRescale"):
        pipeline.augment(*_tile(16, 20))


def test_bgr_models_get_their_bands_in_reverse() -> None:
    steps = [{"type": "Normalize", "mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0, 4.0], "to_rgb": False}]
    image, label = _tile(8, 8)
    planes, _ = _ours(build_pipeline(steps, IMAGENET_MEAN, IMAGENET_STD), image, label)
    expected, _ = _stock(steps, image, label)
    np.testing.assert_array_equal(planes, expected)


def test_more_bands_are_normalised_by_their_own_statistics_and_keep_their_colours() -> None:
    image, label = _tile(16, 16, bands=5)
    mean, std = (10.0, 20.0, 30.0, 40.0, 50.0), (2.0, 4.0, 8.0, 16.0, 32.0)
    steps = [{"type": "PhotoMetricDistortion", "brightness_delta": 0, "contrast_range": (1, 1)}, *STEPS[3:4]]
    planes, _ = _ours(build_pipeline(steps, mean, std), image, label)
    expected = (image.astype(np.float32) - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(planes, expected.transpose(2, 0, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "first",
    [
        [],
        [{"type": "Resize", "img_scale": (40, 32)}, {"type": "CLAHE"}],
        [{"type": "RandomFlip", "prob": [0.3, 0.3, 0.3], "direction": ["horizontal", "vertical", "diagonal"]}],
    ],
    ids=["flips", "Resize", "directions"],
)
def test_a_single_band_keeps_its_axis_through_every_step(first: list[dict[str, Any]]) -> None:
    steps = [*first, *STEPS[0 if not first else 2 :]]
    steps[-2] = {"type": "Normalize", "mean": [0.0], "std": [1.0]}
    pipeline = build_pipeline(steps, [0.0], [1.0])
    image, label = _tile(32, 40, bands=1)
    moved = set()
    for draw in range(8):
        with seeded(0, draw, 0):
            found, labels, _ = pipeline.augment(image, label)
        assert found.shape == (32, 40, 1)
        moved.add(labels.tobytes())
    assert len(moved) > 1 or first[1:]


def test_draws_depend_on_seed_epoch_and_index_only() -> None:
    def draw(seed: int, epoch: int, index: int) -> float:
        with seeded(seed, epoch, index):
            return float(np.random.rand())

    np.random.seed(3)
    before = draw(0, 1, 2)
    np.random.rand(100)
    assert draw(0, 1, 2) == before
    assert len({before, draw(1, 1, 2), draw(0, 2, 2), draw(0, 1, 3), draw(0, 2, 1)}) == 5


def test_seeding_leaves_the_generator_as_it_was() -> None:
    np.random.seed(7)
    expected = np.random.rand(3)
    np.random.seed(7)
    np.random.rand(1)
    with seeded(0, 0, 0):
        np.random.rand(50)
    assert np.random.rand(2).tolist() == expected[1:].tolist()


def test_a_tile_larger_than_the_crop_is_refused_by_name() -> None:
    pipeline = build_pipeline(STEPS, IMAGENET_MEAN, IMAGENET_STD)
    with pytest.raises(DataError, match=r"tile big: expected at most 48x56 px.*found 49x56.*smaller tiles"):
        target_size(pipeline, None, (49, 56), "big")


def test_unpadded_tiles_of_one_batch_must_agree() -> None:
    pipeline = build_pipeline(STEPS[:4], IMAGENET_MEAN, IMAGENET_STD)
    assert target_size(pipeline, None, (8, 8), "a") == (8, 8)
    assert target_size(pipeline, (8, 8), (8, 8), "b") == (8, 8)
    with pytest.raises(DataError, match="tile b"):
        target_size(pipeline, (8, 8), (4, 8), "b")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([STEPS[3], {"type": "RandomCrop", "crop_size": (8, 8)}], "expected one Normalize, after every step"),
        (STEPS[:3], "expected one Normalize"),
        ([{"type": "RandomFlip", "prob": 0.5}, {"type": "RandomFlip", "prob": 0.5}, STEPS[3]], "IndependentFlip"),
        ([{"type": "NoSuchStep"}, STEPS[3]], "NoSuchStep.*cannot be built"),
        ([STEPS[3], {"type": "Pad"}], "expected Pad"),
        ([{"type": "Normalize", "mean": [0.5] * 3, "std": [0.2, 0, 0.2]}], "a mean and a positive std per band"),
        ([{"type": "Normalize", "mean": 127.5, "std": 127.5}], "a list of a mean and one of a positive std per band"),
        ([{"type": "Normalize", "mean": [0.5] * 3}], "std per band, found .* and None"),
        ([STEPS[3], {"type": "Pad", "size": 32}], "expected Pad"),
        ([{"type": "RandomFlip"}, STEPS[3]], "RandomFlip: expected a probability"),
        ([{"type": "RandomFlip", "prob": 0.5, "direction": "up"}, STEPS[3]], "RandomFlip: expected directions"),
        ([{"type": "RandomFlip", "prob": [0.5, 0.6], "direction": ["horizontal", "vertical"]}, STEPS[3]], "1 at most"),
        ([{"type": "RandomFlip", "prob": [0.5], "direction": ["horizontal", "vertical"]}, STEPS[3]], "each direction"),
        ([{"type": "RandomFlip", "prob": ["a"]}, {"type": "RandomCrop", "crop_size": (8, 8)}, STEPS[3]], "probability"),
    ],
)
def test_pipelines_that_cannot_be_followed_are_refused(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_pipeline(steps, IMAGENET_MEAN, IMAGENET_STD)


def test_a_sample_repeats_whatever_generator_a_transform_draws_from() -> None:
    def draw() -> tuple[float, float, float]:
        with seeded(1, 2, 3):
            return random.random(), float(np.random.rand()), float(torch.rand(1))

    before = random.getstate(), torch.get_rng_state()
    first = draw()
    assert draw() == first
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    with seeded(1, 2, 4):
        assert random.random() != first[0]
