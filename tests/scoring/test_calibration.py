"""Calibration: the expected calibration error against its definition, and that counts can be joined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landseg.scoring.calibration import (
    NUM_BINS,
    accuracy,
    calibration_error,
    mean_confidence,
    reliability,
    reliability_counts,
)


def as_published(confidence, right):
    """Equation 5 of Guo et al."""
    confidence = np.asarray(confidence, np.float64)
    error = 0.0
    for m in range(1, NUM_BINS + 1):
        inside = (confidence > (m - 1) / NUM_BINS) & (confidence <= m / NUM_BINS)
        if inside.any():
            error += inside.sum() / len(right) * abs(right[inside].mean() - confidence[inside].mean())
    return error


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([0.2, 1.0, 5.0]))
def test_the_error_is_the_published_one(seed, num_pixels, sharpness):
    rng = np.random.default_rng(seed)
    units = np.rint(65535 * rng.uniform(size=num_pixels) ** (1 / sharpness))  # in which they are counted
    confidence = (units / 65535).astype(np.float32)
    right = rng.uniform(size=num_pixels) < confidence
    counts = reliability_counts(confidence, right)
    assert counts[0].sum() == num_pixels
    assert calibration_error(counts) == pytest.approx(as_published(units / 65535, right), abs=1e-9)
    assert mean_confidence(counts) == pytest.approx(confidence.mean(), abs=1e-4)
    assert accuracy(counts) == pytest.approx(right.mean())


def test_ends_of_bins_belong_to_the_lower_bin():
    ends = (np.arange(NUM_BINS + 1) / NUM_BINS).astype(np.float32)
    counts = reliability_counts(ends, np.ones(NUM_BINS + 1, bool))
    assert counts[0].tolist() == [2, *[1] * (NUM_BINS - 1)]


def test_joined_counts_are_those_of_all_pixels_in_any_order():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1, 1000).astype(np.float32)
    right = rng.uniform(size=1000) < 0.7
    whole = reliability_counts(confidence, right)
    order = rng.permutation(1000)
    parts = [reliability_counts(confidence[part], right[part]) for part in np.array_split(order, 7)]
    np.testing.assert_array_equal(sum(parts), whole)


def test_a_model_that_is_too_sure_is_off_by_how_much():
    counts = reliability_counts(np.full(1000, 0.9, np.float32), np.arange(1000) < 600)
    assert calibration_error(counts) == pytest.approx(0.3, abs=1e-4)
    confidence, right = reliability(counts)
    assert np.nonzero(~np.isnan(confidence))[0].tolist() == [13]
    assert (confidence[13], right[13]) == (pytest.approx(0.9, abs=1e-4), 0.6)


def test_nothing_is_known_of_no_pixels():
    counts = reliability_counts(np.empty(0, np.float32), np.empty(0, bool))
    assert (calibration_error(counts), mean_confidence(counts), accuracy(counts)) == (None, None, None)
    assert np.isnan(reliability(counts)).all()
