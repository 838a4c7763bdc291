"""A smaller set of views is weighed as export weighs it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from landseg.contracts.probabilities import VIEW_WEIGHTS, VIEWS
from landseg.ensemble.fewer_views import FewerViewsAverage, fewer_views


def member(tta: str) -> Any:
    spec = SimpleNamespace(dtype="float32", views=VIEWS[tta])  # type: ignore[index]
    return SimpleNamespace(reader=SimpleNamespace(spec=spec), weight=0.5, temperature=1.0)


def test_smaller_sets_come_first_and_have_weights() -> None:
    assert fewer_views([member("d4"), member("d4")]) == ("none", "h", "hv")
    assert fewer_views([member("d4"), member("hv")]) == ()
    for tta, views in VIEWS.items():
        assert len(VIEW_WEIGHTS[tta]) == len(views)
        assert views == VIEWS["d4"][: len(views)]


def test_the_original_counts_twice_in_hv() -> None:
    average = FewerViewsAverage("hv", (member("d4"),))
    views = [np.array(probs, np.float32).reshape(2, 1, 1) for probs in ([0.6, 0.4], [0.42, 0.58], [0.42, 0.58])]
    prepared = average.prepare([[*views, *views, views[1], views[1]]])
    assert len(prepared) == 3
    assert [labels.item() for labels in average.labels(prepared)] == [0, 0]  # by equal weights it would be class 1
