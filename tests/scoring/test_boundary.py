"""Boundary IoU against its definition, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.scoring.boundary import boundary_areas, boundary_distance_px, boundary_scores, near_outline

CLASSES = ("a", "b", "c")
UNLABELLED = 255


def near_by_definition(mask, distance_px):
    """Pixels of a mask that an erosion by a square of the distance takes away; outside the tile, the mask goes on."""
    found = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        square = mask[max(0, y - distance_px) : y + distance_px + 1, max(0, x - distance_px) : x + distance_px + 1]
        found[y, x] = not square.all()
    return found


def blobs(seed, height, width):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (-(-height // 4), -(-width // 4)))
    return np.kron(coarse, np.ones((4, 4))).astype(np.uint8)[:height, :width].copy()


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 2), st.integers(1, 20), st.integers(1, 20), st.integers(1, 7), st.integers(1, 3))
def test_boundaries_are_those_of_each_class_alone(seed, height, width, distance_px, every):
    truth, pred = blobs(seed, height, width), blobs(seed + 1, height, width)
    near = [near_outline(labels, 3, distance_px, every) for labels in (truth, pred)]
    grid = np.s_[::every, ::every]
    areas = boundary_areas((truth[grid], near[0]), (pred[grid], near[1]), 3)
    scores = boundary_scores(areas, CLASSES)
    for class_id, name in enumerate(CLASSES):
        of_truth, of_pred = (near_by_definition(labels == class_id, distance_px)[grid] for labels in (truth, pred))
        both, either = (of_truth & of_pred).sum(), (of_truth | of_pred).sum()
        if of_truth.any():
            assert scores[f"IoU.{name}"] == pytest.approx(both / either)
        else:
            assert f"IoU.{name}" not in scores


def test_pixels_without_a_label_neither_count_nor_make_an_outline():
    truth = np.zeros((8, 8), np.uint8)
    truth[:, 4:] = UNLABELLED
    assert not near_outline(truth, 3, 2).any()
    truth[:4, :2] = 1
    near = near_outline(truth, 3, 1)
    assert near[4, 1]
    assert not near[:, 4:].any()
    pred = np.full((8, 8), 2, np.uint8)
    pred[0] = 0
    areas = boundary_areas((truth, near), (pred, near_outline(pred, 3, 1)), 3)
    assert areas[1].sum() == near.sum()
    assert areas[2].sum() == 2 * 4  # two rows, where labelled


def test_the_distance_is_two_percent_of_the_diagonal():
    assert [boundary_distance_px(*size) for size in ((1, 1), (48, 48), (512, 512), (300, 400))] == [1, 1, 14, 10]


def test_a_shifted_outline_costs_more_than_in_plain_iou():
    truth, pred = np.zeros((2, 512, 512), np.uint8)
    truth[:, :256], pred[:, :263] = 1, 1
    near = [near_outline(labels, 2, 14) for labels in (truth, pred)]
    scores = boundary_scores(boundary_areas((truth, near[0]), (pred, near[1]), 2), ("a", "b"))
    assert scores["IoU.b"] == pytest.approx(7 / 21)  # plain: 256 / 263
    assert boundary_scores(np.zeros((3, 2), np.int64), ("a", "b")) == {}
