"""A record of a shard whose arrays have no or too few dimensions is refused in words."""

from __future__ import annotations

import numpy as np
import pytest

from landseg.contracts.errors import ContractError
from landseg.ensemble.shard_results import ShardResult
from landseg.storage.array_records import pack_arrays

RESULT = ShardResult(
    archives={},
    ids=("a",),
    is_cut=np.array([True]),
    spans=np.zeros((0, 1, 2), np.int64),
    pixels=np.ones((1, 2), np.uint32),
    uncertainty=np.zeros((1, 3)),
    ttas=(),
    areas=np.ones((1, 4, 3, 2), np.uint32),
    confusions=np.zeros((2, 2, 2), np.int64),
    reliability=np.zeros((2, 3, 1), np.int64),
    boundaries=np.zeros((2, 3, 2), np.int64),
)


@pytest.mark.parametrize("name", ["pixels", "areas", "reliability", "is_cut"])
def test_arrays_of_other_dimensions(name: str) -> None:
    arrays = RESULT.arrays()
    assert ShardResult.parse(pack_arrays(arrays), "here").ids == ("a",)
    arrays[name] = arrays[name].reshape(-1)[0].reshape(())
    with pytest.raises(ContractError, match=f"^here: expected {name} of . dimensions, found 0"):
        ShardResult.parse(pack_arrays(arrays), "here")
