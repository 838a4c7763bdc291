"""Scenes in average-probs: stitched from their tiles, and scored as they are delivered."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from averages import average, objects, published
from ensembles import export, open_dataset
from PIL import Image

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.probabilities import VIEWS
from landseg.probabilities.codec import DTYPES
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import METRICS, scores


def test_scenes_are_stitched_from_their_tiles(tmp_path):
    raw = tmp_path / "raw"
    (raw / "test" / "images").mkdir(parents=True)
    scales = "scenes: {max_px: 64, tile_px: 48, overlap_px: 16}"
    (raw / "dataset.yaml").write_text(f"version: 1\nname: scene\nclasses: [a, b, c]\nlabel_offset: 1\n{scales}\n")
    rng = np.random.default_rng(0)
    tifffile.imwrite(
        raw / "test" / "images" / "big.tif", rng.integers(0, 255, (100, 70, 3), np.uint8), photometric="rgb"
    )
    tifffile.imwrite(
        raw / "test" / "images" / "small.tif", rng.integers(0, 255, (40, 50, 3), np.uint8), photometric="rgb"
    )
    assert (
        main(["stage-data", "--source", str(raw), "--storage-uri", str(tmp_path), "--output-dir", str(tmp_path)]) == 0
    )
    dataset = open_dataset(str(tmp_path / "dataset.json"), tmp_path)
    # every pixel of the scene has its own probabilities, so all tiles agree on it
    raised = np.exp(rng.normal(size=(3, 100, 70)))
    scene = (raised / raised.sum(axis=0)).astype(np.float32)

    def probs(dataset, split, tile, model):
        if tile.scene is None:
            return np.full((3, tile.height, tile.width), 1 / 3, np.float32)
        return scene[:, tile.scene.y : tile.scene.y + tile.height, tile.scene.x : tile.scene.x + tile.width]

    ref = export(tmp_path / "p", dataset, "swin", splits=("test",), probs=probs, dtype="float32")
    assert average(str(tmp_path / "dataset.json"), [ref], tmp_path, "--png-dir", str(tmp_path / "png")) == 0
    found = tifffile.imread(tmp_path / "png" / "test-scenes" / "big.tif")
    np.testing.assert_array_equal(found, scene.argmax(axis=0) + 1)
    labels = published(tmp_path)
    assert [one.scene for one in labels.document.scenes["test"]] == ["big"]
    assert len(list((tmp_path / "png" / "test").iterdir())) == len(dataset.tiles("test"))
    # a run that was killed while stitching resumes
    folder = Path(storage.parent(labels.uri))
    expected = objects(tmp_path)
    (folder / "manifest.json").unlink()
    before = (folder / "scenes" / "test" / "big.tif").stat().st_mtime_ns
    assert average(str(tmp_path / "dataset.json"), [ref], tmp_path) == 0
    assert objects(tmp_path) == expected
    assert (folder / "scenes" / "test" / "big.tif").stat().st_mtime_ns == before


def stage_scenes(root, num_scenes=3, ignored=()):
    """Labelled val scenes of 100 x 70 px in overlapping tiles, and a small tile; returns the reference."""
    raw = root / "raw"
    for kind in ("images", "labels"):
        (raw / "val" / kind).mkdir(parents=True)
    scales = "scenes: {max_px: 64, tile_px: 48, overlap_px: 16}"
    (raw / "dataset.yaml").write_text(f"version: 1\nname: scenes\nclasses: [a, b, c]\n{scales}\n")
    rng = np.random.default_rng(0)
    names = [f"big{i}" for i in range(num_scenes)]
    for name in [*names, "small"]:
        size = (40, 50) if name == "small" else (100, 70)
        image = rng.integers(0, 255, (*size, 3), np.uint8)
        tifffile.imwrite(raw / "val" / "images" / f"{name}.tif", image, photometric="rgb")
        label = np.full(size, 255, np.uint8) if name in ignored else rng.integers(0, 3, size, np.uint8)
        Image.fromarray(label).save(raw / "val" / "labels" / f"{name}.png")
    assert main(["stage-data", "--source", str(raw), "--storage-uri", str(root), "--output-dir", str(root)]) == 0
    return str(root / "dataset.json")


def probs_by_tile_name(dataset, split, tile, model):
    """Every tile has an opinion of its own of the ground that it shares with its neighbours."""
    rng = np.random.default_rng([*tile.id.encode(), *model.encode()])
    logits = rng.normal(size=(3, tile.height, tile.width))
    logits += 0.7 * (dataset.read_label(split, tile) == np.arange(3)[:, None, None])
    return (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)


def views_by_tile_name(dataset, split, tile, model):
    views = [probs_by_tile_name(dataset, split, tile, f"{model}{view}") for view in range(3)]
    return np.float32(0.5) * views[0] + np.float32(0.25) * views[1] + np.float32(0.25) * views[2], views


def test_scores_of_scenes_are_those_of_the_delivered_maps(tmp_path, monkeypatch):
    ref = stage_scenes(tmp_path)
    dataset = open_dataset(ref, tmp_path)
    monkeypatch.setattr("ensembles.made_up_views", views_by_tile_name)
    kept = {"tta": "hv", "views": VIEWS["hv"], "splits": ("val",)}
    refs = {model: export(tmp_path / model, dataset, model, **kept) for model in ("x", "y")}
    assert average(ref, refs.values(), tmp_path, "--png-dir", str(tmp_path / "png")) == 0
    assert average(ref, [refs["x"]], tmp_path, "--png-dir", str(tmp_path / "alone"), run_id="alone") == 0

    def confusion_of(folder):
        total = np.zeros((3, 3), np.int64)
        for path in (tmp_path / "raw" / "val" / "labels").iterdir():
            maps = [folder / "val-scenes" / f"{path.stem}.tif", folder / "val" / f"{path.stem}.png"]
            (found,) = [one for one in maps if one.exists()]
            labels = tifffile.imread(found) if found.suffix == ".tif" else np.asarray(Image.open(found))
            total += confusion_matrix(np.asarray(Image.open(path)), labels, 3, 255)
        return total

    both, alone = (confusion_of(tmp_path / name) for name in ("png", "alone"))
    assert both.sum() == 3 * 100 * 70 + 40 * 50
    folder = Path(storage.parent(published(tmp_path).uri)).parents[1]
    summaries = [json.loads(next((folder.parent / run).rglob("summary.json")).read_text()) for run in ("r", "alone")]
    assert summaries[0]["confusion"] == both.tolist()
    assert summaries[0]["ensemble"] == scores(both, "abc")
    assert summaries[0]["models"]["x"] == summaries[1]["models"]["x"] == scores(alone, "abc")
    val = summaries[0]["splits"]["val"]
    assert (val["num_scored_tiles"], val["num_scored_scenes"]) == (3 * 6 + 1, 3)
    of_tiles = sum(  # each tile on its own, beside the scenes
        confusion_matrix(
            dataset.read_label("val", tile), np.asarray(Image.open(tmp_path / f"png/val/{tile.id}.png")), 3, 255
        )
        for tile in dataset.tiles("val")
    )
    expected = scores(of_tiles, "abc")
    assert val["tiles"]["ensemble"] == pytest.approx({key: expected[key] for key in METRICS})
    assert val["tiles"]["ensemble"]["mIoU"] != summaries[0]["ensemble"]["mIoU"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f'data-metric="splits.val.tiles.x.mIoU" data-value="{val["tiles"]["x"]["mIoU"]}"' in page
    low, high = val["ensembles"][-1]["intervals"]["mIoU"]
    assert low < summaries[0]["ensemble"]["mIoU"] < high
    # fewer views are stitched as well: one view alone is a model of its own
    first = {
        model: export(
            tmp_path / f"{model}0",
            dataset,
            model,
            splits=("val",),
            probs=lambda *tile: views_by_tile_name(*tile)[1][0],
        )
        for model in refs
    }
    assert average(ref, first.values(), tmp_path / "first") == 0
    alone_view = json.loads((tmp_path / "first" / "out" / "summary.json").read_text())
    assert val["views"]["none"]["x"]["scores"] == pytest.approx(alone_view["models"]["x"])
    assert val["views"]["none"]["ensemble"]["scores"] == pytest.approx(alone_view["ensemble"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "counts more than once" not in page


def test_of_one_scene_no_interval_is_known(tmp_path):
    ref = stage_scenes(tmp_path, num_scenes=1, ignored=("small",))
    dataset = open_dataset(ref, tmp_path)
    refs = [export(tmp_path / m, dataset, m, splits=("val",), probs=probs_by_tile_name) for m in ("x", "y")]
    assert average(ref, refs, tmp_path) == 0
    val = json.loads((tmp_path / "out" / "summary.json").read_text())["splits"]["val"]
    assert (val["num_scored_tiles"], val["num_scored_scenes"]) == (6, 1)
    assert all(not one["intervals"] for one in val["ensembles"])
    assert "on 6 val tiles (1 stitched scene)" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", ["equal", "1,2,3"])
def test_ties_give_the_same_class_in_tiles_and_scenes(tmp_path, dtype, weights):
    """Probabilities of few values, so that sums of three models tie often."""
    ref = stage_scenes(tmp_path, num_scenes=1)
    dataset = open_dataset(ref, tmp_path)

    def coarse(dataset, split, tile, model):
        ground = np.random.default_rng([*model.encode()]).integers(1, 4, (3, 100, 70)).astype(np.float32)
        y, x = (tile.scene.y, tile.scene.x) if tile.scene else (0, 0)
        own = ground[:, y : y + tile.height, x : x + tile.width]
        return own / own.sum(axis=0)

    refs = [export(tmp_path / m, dataset, m, splits=("val",), probs=coarse, dtype=dtype) for m in ("x", "y", "z")]
    assert average(ref, refs, tmp_path, "--png-dir", str(tmp_path / "png"), "--weights", weights) == 0
    scene = tifffile.imread(tmp_path / "png" / "val-scenes" / "big0.tif")
    alone = np.zeros(scene.shape, np.int64)
    for tile in dataset.tiles("val"):
        if tile.scene:
            alone[tile.scene.y : tile.scene.y + tile.height, tile.scene.x : tile.scene.x + tile.width] += 1
    for tile in dataset.tiles("val"):
        if tile.scene:
            window = np.s_[tile.scene.y : tile.scene.y + tile.height, tile.scene.x : tile.scene.x + tile.width]
            own = np.asarray(Image.open(tmp_path / "png" / "val" / f"{tile.id}.png"))
            only = alone[window] == 1
            assert only.any()
            np.testing.assert_array_equal(scene[window][only], own[only])
