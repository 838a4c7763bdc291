"""`dataset.yaml` and tile indexes are untrusted input: a clear error or success, nothing else."""

from __future__ import annotations

import hashlib
import json

import pytest
import yaml
from fuzzing import broken_json
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_tiles import FULL_CONFIG, write_raw

from landseg.contracts.documents import validate
from landseg.contracts.errors import LandsegError
from landseg.contracts.tile import Tile
from landseg.dataset.reader import StagedDataset
from landseg.raw.config.dataset_yaml import parse_config

COUNTS = [pytest.param(150, id="some"), pytest.param(1500, id="many", marks=pytest.mark.slow)]
ROW = {
    "id": "t",
    "shard": 0,
    "image": [512, 10],
    "label": [1024, 10],
    "height": 4,
    "width": 4,
    "image_sha256": "0" * 64,
    "label_sha256": "1" * 64,
    "geo": {"crs": 0, "transform": [1.0, 0.0, 0.0, 0.0, -1.0, 0.0]},
    "scene": {"id": "s", "y": 0, "x": 0, "height": 10, "width": 10},
    "band_sums": [1, 2, 3],
    "band_squares": [1, 2, 3],
    "label_counts": [[0, 16]],
}


def test_the_seeds_are_valid():
    parse_config(yaml.safe_dump(FULL_CONFIG).encode(), "x")
    validate(Tile, json.dumps(ROW).encode(), "x")


def parse(data: bytes) -> None:
    try:
        config = parse_config(data, "dataset.yaml")
    except LandsegError as err:
        assert "\n" not in str(err)
        return
    for num_bands in (3, 16):
        config.class_schema(config.selected_bands(num_bands), None)


@st.composite
def broken_text(draw: st.DrawFn) -> bytes:
    text = yaml.safe_dump(FULL_CONFIG, default_flow_style=draw(st.booleans()))
    for position, replacement in draw(st.lists(st.tuples(st.integers(0, 400), st.text(max_size=4)), max_size=6)):
        text = text[:position] + replacement + text[position + len(replacement) :]
    return text.encode(errors="surrogatepass")


@pytest.mark.parametrize("count", COUNTS)
def test_broken_configs(count):
    @settings(max_examples=count)
    @given(broken_json(FULL_CONFIG) | broken_text() | st.binary(max_size=200))  # JSON is YAML
    def run(data):
        parse(data)

    run()


@pytest.mark.parametrize("count", COUNTS)
def test_broken_rows(count):
    @settings(max_examples=count)
    @given(broken_json(ROW))
    def run(data):
        try:
            validate(Tile, data, "row")
        except LandsegError as err:
            assert "\n" not in str(err)

    run()


def test_a_row_that_points_outside_its_shard(tmp_path, stage):
    run = stage(write_raw(tmp_path / "raw", train=2, val=0, test=0))
    manifest_path = next(stage.store.rglob("manifest.json"))
    index_path = next(stage.store.rglob("tiles-train*.jsonl"))
    for image in ([10**9, 10], [0, 10**9], [2**62, 2**62]):
        rows = [json.loads(line) for line in index_path.read_bytes().splitlines()]
        rows[0]["image"] = image
        index = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        manifest = json.loads(manifest_path.read_bytes())
        manifest["splits"]["train"]["index"] |= {
            "path": "other.jsonl",
            "size_bytes": len(index),
            "sha256": hashlib.sha256(index).hexdigest(),
        }
        (manifest_path.parent / "other.jsonl").write_bytes(index)
        other = manifest_path.parent / "other.json"
        other.write_text(json.dumps(manifest))
        dataset = StagedDataset.open(str(other), tmp_path / "cache")
        try:
            dataset.tiles("train")
        except LandsegError as err:
            assert "outside its shard" in str(err)
        else:
            raise AssertionError("a tile outside its shard was accepted")
    assert run.dataset().tiles("train")
