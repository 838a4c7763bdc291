"""Records of arrays: exact, with a checksum, and bounded when read."""

import io
import zipfile

import numpy as np
import pytest

from landseg.contracts.errors import ContractError
from landseg.storage.array_records import pack_arrays, read_whole, unpack_arrays, write_arrays

DTYPES = {"counts": "<i8", "means": "<f8"}
ARRAYS = {"counts": np.array([[1, 2**62], [-3, 4]]), "means": np.array([0.1, np.nextafter(1, 0), 5e-324])}


def npz(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(array, header=None):
    file = io.BytesIO()
    np.save(file, array)
    data = file.getvalue()
    if header:
        old, new = header
        assert len(old) == len(new) and old in data
        data = data.replace(old, new)
    return data


def test_arrays_come_back_to_the_bit_and_numpy_reads_them_too(tmp_path):
    uri = str(tmp_path / "record.npz")
    assert read_whole(uri) is None
    data = write_arrays(uri, ARRAYS)
    assert read_whole(uri) == data == pack_arrays(ARRAYS)
    found = unpack_arrays(data, DTYPES, uri)
    with np.load(uri) as plain:
        for name, array in ARRAYS.items():
            assert found[name].tobytes() == plain[name].tobytes() == array.tobytes()


def test_a_flipped_bit_anywhere_makes_it_none(tmp_path, caplog):
    path = tmp_path / "record.npz"
    data = write_arrays(str(path), ARRAYS)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert read_whole(str(path)) is None
    assert "record.npz is damaged" in caplog.text
    path.write_bytes(b"")
    assert read_whole(str(path)) is None


COUNTS, MEANS = npy(ARRAYS["counts"]), npy(ARRAYS["means"])


@pytest.mark.parametrize(
    "members",
    [
        {"counts.npy": COUNTS},
        {"counts.npy": COUNTS, "means.npy": MEANS, "more.npy": MEANS},
        {"counts.npy": COUNTS, "means.npy": COUNTS},
        {"counts.npy": COUNTS, "means.npy": MEANS[:-1]},
        {"counts.npy": npy(ARRAYS["counts"], (b"(2, 2)", b"(9, 9)")), "means.npy": MEANS},
        {"counts.npy": npy(ARRAYS["counts"], (b"(2, 2), }      ", b"(9999999999,)} ")), "means.npy": MEANS},
        {"counts.npy": npy(np.asfortranarray(ARRAYS["counts"])), "means.npy": MEANS},
        {"counts.npy": npy(np.array([None])), "means.npy": MEANS},
        {"counts.npy": bytes(65 << 20), "means.npy": MEANS},
        {"counts.npy": b"", "means.npy": MEANS},
    ],
)
def test_anything_else_is_refused(members):
    with pytest.raises(ContractError, match=r"^there: expected a NumPy file of at most 67108864 bytes with the arrays"):
        unpack_arrays(npz(members), DTYPES, "there")
    with pytest.raises(ContractError):
        unpack_arrays(b"{}", DTYPES, "there")
