"""Configs from elsewhere: whatever they name, predicting with them opens no file or address and runs nothing."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
import torch
from http_server import serving_files
from mmcv.runner import load_checkpoint

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError, ContractError, LandsegError
from landseg.models import foreign
from landseg.models.build import build_model, load_model
from landseg.models.config_text import config_text
from landseg.models.configs import load_config
from landseg.models.foreign import _REGISTRIES, closed_to_files_and_addresses, reduce_for_prediction
from landseg.models.trained_model import open_model

SCHEMA = ClassSchema(classes=tuple("abcdefghi"), palette=((0, 0, 0),) * 9, bands=(1, 2, 3))


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save({"state_dict": build_model(load_config("swin_tiny"), SCHEMA).state_dict()}, tmp_path / "m.pth")
    return tmp_path / "m.pth"


@pytest.fixture
def requests(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that has nothing, and the paths that were asked for."""
    asked: list[str] = []
    (tmp_path / "www").mkdir()
    with serving_files(tmp_path / "www", asked) as address:
        yield address, asked


def test_what_losses_name_is_not_read(checkpoint: Path, tmp_path: Path, requests: tuple[str, list[str]]) -> None:
    address, asked = requests
    marker = tmp_path / "marker"
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Payload(marker)))
    (tmp_path / "w.yaml").write_text(f"!!python/object/apply:builtins.open ['{marker}', 'w']\n")
    for source in (tmp_path / "w.pkl", tmp_path / "w.yaml", "/nowhere.npy", f"{address}/w.pkl"):
        config = load_config("swin_tiny", {"model.decode_head.loss_decode.class_weight": str(source)})
        for build in (lambda: load_model(config, SCHEMA, checkpoint), lambda: build_model(config, SCHEMA)):  # noqa: B023
            with pytest.raises(ConfigError, match=r"class_weight: expected a list of numbers, found the text"):
                build()
    assert not marker.exists()
    assert not asked


@pytest.mark.parametrize("imports", [5, [5], {"imports": [5]}, {"imports": 5}, {"imports": [""]}])
def test_malformed_imports_are_refused(checkpoint: Path, imports: Any) -> None:
    config = load_config("swin_tiny")
    config.custom_imports = imports
    with pytest.raises(ConfigError, match="custom_imports: expected dict"):
        load_model(config, SCHEMA, checkpoint)


def test_training_parts_are_taken_out() -> None:
    config = load_config("swin", {"model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "x.pkl"}})
    config.custom_imports = {"imports": ["antigravity"]}
    reduced = reduce_for_prediction(config)
    assert set(reduced._cfg_dict) == {"model", "data", "test_pipeline"} & set(reduced._cfg_dict) | {"model", "data"}
    assert set(reduced.data) == {"test"}
    assert "init_cfg" not in reduced.model.backbone
    assert "loss_decode" not in reduced.model.decode_head
    assert "loss_decode" not in reduced.model.auxiliary_head
    assert "train_cfg" not in reduced.model
    assert reduced.model.decode_head.num_classes == config.model.decode_head.num_classes


def test_every_registered_type_with_paths_for_arguments(tmp_path: Path, requests: tuple[str, list[str]]) -> None:
    address, asked = requests
    checkpoint = tmp_path / "small.pth"  # it is read four hundred times; no model gets as far as its weights
    torch.save({"state_dict": {"a": torch.zeros(1)}}, checkpoint)
    marker = tmp_path / "marker"
    payload = tmp_path / "w.pkl"
    payload.write_bytes(pickle.dumps(Payload(marker)))
    kinds = {kind for registry in _REGISTRIES for kind in registry.module_dict}
    kinds |= {f"mmcls.{kind}" for kind in _REGISTRIES[0].parent.children["mmcls"].module_dict}
    assert len(kinds) > 150
    names = ("class_weight", "file", "filename", "path", "ann_file", "model_name", "config", "weights", "arch")
    whole = load_config("swin_tiny")
    for kind in sorted(kinds):
        for where in ("model", "model.backbone"):
            config = copy.deepcopy(whole)
            part = {"type": kind, **dict.fromkeys(names, str(payload)), "init_cfg": {"type": "Pretrained"}}
            config.merge_from_dict({where: {**part, "_delete_": True}})
            with pytest.raises(LandsegError) as caught:
                load_model(config, SCHEMA, checkpoint)
            assert "\n" not in str(caught.value)
    for kind in ("TIMMBackbone", "mmcls.TIMMBackbone", "mmcls.HuggingFace", "EMAHook", "LoadImageFromFile", 5, None):
        config = load_config("swin_tiny")
        config.model.backbone = mmcv.ConfigDict(type=kind, model_name=address, pretrained=True)
        with pytest.raises(ConfigError, match=r"model\.backbone\.type: expected a type that"):
            load_model(config, SCHEMA, checkpoint)
    assert not marker.exists()
    assert not asked


def test_files_and_addresses_are_closed_while_it_is_built(tmp_path: Path, requests: tuple[str, list[str]]) -> None:
    address, asked = requests
    (tmp_path / "w.json").write_text("[1]")
    (tmp_path / "m.pth").write_bytes(b"x")
    attempts = (
        lambda: mmcv.load(str(tmp_path / "w.json")),
        lambda: mmcv.load(f"{address}/w.json"),
        lambda: load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / "m.pth")),
        lambda: urllib.request.urlopen(address),
        lambda: (tmp_path / "w.json").read_text(),
        lambda: (tmp_path / "new.py").write_text("x"),
        lambda: torch.load(tmp_path / "m.pth"),
        lambda: mmcv.FileClient("disk"),
    )
    with closed_to_files_and_addresses():
        for attempt in attempts:
            with pytest.raises(PermissionError, match="a config from elsewhere"):
                attempt()
    assert mmcv.load(str(tmp_path / "w.json")) == [1]
    assert not (tmp_path / "new.py").exists()
    assert not asked


def test_other_threads_go_on_while_a_model_is_built(tmp_path: Path) -> None:
    found: list[str] = []
    with closed_to_files_and_addresses():
        thread = threading.Thread(target=lambda: found.append(Path(__file__).read_text()))
        thread.start()
        thread.join()
    assert found


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"model.backbone.embed_dims": 960_000_000}, "larger than the checkpoint's weights"),
        ({"model.backbone.depths": [2, 2, 10**9, 2]}, "larger than the checkpoint's weights|cannot build"),
        ({"model.backbone": 5}, "cannot build"),
        ({"model.decode_head": [[]]}, "cannot build"),
        ({"model.test_cfg": {"mode": "slide", "crop_size": (32, 32), "stride": (0, 0)}}, r"stride: expected two sides"),
        (
            {"model.test_cfg": {"mode": "slide", "crop_size": (512, 512), "stride": (31, 256)}},
            "found crop_size 512 and stride 31",
        ),
        (
            {"model.test_cfg": {"mode": "slide", "crop_size": (1, 1), "stride": (1, 1)}},
            "found crop_size 1 and stride 1",
        ),
        (
            {"model.test_cfg": {"mode": "whole", "subdivision_steps": 10**9}},
            "at most 8 subdivision_steps .* 1000000000",
        ),
        ({"model.test_cfg": {"mode": "whole", "scale_factor": "x"}}, "a scale_factor of at most 4, found 0 by x"),
        ({"model.test_cfg": {"mode": "slide"}}, r"crop_size: expected two sides"),
        ({"model.test_cfg": 3}, r"test_cfg: expected mode="),
    ],
)
def test_odd_models_are_one_line(checkpoint: Path, options: dict[str, Any], problem: str) -> None:
    config = load_config("swin_tiny")
    for key, value in options.items():
        *path, last = key.split(".")
        part = config
        for name in path:
            part = part[name]
        part[last] = value
    with pytest.raises((ConfigError, ContractError), match=problem):
        load_model(config, SCHEMA, checkpoint)


def test_trusted_modules_register_types(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_backbone.py").write_text(
        "from mmseg.models.backbones import SwinTransformer\n"
        "from mmseg.models.builder import BACKBONES\n"
        "@BACKBONES.register_module()\n"
        "class MyOwnSwin(SwinTransformer):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config("swin_tiny", {"model.backbone.type": "MyOwnSwin"})
    config.custom_imports = {"imports": ["my_backbone"]}
    with pytest.raises(ConfigError, match=r"found 'MyOwnSwin' .*--trust-modules.*my_backbone"):
        load_model(config, SCHEMA, checkpoint)
    assert type(load_model(config, SCHEMA, checkpoint, ["my_backbone"]).backbone).__name__ == "MyOwnSwin"
    with pytest.raises(ConfigError, match="--trust-modules no_such_module: cannot be imported"):
        load_model(config, SCHEMA, checkpoint, ["no_such_module"])


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        (["a", "\x1b[31mb"], r"classes\.1: .*printable characters"),
        (["a", "b\nc"], r"classes\.1: .*printable characters"),
        (["a", "a"], "class names must differ"),
        (["a", "x" * 5000], r"classes\.1: .*at most 100 characters"),
        (["a"], "at least 2 items"),
        ([f"c{i}" for i in range(100_000)], "at most 255 items"),
        (["a", np.str_("b")], "found a numpy._core.multiarray.scalar"),
        ([{"name": "a"}, {"name": "b"}], "expected the names of classes as texts, found a dict"),
        (["a", None], "found a NoneType"),
    ],
)
def test_the_classes_of_a_checkpoint_are_names(classes: list[Any], problem: str, tmp_path: Path) -> None:
    meta = {"config": config_text(load_config("swin_tiny")), "CLASSES": classes}
    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": meta}, tmp_path / "m.pth")
    with pytest.raises(ContractError, match=f"meta.CLASSES of .*m.pth: .*{problem}") as caught:
        open_model(str(tmp_path / "m.pth"), tmp_path / "scratch")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_machine_without_mmcls_predicts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "mmcls" or name.startswith("mmcls.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mmcls", None)  # as where it is not installed
    spec = importlib.util.spec_from_file_location("foreign_without_mmcls", foreign.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TRUSTED_PACKAGES == foreign.TRUSTED_PACKAGES
