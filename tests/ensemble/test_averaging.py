"""The arithmetic of averages: weights, ties, subsets, entropy and disagreement."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landseg.ensemble.averaging import Average, disagreement, entropy, subsets
from landseg.probabilities.codec import DTYPES, quantize


def some_models(seed, num_models, num_classes=5, size=(9, 7)):
    rng = np.random.default_rng(seed)
    raised = np.exp(2 * rng.normal(size=(num_models, num_classes, *size)))
    return list((raised / raised.sum(axis=1, keepdims=True)).astype(np.float32))


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(sorted(DTYPES)), min_size=1, max_size=5),
    st.lists(st.floats(0.125, 8), min_size=5, max_size=5),
    st.booleans(),
)
def test_labels_are_the_argmax_of_the_weighted_sum(seed, names, weights, equal):
    dtypes = tuple(DTYPES[name] for name in names)
    weights = (1.0,) * len(names) if equal else tuple(weights[: len(names)])
    stored = [quantize(p, d) for p, d in zip(some_models(seed, len(names)), dtypes, strict=True)]
    wanted = subsets(len(names))
    found = Average(dtypes, weights, (1.0,) * len(names)).labels(stored, wanted)
    for subset, labels in zip(wanted, found, strict=True):
        exact = sum(weights[m] * (stored[m].astype(np.float64) * dtypes[m].unit) for m in subset)
        chosen = np.take_along_axis(exact, labels[None].astype(np.intp), 0)[0]
        np.testing.assert_allclose(chosen, exact.max(axis=0), rtol=1e-6)


def test_parity_with_the_plain_program_in_float32():
    models = some_models(1, 2, 9, (64, 64))
    labels = Average((DTYPES["float32"],) * 2, (1.0, 1.0), (1.0, 1.0)).labels(models, [(0, 1)])[0]
    np.testing.assert_array_equal(labels, (models[0] + models[1]).argmax(axis=0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_first_class(dtype):
    half = np.array([0.0, 0.5, 0.5], np.float32).reshape(3, 1, 1)
    other = np.array([0.5, 0.25, 0.25], np.float32).reshape(3, 1, 1)
    stored = [quantize(one, DTYPES[dtype]) for one in (half, other, half)]
    found = Average((DTYPES[dtype],) * 3, (1.0,) * 3, (1.0,) * 3).labels(stored, [(0,), (0, 2), (0, 1, 2)])
    assert [int(labels[0, 0]) for labels in found] == [1, 1, 1]


def test_weights_have_no_scale(dataset):
    stored = [quantize(p, DTYPES["companded"]) for p in some_models(2, 2)]
    dtypes = (DTYPES["companded"],) * 2
    tiny, huge = (1e-44, 3e-44), (1e39, 3e39)
    for a, b in (((1, 1), (7, 7)), ((1, 3), (2, 6)), ((1, 3), tiny), ((1, 3), huge), ((1, 1), (1e308, 1e308))):
        one, other = (Average(dtypes, w, (1.0, 1.0)).labels(stored, [(0, 1)])[0] for w in (a, b))
        np.testing.assert_array_equal(one, other)
        means = [Average(dtypes, w, (1.0, 1.0)).mean(stored) for w in (a, b)]
        np.testing.assert_allclose(means[0].sum(axis=0), 1, atol=0.02)
        np.testing.assert_allclose(*means, rtol=1e-6)


def test_subsets():
    assert subsets(1) == [(0,)]
    assert subsets(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    many = subsets(6)
    assert len(many) == 6 + 6 + 1
    assert many[0] == (0,) and many[-1] == tuple(range(6))


def test_entropy_and_disagreement_at_their_ends():
    sure = np.array([[1, 0], [0, 0.5]], np.float32).reshape(2, 1, 2)
    other = np.array([[0, 0], [1, 0.5]], np.float32).reshape(2, 1, 2)
    sure[0, 0, 1] = other[0, 0, 1] = 0.5
    np.testing.assert_allclose(entropy(sure), [[0, 1]], atol=1e-6)
    np.testing.assert_allclose(disagreement([sure, other]), [[1, 0]], atol=1e-6)
    np.testing.assert_array_equal(disagreement([sure]), [[0, 0]])
