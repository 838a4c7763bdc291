"""Weights of safetensors: read by the letter of the format, and refused in one line where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors_bytes import safetensors_bytes, with_header

from landseg.contracts.errors import ContractError
from landseg.models.weights import safetensors_file
from landseg.models.weights.checkpoint import read_checkpoint


def test_tensors_are_read_bit_for_bit(tmp_path: Path) -> None:
    arrays = {
        "stem.weight": np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32),
        "half": np.array([1.5, -2.0], np.float16),
        "bn.num_batches_tracked": np.array(7),
        "none": np.empty((0, 3), np.float32),
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(arrays))
    found = read_checkpoint(path)
    assert found["meta"] == {}
    assert {*found["state_dict"]} == {*arrays}
    for name, array in arrays.items():
        assert torch.equal(found["state_dict"][name], torch.from_numpy(array))


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":{}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',  # too few bytes for the shape
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',  # past the end
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[0,549755813888,549755813888],"data_offsets":[0,0]}}',  # more than torch counts
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
        b'{"a":' * 9000,
        b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 5000),
    ],
)
def test_damaged_files_are_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_header(content, b"\0" * 4))
    with pytest.raises(ContractError, match=r"s3://b/w: expected weights as safetensors .* \(fetch it again\)"):
        read_checkpoint(path, "s3://b/w")


def test_types_that_torch_has_not_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_header(b'{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}', b"\0" * 4))
    with pytest.raises(ContractError, match=r"found a tensor of the type 'F8_E4M3' \(convert it to float32\)"):
        read_checkpoint(path)


def test_a_header_takes_no_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"a": np.zeros(3, np.float32)})[:-1])
    with pytest.raises(ContractError, match="damaged or breaks off"):
        read_checkpoint(path)
    monkeypatch.setattr(safetensors_file, "MAX_HEADER_BYTES", 8)
    with pytest.raises(ContractError, match="found something else"):  # as of any other file
        read_checkpoint(path)
