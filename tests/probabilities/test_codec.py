"""The probability codec: round trips, limits and damaged bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.contracts.errors import DamagedObjectError, DataError
from landseg.probabilities import codec
from landseg.probabilities.codec import DTYPES

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)

# Half a step of each, in probability; `companded` is coarsest next to 0.
LARGEST_ERROR = {
    "companded": 16.5 / 4096,
    "uint8": 0.5 / 255,
    "uint12": 0.5 / 4095,
    "uint16": 0.5 / 65535,
    "float16": 2.0**-12,
    "float32": 0.0,
}


def values(*probs):
    return np.array(probs, np.float32).reshape(-1, 1, 1)


def random_probs(seed, num_classes, height, width):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=rng.choice([0.1, 2, 20]), size=(num_classes, height, width)).astype(np.float32)
    raised = np.exp(logits - logits.max(axis=0))
    return (raised / raised.sum(axis=0)).astype(np.float32)


@every_dtype
def test_certainty_survives(dtype):
    stored = codec.quantize(values(0.0, 1.0), dtype)
    np.testing.assert_array_equal(codec.dequantize(stored, dtype), values(0.0, 1.0))


@every_dtype
@given(st.floats(0, 1, width=32))
def test_error_is_bounded_and_ties_survive(dtype, prob):
    found = codec.dequantize(codec.quantize(values(prob, prob), dtype), dtype)
    assert found[0] == found[1]
    assert abs(float(found[0, 0, 0]) - prob) <= LARGEST_ERROR[dtype.name] + 1e-7


@every_dtype
def test_order_never_reverses(dtype):
    rising = np.linspace(0, 1, 200_001, dtype=np.float32).reshape(-1, 1, 1)
    assert (np.diff(codec.dequantize(codec.quantize(rising, dtype), dtype), axis=0) >= 0).all()


def test_companded_is_finest_where_models_tie():
    middle = np.linspace(3 / 16, 5 / 8, 10_001, dtype=np.float32).reshape(-1, 1, 1)
    dtype = DTYPES["companded"]
    error = np.abs(codec.dequantize(codec.quantize(middle, dtype), dtype) - middle)
    assert error.max() <= 0.5 / 4096 + 1e-7


@every_dtype
@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.integers(2, 12),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    room=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_tiles_come_back(dtype, seed, num_classes, size, room):
    stored = codec.quantize(random_probs(seed, num_classes, *size), dtype)
    canvas = (size[0] + room[0], size[1] + room[1])
    chunk = codec.encode_tile(stored, canvas)
    assert chunk == codec.encode_tile(stored, canvas)
    np.testing.assert_array_equal(codec.decode_tile(chunk, dtype, num_classes, canvas, size, "tile"), stored)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=6), st.integers(0, 3))
def test_index_finds_the_chunks(chunks, room):
    capacity = len(chunks) + room
    shard = codec.pack_shard(chunks, capacity)
    tail = shard[-codec.index_bytes(capacity) :]
    spans = codec.unpack_index(tail, len(chunks), capacity, len(shard), "shard")
    assert [shard[offset : offset + length] for offset, length in spans] == chunks


def test_damaged_index_is_refused():
    shard = codec.pack_shard([b"one", b"two"], 3)
    tail = shard[-codec.index_bytes(3) :]
    for position in range(len(tail)):
        damaged = bytearray(tail)
        damaged[position] ^= 1
        with pytest.raises(DamagedObjectError):
            codec.unpack_index(bytes(damaged), 2, 3, len(shard), "shard")
    for wrong in (tail[1:], b"", tail + b"\0"):
        with pytest.raises(DamagedObjectError):
            codec.unpack_index(wrong, 2, 3, len(shard), "shard")
    with pytest.raises(DamagedObjectError):
        codec.unpack_index(tail, 1, 3, len(shard), "shard")
    with pytest.raises(DamagedObjectError):
        codec.unpack_index(tail, 3, 3, len(shard), "shard")


def test_chunk_of_another_length_is_refused():
    dtype = DTYPES["uint8"]
    stored = codec.quantize(random_probs(0, 3, 8, 8), dtype)
    chunk = codec.encode_tile(stored, (8, 8))
    for wrong in (b"", chunk[:10], chunk[:-1], chunk + b"\0", b"\xff" * len(chunk)):
        with pytest.raises(DamagedObjectError):
            codec.decode_tile(wrong, dtype, 3, (8, 8), (8, 8), "tile")
    with pytest.raises(DamagedObjectError):
        codec.decode_tile(chunk, dtype, 3, (8, 9), (8, 8), "tile")


@pytest.mark.parametrize("name", ["companded", "uint8", "float32"])
def test_every_flipped_bit_of_a_chunk_is_an_error_or_a_tile(name):
    """A ranged read checks no checksum: damage may pass, but only as a tile of the right shape."""
    dtype = DTYPES[name]
    stored = codec.quantize(random_probs(1, 3, 8, 7), dtype)
    chunk = codec.encode_tile(stored, (8, 8))
    refused = 0
    for bit in range(8 * len(chunk)):
        damaged = bytearray(chunk)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = codec.decode_tile(bytes(damaged), dtype, 3, (8, 8), (8, 7), "tile")
        except DamagedObjectError:
            refused += 1
            continue
        assert (found.shape, found.dtype) == (stored.shape, stored.dtype)
    assert refused


def test_values_above_one_are_refused_when_read():
    chunk = codec.encode_tile(np.full((2, 1, 1), 4097, np.uint16), (1, 1))
    with pytest.raises(DamagedObjectError, match="up to 4096"):
        codec.decode_tile(chunk, DTYPES["companded"], 2, (1, 1), (1, 1), "tile")


@pytest.mark.parametrize(
    "probs",
    [
        values(0.5, np.nan),
        values(-0.1, 1.1),
        values(0.2, 0.2),
        values(1.0, 1.0),
        values(1.0),
        values(0.5, 0.5).astype(np.float64),
        np.full((2, 1, 2), 0.5, np.float32),
    ],
    ids=["NaN", "negative", "sum below 1", "sum above 1", "classes", "float64", "size"],
)
def test_what_is_no_map_of_probabilities_is_refused(probs):
    with pytest.raises(DataError):
        codec.check_probs(probs, 2, (1, 1), "tile")


def test_rounding_of_a_mean_past_one_is_not_an_error():
    probs = values(np.nextafter(np.float32(1), np.float32(2)), 0.0)
    codec.check_probs(probs, 2, (1, 1), "tile")
    assert codec.quantize(probs, DTYPES["companded"])[0] == 4096
    assert codec.quantize(probs, DTYPES["uint16"])[0] == 65535


@pytest.mark.parametrize(
    ("num_classes", "expected"), [(2, "companded"), (32, "companded"), (33, "uint16"), (255, "uint16")]
)
def test_many_classes_are_stored_finely(num_classes, expected):
    assert codec.default_dtype(num_classes) == expected


def test_labels_of_many_diffuse_classes_survive_the_default():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=0.7, size=(2, 150, 64, 64)).astype(np.float32)
    pair = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    exact = pair.sum(axis=0).argmax(axis=0)

    def changed(name):
        return float(
            (sum(codec.quantize(one, DTYPES[name]).astype(int) for one in pair).argmax(axis=0) != exact).mean()
        )

    assert changed("companded") > 0.05
    assert changed("uint8") > 0.05
    assert changed(codec.default_dtype(150)) < 0.001


@every_dtype
def test_the_least_probability_is_the_first_that_is_not_stored_as_0(dtype):
    rising = np.linspace(0, 0.02, 200_001, dtype=np.float32).reshape(-1, 1, 1)
    found = codec.dequantize(codec.quantize(rising, dtype), dtype)
    if dtype.levels:
        assert found[found > 0].min() == pytest.approx(dtype.least)
    else:
        assert dtype.least == 0
