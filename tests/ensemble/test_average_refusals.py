"""What average-probs refuses: models that do not match, wrong flags, shards that are damaged or missing."""

import re
from pathlib import Path

import numpy as np
import pytest
from averages import average, objects
from ensembles import export

from landseg.contracts.references import Reference
from landseg.probabilities.reader import ProbsReader


def refused(capsys, status):
    assert status == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("landseg average-probs: error: ")
    return error


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "b", "checkpoint_sha256": "a" * 64}, ["same model", "aaaaaaaaaaaa"]),
        ({"model": "a"}, ["'a'", "--name"]),
        ({"model": "b", "dataset_id": "f" * 16}, ["ffffffffffffffff", "dataset"]),
        ({"model": "b", "splits": ("test",)}, ["splits", "test, val"]),
        ({"model": "b", "tiles": lambda tiles: tiles[1:]}, ["lacks 300000", "4 tiles", "not the 5"]),
        (
            {"model": "b", "tiles": lambda tiles: [*tiles, tiles[-1].model_copy(update={"id": "399999"})]},
            ["also has 399999"],
        ),
        (
            {"model": "b", "tiles": lambda tiles: [t.model_copy(update={"height": 47}) for t in tiles]},
            ["47 x 48 instead of 48 x 48", "2 more"],
        ),
        ({"model": "b", "classes": "swap"}, ["class 0 is 'field' instead of 'background'", "class 1"]),
        ({"model": "b", "classes": "fewer"}, ["9 classes", "8"]),
    ],
    ids=[
        "same model",
        "same name",
        "dataset",
        "splits",
        "fewer tiles",
        "more tiles",
        "sizes",
        "class order",
        "classes",
    ],
)
def test_models_that_do_not_match_are_refused(staged, dataset, tmp_path, capsys, changes, expected):
    first = export(tmp_path / "first", dataset, "a", splits=("test",), checkpoint_sha256="a" * 64)
    if changes.get("splits") == ("test",):
        first = export(tmp_path / "both", dataset, "a", splits=("val", "test"))
    changes = dict(changes)
    classes = dataset.schema.classes
    if changes.get("classes") == "swap":
        changes["classes"] = (classes[1], classes[0], *classes[2:])
    if changes.get("classes") == "fewer":
        changes["classes"] = classes[:-1]
    num_classes = len(changes.get("classes", classes))
    choose = changes.pop("tiles", lambda tiles: tiles)

    def probs(dataset, split, tile, model):
        return np.full((num_classes, tile.height, tile.width), 1 / num_classes, np.float32)

    settings = {"splits": ("test",), **changes}
    model = settings.pop("model")
    other = export(
        tmp_path / "other", dataset, model, tiles=lambda split: choose(dataset.tiles(split)), probs=probs, **settings
    )
    line = refused(capsys, average(staged, [first, other], tmp_path))
    for text in expected:
        assert text in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--weights", "1"), "expected 2 weights"),
        (("--weights", "1,2,3"), "expected 2 weights"),
        (("--weights", "1,x"), "numbers"),
        (("--weights", "1,-1"), "at least 0"),
        (("--weights", "0,0"), "not all 0"),
        (("--weights", "1,nan"), "at least 0"),
        (("--worker", "3/2"), "I/N"),
        (("--worker", "two"), "I/N"),
        (("--num-workers", "0"), "at least 1"),
    ],
)
def test_wrong_flags_are_refused(staged, exported, tmp_path, capsys, flags, expected):
    refs = [exported["swin"], exported["resnest"]]
    assert expected in refused(capsys, average(staged, refs, tmp_path, *flags))


def test_damaged_and_missing_shards_are_refused(staged, dataset, tmp_path, capsys):
    ref = export(tmp_path / "p", dataset, "a", splits=("test",))
    shard = next((tmp_path / "p").rglob("probs/c/2/0/0/0"))
    good = shard.read_bytes()
    shard.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    line = refused(capsys, average(staged, [ref], tmp_path))
    assert "sha256" in line and str(shard) in line
    shard.unlink()
    assert str(shard) in refused(capsys, average(staged, [ref], tmp_path))
    assert objects(tmp_path) == {}
    shard.write_bytes(good)
    assert average(staged, [ref], tmp_path) == 0


@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 12), marks=pytest.mark.slow)], ids=["one", "many"])
def test_flipped_bits_anywhere_are_errors_or_change_nothing(staged, dataset, tmp_path, capsys, seed):
    """Everything that a reference leads to is checked; only what no label depends on may be damaged."""
    refs = []
    for name in ("swin", "resnest"):
        uri = export(tmp_path / name, dataset, name, splits=("test",))
        reader = ProbsReader.open(uri, tmp_path)
        reference = Reference(uri=uri, sha256=reader.sha256, manifest_kind="landseg.probs")
        refs.append(str(tmp_path / f"{name}.json"))
        Path(refs[-1]).write_bytes(reference.to_bytes())
    assert average(staged, refs, tmp_path, run_id="calm") == 0
    expected = objects(tmp_path, "calm")
    kept = sorted(path for name in ("swin", "resnest") for path in (tmp_path / name).rglob("*") if path.is_file())
    needed = [path for path in kept if path.name == "manifest.json" or re.search("/probs/c/|/index/", str(path))]
    assert len(needed) == 14  # of each model, the manifest, its index and five shards
    for one in [seed] if seed == 0 else seed:
        rng = np.random.default_rng(one)
        for path in kept:
            good = path.read_bytes()
            damaged = bytearray(good)
            damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            capsys.readouterr()
            run_id = f"{one}-{kept.index(path)}"
            status = average(staged, refs, tmp_path, run_id=run_id)
            path.write_bytes(good)
            if path in needed:
                assert str(path) in refused(capsys, status)
            else:
                assert status == 0
                found = objects(tmp_path, run_id)
                assert {k: found[k] for k in ("labels-test-000000.tar", "summary.json")} == {
                    k: expected[k] for k in ("labels-test-000000.tar", "summary.json")
                }
