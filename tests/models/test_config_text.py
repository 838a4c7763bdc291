"""Configs as text: what is written reads back as it was, and no text does anything but read or be refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.contracts.errors import ConfigError, ContractError, LandsegError
from landseg.models.config_files import STOCK
from landseg.models.config_text import MAX_TEXT_BYTES, config_text, masked_config, parse_config
from landseg.models.configs import load_config

MODEL = {"type": "EncoderDecoder"}
NAMES = st.from_regex(r"[a-z]_?[a-z0-9]{0,6}", fullmatch=True).filter(lambda name: name not in ("filename", "text"))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=40), st.binary(max_size=8)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(NAMES, st.text(max_size=6), st.integers(), st.just("class")), inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(values=st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_written_reads_back(values: dict[str, Any]) -> None:
    config = mmcv.Config({**{f"k{name}": value for name, value in values.items()}, "model": dict(MODEL)})
    found = parse_config(config_text(config), "text")._cfg_dict.to_dict()
    assert found == config._cfg_dict.to_dict()
    assert repr(found) == repr(config._cfg_dict.to_dict()), "types too: lists are not tuples, 1 is not True"


def test_values_that_are_not_pythons_own() -> None:
    values = {
        "path": r"C:\Users\me\tiles",
        "quote": 'Ann\'s "config"',
        "lines": "two\nlines",
        "steps": range(3),
        "weights": np.array([0.5, 1.0]),
        "weight": np.float32(0.5),
        "count": np.int64(3),
        "folder": Path("/data"),
        "nothing": float("nan"),
        "most": -math.inf,
        "name": Path,
    }
    found = parse_config(config_text(mmcv.Config({"model": dict(MODEL), **values})), "text")
    for name in ("path", "quote", "lines"):
        assert found[name] == values[name]
    assert (found.steps, found.weights, found.weight, found["count"]) == ([0, 1, 2], [0.5, 1.0], 0.5, 3)
    assert found.folder == "/data"
    assert math.isnan(found.nothing)
    assert found.most == -math.inf
    assert "name" not in found


def test_values_that_are_no_text_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone\.0: expected a plain value, found a type"):
        config_text(mmcv.Config({"model": {**MODEL, "backbone": [dict]}}))
    with pytest.raises(ConfigError, match="'a-b': expected a name"):
        config_text(mmcv.Config({"model": dict(MODEL), "a-b": 1}))
    with pytest.raises(ConfigError, match="at most 1 MiB"):
        config_text(mmcv.Config({"model": dict(MODEL), "a": "x" * MAX_TEXT_BYTES}))


def test_stock_mmcv_loads_the_text(tmp_path: Path) -> None:
    for path in sorted(STOCK.glob("[a-z]*/*.py"))[::200]:
        config = load_config(str(path))
        (tmp_path / "c.py").write_text(config_text(config))
        assert mmcv.Config.fromfile(str(tmp_path / "c.py"))._cfg_dict == config._cfg_dict


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "1+" * 100_000 + "1",
        "a=" + "(" * 1000 + ")" * 1000,
        "a=" + "[" * 90 + "]" * 90,
        "a=" + "-" * 5000 + "1",
        "a={(1, 2): 3}",
        "a={[]: 3}",
        "a=f'{x}'",
        "a=1+2j",
        "a='\\ud800'; a.b = 3",
        "a=\0",
        "filename = 'x'",
        "a = " + "9" * 5000,
        "a = '" + "x" * MAX_TEXT_BYTES + "'",
    ],
)
def test_texts_that_are_no_configs_are_one_line(text: str) -> None:
    with pytest.raises(ContractError, match="expected the text of an mmseg config") as caught:
        parse_config(text, "text")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["model=5", "model=[1]", "model={}", "", "model='data_preprocessor'"])
def test_configs_without_a_model_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"mmsegmentation 0\.x"):
        parse_config(text, "text")


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(), st.text("model=dict(type='A')[]{},:-1 \n\"\\", max_size=60)))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_config(text, "text")
    except LandsegError as err:
        assert "\n" not in str(err)


def test_signatures_are_masked() -> None:
    address = "https://host/w.pth?versionId=3&X-Amz-Signature=sEcr3t"
    config = mmcv.Config({"model": {**MODEL, "a": [address, (address,)]}, "pretrained": address})
    text = config_text(masked_config(config))
    assert "sEcr3t" not in text
    assert text.count("https://host/w.pth?") == 3
    assert "X-Amz-Signature=" in text
