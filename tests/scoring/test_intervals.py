"""Bootstrap intervals."""

import numpy as np
import pytest

from landseg.scoring.confusion import class_areas
from landseg.scoring.intervals import Resampling, area_scores, interval, resample
from landseg.scoring.scores import scores


def some_confusions():
    """Of eight tiles with three classes, the last of which occurs nowhere."""
    confusions = np.random.default_rng(0).integers(0, 50, (8, 3, 3))
    confusions[:, 2] = confusions[:, :, 2] = 0
    return confusions


def test_scores_of_areas_are_those_of_the_confusion_matrix():
    confusions = some_confusions()
    areas = np.stack([class_areas(c) for c in confusions])
    found = area_scores(areas.sum(axis=0).astype(float), "abc")
    expected = scores(confusions.sum(axis=0), "abc")
    assert {key: float(value) for key, value in found.items() if not np.isnan(value)} == pytest.approx(expected)


def test_the_interval_holds_the_score_and_is_the_same_every_time():
    areas = np.stack([class_areas(c) for c in some_confusions()])
    expected = float(area_scores(areas.sum(axis=0).astype(float), "abc")["mIoU"])
    drawn = resample(areas)
    assert drawn.shape == (1000, 3, 3)
    np.testing.assert_array_equal(drawn, resample(areas))
    low, high = interval(area_scores(drawn, "abc")["mIoU"])
    assert low < expected < high
    assert resample(areas[:1]) is None
    assert interval(np.array([np.nan])) is None


def test_blocks_may_come_in_any_order():
    areas = np.stack([class_areas(c) for c in some_confusions()])
    parts = [(0, areas[:3]), (1, areas[:0]), (2, areas[3:])]
    rising, falling = Resampling([3, 0, 5]), Resampling([3, 0, 5])
    for number, block in parts:
        rising.add(number, block)
    for number, block in parts[::-1]:
        falling.add(number, block)
    np.testing.assert_array_equal(rising.sums, falling.sums)
    np.testing.assert_allclose(rising.sums.mean(axis=0), areas.sum(axis=0), rtol=0.1, atol=1)
    assert (rising.sums[:, 1:].sum() > 0) and not rising.sums[:, :, 2].any()
