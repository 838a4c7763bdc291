"""Bootstrap intervals."""

import tracemalloc

import numpy as np
import pytest

from landseg.scoring.confusion import class_areas
from landseg.scoring.intervals import Resampling, area_scores, interval, resample, t_quantile
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
    draws = area_scores(drawn, "abc")["mIoU"]
    low, high = interval(expected, draws, 8)
    assert low < expected < high
    assert high - expected == pytest.approx(expected - low)
    assert interval(expected, draws, 4)[0] < low
    assert resample(areas[:1]) is None


def test_an_interval_ends_where_scores_do_and_is_not_made_of_nothing():
    draws = np.array([0.9, 1.0, 1.0, np.nan])
    low, high = interval(1.0, draws, 3)
    assert (low < 0.9, high) == (True, 1.0)
    assert interval(0.0, np.array([-0.9, 0.9]), 2, (-1.0, 1.0)) == (-1.0, 1.0)
    assert interval(1.0, draws, 1) is None
    assert interval(1.0, np.array([np.nan, 1.0]), 9) is None


@pytest.mark.parametrize(
    ("degrees", "expected"),
    # of any table of Student's t: 97.5 %
    [
        (1, 12.706),
        (2, 4.303),
        (3, 3.182),
        (4, 2.776),
        (5, 2.571),
        (10, 2.228),
        (30, 2.042),
        (120, 1.980),
        (10**6, 1.960),
    ],
)
def test_quantiles_are_those_of_the_table(degrees, expected):
    assert t_quantile(degrees) == pytest.approx(expected, abs=6e-4)


def test_intervals_over_scenes_hold_what_they_promise_and_those_over_tiles_do_not():
    rng = np.random.default_rng(0)
    true = 0.5

    def holds(units):
        areas = np.stack([units, np.full_like(units, 1000), np.full_like(units, 1000)], axis=1)
        found = area_scores(areas.sum(axis=0).astype(float), "a")["aAcc"]
        low, high = interval(float(found), area_scores(resample(areas), "a")["aAcc"], len(units))
        return low <= true <= high

    hits = np.zeros(2)
    for _ in range(150):
        difficulty = rng.uniform(0.2, 0.8, 6)  # of each of six scenes
        tiles = rng.binomial(1000, np.repeat(difficulty, 8)[:, None])
        hits += holds(tiles), holds(tiles.reshape(6, 8, 1).mean(axis=1).astype(int))
    tile_share, scene_share = hits / 150
    assert 0.9 <= scene_share <= 0.99
    assert tile_share < 0.75


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


def test_draws_of_many_blocks_are_not_held():
    num_blocks = 2000
    areas = np.arange(2 * num_blocks * 6).reshape(num_blocks, 2, 3, 2)
    tracemalloc.start()
    found = Resampling([2] * num_blocks)
    for number in [*range(1, num_blocks), 0]:
        found.add(number, areas[number])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 1000 * num_blocks / 2  # the draws of all blocks take twice as much
    mean, spread = found.sums.mean(axis=0), found.sums.std(axis=0)
    np.testing.assert_allclose(mean, areas.sum(axis=(0, 1)), rtol=0.01)
    expected = np.sqrt(2 * num_blocks) * areas.reshape(-1, 3, 2).std(axis=0)
    np.testing.assert_allclose(spread, expected, rtol=0.1)
