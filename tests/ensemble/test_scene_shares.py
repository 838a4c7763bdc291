"""Scenes are shared by workers, and their tiles are read shard by shard."""

import json
import os

import numpy as np
import pytest
import tifffile
from ensembles import export, made_up_probs, open_dataset, published_objects

from benchmarks.netproxy import FaultProxy
from landseg.cli.main import main
from landseg.ensemble.maps.scenes import MAP_ENTRY_BYTES

CONFIG = "version: 1\nname: scenes\nclasses: [a, b, c]\nscenes: {max_px: 64, tile_px: 48, overlap_px: 16}\n"
NUM_SCENES, TILES_PER_SCENE = 3, 12


@pytest.fixture
def proxy(s3, monkeypatch):
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def stage(root, uri):
    rng = np.random.default_rng(0)
    (root / "raw" / "val" / "images").mkdir(parents=True)
    (root / "raw" / "val" / "labels").mkdir(parents=True)
    (root / "raw" / "dataset.yaml").write_text(CONFIG)
    for number in range(NUM_SCENES):
        image = rng.integers(0, 256, (112, 144, 3), np.uint8)
        tifffile.imwrite(root / "raw" / "val" / "images" / f"big{number}.tif", image, photometric="rgb")
        tifffile.imwrite(root / "raw" / "val" / "labels" / f"big{number}.tif", image[:, :, 0] % 3)
    flags = ["--source", str(root / "raw"), "--storage-uri", uri, "--output-dir", str(root / "out")]
    assert main(["stage-data", *flags]) == 0
    return str(root / "out" / "dataset.json")


def probs_of(dataset, split, tile, model):
    return made_up_probs(dataset, split, tile.model_copy(update={"id": str(tile.scene.y)}), model)


def test_workers_share_scenes_and_read_each_shard_of_probabilities_once(s3, proxy, tmp_path):
    ref = stage(tmp_path, s3.uri)
    dataset = open_dataset(ref, tmp_path)
    assert len(dataset.index("val")) == NUM_SCENES * TILES_PER_SCENE
    refs = [export(f"{s3.uri}/{name}", dataset, name, splits=("val",), probs=probs_of) for name in ("swin", "resnest")]
    flags = [text for one in refs for text in ("--probs", one)]

    def average(run_id, *more):
        command = ["average-probs", "--dataset", ref, *flags, "--storage-uri", s3.uri, "--run-id", run_id]
        assert main([*command, *more]) == 0

    before = proxy.counts["requests"]
    average("one")
    # Two of 12 shards of each model, two of each label, 4 of each model for a tile that the report shows; tile by tile
    # it would be 17 a tile.
    assert proxy.counts["requests"] - before < 11 * NUM_SCENES * TILES_PER_SCENE
    written = s3.folder / "runs" / "several" / "average-probs"
    for share in (2, 3, 1):
        average("several", "--worker", f"{share}/3")
        stitched = {path.name for path in written.glob("*/scenes/val/*.tif")}
        expected = {2: {"big1.tif"}, 3: {"big1.tif", "big2.tif"}, 1: {"big0.tif", "big1.tif", "big2.tif"}}
        assert stitched == expected[share]
    one, several = (published_objects(s3.folder / "runs" / name) for name in ("one", "several"))
    assert one.keys() == several.keys()
    assert {name for name in one if one[name] != several[name]} <= {
        name for name in one if name.endswith(("report.html", "parts/costs.json", "arguments.json"))
    }


def test_more_scenes_than_the_manifest_lists_are_refused_before_anything_is_averaged(tmp_path, monkeypatch, capsys):
    ref = stage(tmp_path, str(tmp_path))
    dataset = open_dataset(ref, tmp_path)
    probs = export(tmp_path / "swin", dataset, "swin", splits=("val",), probs=probs_of)
    given = ["--dataset", ref, "--probs", probs, "--storage-uri", str(tmp_path), "--run-id", "r"]
    entry = MAP_ENTRY_BYTES + 2 * len("big0")
    monkeypatch.setattr("landseg.ensemble.maps.scenes.MAX_DOCUMENT_BYTES", NUM_SCENES * entry)
    assert main(["plan-average", *given]) == 0
    average = ["average-probs", *given, "--layers"]
    assert main(["plan-average", *given, "--layers", "entropy"]) == 2
    assert main([*average, "entropy"]) == 2
    assert "average at most 1 of them at once: stage them as several datasets, or ask for fewer --layers" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.glob("runs/**/*.npz"))
    assert main([*average, ""]) == 0
    (written,) = tmp_path.glob("runs/r/average-probs/*/manifest.json")
    labels = json.loads(written.read_text())
    maps = [one | {"size_bytes": 10**13} for one in labels["scenes"]["val"]]
    assert len(json.dumps({"a": {"b": {"c": maps}}}, indent=1)) / NUM_SCENES < entry + len("-disagreement")
    monkeypatch.setattr("landseg.ensemble.maps.scenes.MAX_DOCUMENT_BYTES", NUM_SCENES * entry - 1)
    assert main(["plan-average", *given]) == 2
