"""What is quantised on the model's device is, byte for byte, what the codec makes of the same probabilities."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch.overrides import TorchFunctionMode

from landseg.prediction.quantizing import HostBuffers, quantize, summarize
from landseg.probabilities import codec
from landseg.probabilities.codec import DTYPES, Dtype

ON = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.gpu, id="cuda")]
STEPS = {name: np.arange(2 * dtype.levels + 1) / (2 * dtype.levels or 1) for name, dtype in DTYPES.items()}


def stored(probs: np.ndarray, dtype: Dtype, device: torch.device) -> Any:
    return quantize(torch.from_numpy(probs).to(device), dtype).cpu().numpy().view(dtype.stored)


def check(probs: np.ndarray, dtype: Dtype, device: torch.device) -> None:
    expected = codec.quantize(probs, dtype)
    found = stored(probs, dtype, device)
    assert found.dtype == dtype.stored
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("name", DTYPES)
def test_every_step_and_its_neighbours(name: str, device: torch.device) -> None:
    """Every stored value, every value half way between two, and the floats next to them."""
    values = STEPS[name].astype(np.float32)
    near = np.concatenate([values, np.nextafter(values, np.float32(2)), np.nextafter(values, np.float32(-1))])
    near = np.clip(near, 0, np.float32(1 + 7e-6))
    check(near.reshape(1, 1, 1, -1), DTYPES[name], device)


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("name", DTYPES)
@given(values=arrays.arrays(np.float32, (2, 3, 4, 5), elements=st.floats(0, 1, width=32)))
def test_any_probabilities(name: str, device: torch.device, values: np.ndarray) -> None:
    check(values, DTYPES[name], device)


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("name", DTYPES)
def test_softmax_of_many_pixels(name: str, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 64, 64, generator=generator) * torch.tensor([0.1, 1.0, 10.0])[:, None, None, None]
    check(logits.softmax(1).numpy(), DTYPES[name], device)


class Calls(TorchFunctionMode):
    """Notes what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", DTYPES)
def test_nothing_is_copied_to_the_device_for_each_batch(name: str) -> None:
    """Such a copy waits until a GPU has nothing left to do."""
    probs = torch.full((2, 4, 8, 8), 0.25)
    quantize(probs, DTYPES[name])
    with Calls() as calls:
        quantize(probs, DTYPES[name])
        summarize(probs)
    assert calls.names
    assert not calls.names & {"tensor", "as_tensor", "from_numpy", "cpu", "cuda", "item", "tolist"}


@pytest.mark.parametrize("device", ON)
def test_transfers_hold_what_was_sent_until_their_slot_is_used_again(device: torch.device) -> None:
    buffers, dtype = HostBuffers(device, 2), DTYPES["companded"]
    probs = [torch.full((2, 4, 8, 8), 0.25 / (1 + i)) for i in range(3)]
    sent = [buffers.send(one.to(device), dtype, slot) for slot, one in enumerate(probs[:2])]
    for transfer, one in zip(sent, probs, strict=False):
        transfer.wait()
        np.testing.assert_array_equal(transfer.array(dtype), codec.quantize(one.numpy(), dtype))
    third = buffers.send(probs[2][:1].to(device), dtype, 0)  # a smaller batch in the same memory
    third.wait()
    np.testing.assert_array_equal(third.array(dtype), codec.quantize(probs[2][:1].numpy(), dtype))
    np.testing.assert_array_equal(sent[1].array(dtype), codec.quantize(probs[1].numpy(), dtype))


def test_summaries_say_what_the_codec_looks_at() -> None:
    probs = torch.tensor([[[[0.25]], [[0.75]]], [[[0.5]], [[0.25]]], [[[float("nan")]], [[0.5]]]])
    assert summarize(probs)[:2].tolist() == [[0.25, 0.75, 0.0], [0.25, 0.5, 0.25]]
    assert summarize(probs)[2].isnan().all()
