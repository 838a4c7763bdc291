"""Rare classes are drawn more often, in the same order whenever training restarts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from landseg.contracts.dataset import ClassSchema
from landseg.training.input.batches import BatchOrder
from landseg.training.input.sampling import draw, tile_probabilities

SCHEMA = ClassSchema(
    classes=("field", "road", "water"), palette=((0, 0, 0),) * 3, bands=(1,), label_offset=1, ignore_index=255
)


def tiles(*counts: dict[int, int]) -> list[Any]:
    """Tiles with these pixels by stored label value."""
    return [SimpleNamespace(label_counts=tuple(one.items())) for one in counts]


def test_a_tile_counts_by_the_rarity_of_what_it_holds() -> None:
    # Stored values are one above the class ids; 255 is ignored, 9 is no class.
    found = tile_probabilities(tiles({1: 100}, {1: 100}, {1: 96, 2: 2}, {255: 100, 9: 3}), SCHEMA)
    field, road = 1 / np.sqrt(296), 1 / np.sqrt(2)
    by_field, by_road = field / (field + road) / 3, road / (field + road)
    np.testing.assert_allclose(found, 1 / 8 + 0.5 * np.array([by_field, by_field, by_field + by_road, 0]))
    assert found.sum() == np.float64(1)
    np.testing.assert_allclose(tile_probabilities(tiles({255: 4}, {}), SCHEMA), [0.5, 0.5])


def test_draws_repeat_and_a_tile_drawn_again_is_another_draw() -> None:
    probabilities = np.array([0.7, 0.2, 0.1])
    order, earlier = draw(probabilities, 3, 1)
    assert np.array_equal(order, draw(probabilities, 3, 1)[0])
    for index in range(3):
        assert earlier[order == index].tolist() == list(range((order == index).sum()))
    many = np.concatenate([draw(probabilities, 3, epoch)[0] for epoch in range(2000)])
    np.testing.assert_allclose(np.bincount(many) / len(many), probabilities, atol=0.02)


def test_batches_of_a_restart_and_of_a_team_are_the_same() -> None:
    probabilities = np.full(12, 1 / 12)
    whole = list(BatchOrder(12, 4, 1, 0, 5, probabilities).batches(0, 9))
    assert list(BatchOrder(12, 4, 1, 0, 5, probabilities).batches(4, 9)) == whole[4:]
    halves = [list(BatchOrder(12, 2, 2, rank, 5, probabilities).batches(0, 9)) for rank in range(2)]
    assert [sorted(one + two) for one, two in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]
    keys = [key for batch in whole[:3] for key in batch]
    assert len(set(keys)) == 12  # no tile is transformed alike twice in an epoch
    assert len({index for _, index in keys}) < 12
