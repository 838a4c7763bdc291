"""Large parts of what processes return lie in shared memory: all arrives as it was, in order, and slots are freed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from landseg.raw.processes import ProcessPool
from landseg.raw.shared_results import SLOT_BYTES, SharedResults

LARGE = 16 << 10


@dataclass(frozen=True)
class Result:
    """What a job may return."""

    name: str
    parts: tuple[bytes | None, ...]
    values: NDArray[np.int64] | None = None


@pytest.fixture
def results() -> Iterator[SharedResults]:
    shared = SharedResults(2)
    yield shared
    shared.close()


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(
        st.one_of(st.none(), st.integers(0, 3 * LARGE), st.sampled_from([LARGE - 1, LARGE, 9 << 20])), max_size=5
    ),
    shape=st.one_of(st.none(), st.tuples(st.integers(0, 4), st.integers(0, 2000))),
    is_transposed=st.booleans(),
)
def test_results_are_as_they_were(
    results: SharedResults, sizes: list[int | None], shape: tuple[int, int] | None, is_transposed: bool
) -> None:
    """Whatever their sizes: parts that no longer fit stay with the rest."""
    parts = tuple(None if size is None else bytes([number % 251]) * size for number, size in enumerate(sizes))
    values = None if shape is None else np.arange(shape[0] * shape[1]).reshape(shape)
    if values is not None and is_transposed:
        values = values.T
    slot = results.reserve()
    found = results.take(slot, results.put(slot, Result("a", parts, values)))
    results.release(slot)
    assert (found.name, found.parts) == ("a", parts)
    if values is None:
        assert found.values is None
    else:
        np.testing.assert_array_equal(found.values, values)
        assert found.values.dtype == values.dtype
        found.values[...] = 0  # arrays are their taker's own


def test_large_parts_do_not_take_the_pipe(results: SharedResults) -> None:
    content = Result("a", (bytes(1 << 20), bytes(1 << 20)), np.zeros((12, 1 << 16), np.int64))
    assert len(results.put(results.reserve(), content)) < 1000


def test_without_a_slot_the_pipe_takes_all(results: SharedResults) -> None:
    slots = [results.reserve() for _ in range(3)]
    assert sorted(slots[:2]) == [0, 1]
    assert slots[2] is None
    content = Result("a", (bytes(1 << 20),))
    assert results.take(None, results.put(None, content)) == content
    results.release(slots[0])
    assert results.reserve() == slots[0]


def test_a_result_keeps_to_its_slot(results: SharedResults) -> None:
    first, second = results.reserve(), results.reserve()
    full, other = Result("a", (b"a" * SLOT_BYTES,)), Result("b", (b"b" * SLOT_BYTES,))
    packed = [results.put(first, full), results.put(second, other)]
    assert results.take(first, packed[0]) == full
    assert results.take(second, packed[1]) == other


def filled(number: int) -> bytes:
    return bytes([number]) * (1 << 20)


def test_a_pool_gives_results_in_order_and_slots_back() -> None:
    """Maps that are abandoned, one within another, and one after the other."""
    with ProcessPool(2) as processes:
        for number, result in enumerate(processes.map(filled, range(100))):
            assert result == filled(number)
            if number == 2:
                break
        for number, result in enumerate(processes.map(filled, range(40))):
            assert result == filled(number)
            if number % 10 == 0:
                assert list(processes.map(filled, range(9))) == [filled(inner) for inner in range(9)]
        assert processes._results is not None
        assert len(set(processes._results._free)) == len(processes._results._free) == 8


def failing(number: int) -> bytes:
    if number == 3:
        raise ValueError("three")
    return filled(number)


def test_what_a_job_raises_arrives() -> None:
    with ProcessPool(2) as processes:
        found = processes.map(failing, range(9))
        assert [next(found) for _ in range(3)] == [filled(number) for number in range(3)]
        with pytest.raises(ValueError, match="three"):
            next(found)
        assert list(processes.map(filled, [5])) == [filled(5)]
