"""Checkpoints are read as data, within their own size; whatever else they hold is skipped or refused in one line."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landseg.contracts.errors import ContractError
from landseg.models.weights.checkpoint import read_checkpoint, without_averages, without_common_prefix
from landseg.models.weights.pickle_values import Skipped
from landseg.models.weights.torch_file import TorchFile


def content() -> dict[str, Any]:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    return {
        "state_dict": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "empty": torch.empty(0, 3),
        "bf16": torch.ones(3, dtype=torch.bfloat16),
        "view": torch.rand(3, 4).t()[1:],
        "meta": {"CLASSES": ["x"], "seed": None, "score": np.float64(0.5), "iter": np.int64(3)},
    }


@pytest.mark.parametrize("archive", [True, False])
def test_files_of_both_formats_read_as_torch_reads_them(tmp_path: Path, archive: bool) -> None:
    saved = content()
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    with TorchFile(tmp_path / "a.pth") as file:
        read = file.tensors(file.content)
    for name, value in saved["state_dict"].items():
        assert torch.equal(read["state_dict"][name], value)
        assert read["state_dict"][name].dtype == value.dtype
    for name in ("empty", "bf16", "view"):
        assert torch.equal(read[name], saved[name])
    for number, state in saved["optimizer"]["state"].items():
        assert torch.equal(read["optimizer"]["state"][number]["exp_avg"], state["exp_avg"])
    assert read["optimizer"]["param_groups"] == saved["optimizer"]["param_groups"]
    assert read["meta"] == {"CLASSES": ["x"], "seed": None, "score": 0.5, "iter": 3}


def test_tensors_that_share_their_bytes_still_do(tmp_path: Path) -> None:
    base = torch.zeros(4)
    torch.save({"a": base, "b": base[2:]}, tmp_path / "a.pth")
    state = read_checkpoint(tmp_path / "a.pth")["state_dict"]
    state["a"][3] = 7
    assert state["b"].tolist() == [0, 7]


def test_metadata_that_is_not_plain_is_skipped(tmp_path: Path) -> None:
    meta = {
        "CLASSES": ["x"],
        "PALETTE": np.zeros((3, 3), np.uint8),
        "ok": np.bool_(True),
        "counts": collections.defaultdict(list, a=[1]),
    }
    saved = {"state_dict": {"a": torch.ones(2)}, "meta": meta, "args": argparse.Namespace(lr=1)}
    torch.save(saved, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert read["meta"]["CLASSES"] == ["x"]
    assert read["meta"]["counts"] == Skipped("collections.defaultdict")
    assert isinstance(read["meta"]["PALETTE"], Skipped)
    assert isinstance(read["meta"]["ok"], Skipped)


def archive(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, value in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n")):
            file.writestr(f"archive/{name}", value)
    return path


class Described:
    """A tensor that is described as the arguments say."""

    def __init__(self, kind: Any, key: str, numel: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.pid = ("storage", kind, key, "cpu", numel)
        self.size, self.stride = size, stride


def described(tensor: Described) -> bytes:
    class Storage:
        pass

    class Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
        def persistent_id(self, value: object) -> object:
            return tensor.pid if isinstance(value, Storage) else None

    class Rebuilt:
        def __reduce__(self) -> tuple[Any, ...]:
            arguments = (Storage(), 0, tensor.size, tensor.stride, False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    out = io.BytesIO()
    Pickler(out, 2).dump({"state_dict": {"w": Rebuilt()}})
    return out.getvalue()


def test_files_that_would_take_more_than_their_size_are_refused(tmp_path: Path) -> None:
    key = b")q\x00" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(40))
    archive(tmp_path / "hash.pth", b"\x80\x02}(" + key + b"K\x01u.")
    scalar = b"\x80\x02cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n"
    scalar += pickle.dumps(("V2000000000", False, True), 2)[2:-1] + b"R\x85R."
    archive(tmp_path / "scalar.pth", scalar)
    kind = torch.FloatStorage
    whole = described(Described(kind, "0", 1 << 20, (1 << 20,), (1,)))
    with zipfile.ZipFile(
        archive(tmp_path / "deflated.pth", whole, zipfile.ZIP_DEFLATED), "a", zipfile.ZIP_DEFLATED
    ) as file:
        file.writestr("archive/data/0", bytes(4 << 20))
    archive(tmp_path / "absent.pth", described(Described(kind, "0", 1 << 40, (1 << 40,), (1,))))
    for name, tensor in (
        ("expanded", Described(kind, "0", 4, (1 << 20, 1 << 20), (0, 0))),
        ("beyond", Described(kind, "0", 4, (5,), (1,))),
        ("strides", Described(kind, "0", 4, (2, 2), (1,))),
    ):
        with zipfile.ZipFile(archive(tmp_path / f"{name}.pth", described(tensor)), "a") as file:
            file.writestr("archive/data/0", bytes(16))
    archive(tmp_path / "operations.pth", b"\x80\x02" + b"N0" * 2_500_000 + b"N.")
    archive(tmp_path / "nested.pth", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    os.mkfifo(tmp_path / "fifo.pth")
    names = ("hash", "scalar", "deflated", "absent", "expanded", "beyond", "strides", "operations", "nested", "fifo")
    for name in names:
        with pytest.raises(ContractError, match=r"expected a checkpoint") as caught:
            read_checkpoint(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "odd",
    [{"state_dict": 5}, {"state_dict": [1]}, {"state_dict": {}}, [1], {"a": 1}, {1: torch.ones(1)}, 5],
)
def test_odd_checkpoints_are_one_line(tmp_path: Path, odd: Any) -> None:
    torch.save(odd, tmp_path / "a.pth")
    with pytest.raises(ContractError, match="expected a checkpoint"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("meta", [[1], "x", 5, None])
def test_metadata_of_another_type_counts_as_none(tmp_path: Path, meta: Any) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": meta}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["meta"] == {}


SEEDS = []
for _new in (True, False):
    _out = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(3)}, "meta": {"x": [1, "y"]}}, _out, _use_new_zipfile_serialization=_new)
    SEEDS.append(_out.getvalue())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    (tmp_path / "a.pth").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read_checkpoint(tmp_path / "a.pth")
        except ContractError as err:
            assert "\n" not in str(err)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60))
def test_any_pickle_is_refused_or_read(tmp_path: Path, data: bytes) -> None:
    archive(tmp_path / "a.pth", b"\x80\x02" + data + b".")
    with pytest.raises(ContractError):
        read_checkpoint(tmp_path / "a.pth")


def test_averages_of_weights_are_left_out() -> None:
    state = {"a.weight": torch.ones(1), "ema_a_weight": torch.zeros(1), "ema_own": torch.zeros(1)}
    assert set(without_averages(state)) == {"a.weight", "ema_own"}


@pytest.mark.parametrize("prefix", ["", "model.", "model.backbone.", "encoder.", "encoder_q."])
def test_a_prefix_that_all_weights_have_is_taken_off(prefix: str) -> None:
    wanted = {"conv.weight", "conv.bias"}
    state = {f"{prefix}{name}": torch.ones(1) for name in wanted}
    assert without_common_prefix(state, wanted).keys() == wanted


def test_a_networks_prefix_is_taken_off_next_to_its_heads() -> None:
    wanted = {"conv.weight", "conv.bias", "stages.0.a"}
    state = {f"model.encoder.{name}": torch.ones(1) for name in wanted}
    heads = {"model.decoder.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert without_common_prefix({**heads, **state}, wanted).keys() == wanted | heads.keys()
    twice = without_common_prefix({"conv.bias": torch.zeros(1), **state}, wanted)
    assert float(twice["conv.bias"]) == 1  # the network's own
    own = {"backbone.a": torch.ones(1), "decode_head.a": torch.ones(1)}
    assert without_common_prefix(own, {"a", "backbone.a", "decode_head.a"}) is own


@pytest.mark.parametrize(
    "keys", [("module",), ("params",), ("network",), ("state_dict_ema",), ("model", "state_dict"), ("ema", "module")]
)
def test_weights_are_found_wherever_people_put_them(keys: tuple[str, ...], tmp_path: Path) -> None:
    content: dict[str, Any] = {"a.weight": torch.ones(2)}
    for key in reversed(keys):
        content = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, key: content}
    torch.save(content, tmp_path / "a.pth")
    assert list(read_checkpoint(tmp_path / "a.pth")["state_dict"]) == ["a.weight"]


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"", "an empty file"),
        (b'\x28\0\0\0\0\0\0\0{"a":{}}', "as safetensors writes them, found a file that is damaged or breaks off"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_files_of_other_kinds_are_recognised(head: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(head)
    with pytest.raises(ContractError, match=found):
        read_checkpoint(tmp_path / "a.pth")


def test_arrays_in_place_of_tensors_are_reported(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a.weight": np.ones(2)}}, tmp_path / "a.pth")
    with pytest.raises(ContractError, match=r"found state_dict; a\.weight is a NumPy array"):
        read_checkpoint(tmp_path / "a.pth")


def test_numbers_of_a_pickle_that_are_none_are_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(2)}}, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in whole.namelist():
            archive.writestr(name, b"\x80\x02Isecret\n." if name.endswith("data.pkl") else whole.read(name))
    with pytest.raises(ContractError, match="found something else: the file is damaged") as caught:
        TorchFile(path)
    assert "secret" not in str(caught.value)
