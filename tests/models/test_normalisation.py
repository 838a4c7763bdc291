"""What a config's test pipeline says of normalisation, and what error lines say where it says nothing."""

from __future__ import annotations

import mmcv
import pytest

from landseg.contracts.errors import ConfigError
from landseg.models.normalisation import find_normalize

NORMALIZE = {"type": "Normalize", "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "to_rgb": True}


@pytest.mark.parametrize(
    "fields",
    [
        {"data": {"test": {"pipeline": [NORMALIZE]}}},
        {"test_pipeline": [{"type": "MultiScaleFlipAug", "transforms": [{"type": "Resize"}, NORMALIZE]}]},
    ],
)
def test_mean_and_std_of_the_test_pipeline(fields):
    assert find_normalize(mmcv.Config(fields), "config") == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


@pytest.mark.parametrize(
    ("fields", "problem", "hint"),
    [
        ({}, "found none", "set data.test.pipeline as mmseg's own configs do"),
        ({"data": {"test": {"pipeline": [{"type": "Resize"}]}}}, "found none", "set data.test.pipeline"),
        ({"test_pipeline": [{**NORMALIZE, "std": [1.0]}]}, "expected a mean and a positive std per band", None),
        ({"test_pipeline": [{**NORMALIZE, "std": [0.0, 1.0, 1.0]}]}, "a positive std per band", None),
        ({"test_pipeline": [{"type": "Normalize", "mean": "a"}]}, "std per band, found 'a' and None", None),
        ({"test_pipeline": [{**NORMALIZE, "mean": [float("nan"), 1.0, 1.0]}]}, "a positive std per band", None),
        ({"test_pipeline": [{"type": "Normalize", "mean": [], "std": []}]}, "a positive std per band", None),
        ({"test_pipeline": [3]}, "found a malformed one", None),
    ],
)
def test_what_cannot_be_used_is_one_line(fields, problem, hint):
    with pytest.raises(ConfigError) as caught:
        find_normalize(mmcv.Config(fields), "config")
    assert problem in caught.value.problem
    assert hint is None or hint in str(caught.value)
