"""Scores of average-probs: with fewer views, over the classes in the truth, of one tile."""

import json
import tarfile

import numpy as np
import pytest
import tifffile
from averages import average, label_maps, published
from ensembles import export, made_up_probs, made_up_views, open_dataset, write_index
from PIL import Image

from landseg.cli.main import main
from landseg.contracts.probabilities import VIEWS
from landseg.ensemble.maps.archives import write_archive
from landseg.ensemble.members import Member
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.split_results import combine
from landseg.probabilities.codec import DTYPES, dequantize, quantize
from landseg.probabilities.reader import ProbsReader
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import scores


def test_views_that_were_kept_show_what_they_contribute(staged, dataset, tmp_path):
    names, kept = ("resnest", "swin"), {"tta": "hv", "views": VIEWS["hv"]}
    refs = [export(tmp_path / name, dataset, name, splits=("val",), **kept) for name in names]
    plain = [
        export(
            tmp_path / f"{name}-mean",
            dataset,
            name,
            splits=("val",),
            tta="hv",
            probs=lambda *tile: made_up_views(*tile)[0],
        )
        for name in names
    ]
    assert average(staged, refs, tmp_path / "with") == 0
    assert average(staged, plain, tmp_path / "without") == 0
    maps = [label_maps(published(tmp_path / one), "val") for one in ("with", "without")]
    assert all(np.array_equal(maps[0][name], maps[1][name]) for name in maps[1])

    dtype, schema = DTYPES["companded"], dataset.schema
    matrices = {(tta, name): 0 for tta in ("none", "h") for name in (*names, "ensemble")}
    for tile in dataset.tiles("val"):
        truth = dataset.read_label("val", tile)
        views = {
            name: [dequantize(quantize(one, dtype), dtype) for one in made_up_views(dataset, "val", tile, name)[1]]
            for name in names
        }
        for tta, count in (("none", 1), ("h", 2)):
            sums = {name: np.sum(views[name][:count], axis=0) for name in names}
            sums["ensemble"] = sums["resnest"] + sums["swin"]
            for name, total in sums.items():
                labels = total.argmax(axis=0).astype(np.uint8)
                matrices[tta, name] += confusion_matrix(truth, labels, schema.num_classes, schema.ignore_index)
    summaries = [json.loads((tmp_path / one / "out" / "summary.json").read_text()) for one in ("with", "without")]
    assert "views" not in summaries[1]["splits"]["val"]
    found = summaries[0]["splits"]["val"].pop("views")
    assert summaries[0]["splits"] == summaries[1]["splits"]
    everything = summaries[0]["models"] | {"ensemble": summaries[0]["ensemble"]}
    assert {(tta, name) for tta, by_name in found.items() for name in by_name} == matrices.keys()
    for (tta, name), matrix in matrices.items():
        one = found[tta][name]
        assert one["scores"] == pytest.approx(scores(matrix, schema.classes))
        add, (low, high) = one["all_views_add"]["mIoU"], one["all_views_add"]["interval"]
        assert add == everything[name]["mIoU"] - one["scores"]["mIoU"]
        assert low <= add <= high
        assert add > 0  # more made-up views are less noise
        low, high = one["intervals"]["mIoU"]
        assert low <= one["scores"]["mIoU"] <= high
    page = (tmp_path / "with" / "out" / "report.html").read_text()
    assert "Flip views" in page
    assert "Flip views" not in (tmp_path / "without" / "out" / "report.html").read_text()


def test_views_of_some_models_alone_are_not_scored_and_a_warning_says_so(staged, exported, dataset, tmp_path, capsys):
    one = export(tmp_path / "views", dataset, "viewed", tta="hv", views=VIEWS["hv"])
    assert average(staged, [one, exported["swin"]], tmp_path) == 0
    assert "views are scored only where every model keeps the same ones: not swin" in capsys.readouterr().err
    assert "views" not in json.loads((tmp_path / "out" / "summary.json").read_text())["splits"]["val"]
    assert average(staged, [one], tmp_path, run_id="alone") == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["splits"]["val"]["views"]
    assert found["h"]["viewed"] == found["h"]["ensemble"]


def test_models_are_compared_over_the_classes_in_the_truth(tmp_path):
    """One model predicts classes that val lacks, the other does not: no score, and the report says which they are."""
    raw = tmp_path / "raw"
    for kind in ("images", "labels"):
        (raw / "val" / kind).mkdir(parents=True)
    (raw / "dataset.yaml").write_text("version: 1\nname: absent\nclasses: [a, b, c, d]\n")
    rng = np.random.default_rng(0)
    for i in range(4):
        tifffile.imwrite(raw / f"val/images/{i}.tif", rng.integers(0, 255, (32, 32, 3), np.uint8), photometric="rgb")
        Image.fromarray(rng.integers(0, 2, (32, 32), np.uint8)).save(raw / f"val/labels/{i}.png")
    root = str(tmp_path)
    assert main(["stage-data", "--source", str(raw), "--storage-uri", root, "--output-dir", root]) == 0
    assert "c, d; they are left out of the scores" in (tmp_path / "checks.json").read_text()
    dataset = open_dataset(str(tmp_path / "dataset.json"), tmp_path)

    def guess(dataset, split, tile, model):
        num_classes = 4 if model == "wild" else 2
        values = np.full((4, tile.height, tile.width), 0.01, np.float32)
        chosen = np.random.default_rng(int(tile.id)).integers(0, num_classes, (tile.height, tile.width))
        values[:num_classes] += np.eye(num_classes, dtype=np.float32)[chosen].transpose(2, 0, 1)
        return values / values.sum(axis=0)

    refs = [export(tmp_path / m, dataset, m, splits=("val",), probs=guess) for m in ("wild", "tame")]
    assert average(str(tmp_path / "dataset.json"), refs, tmp_path, "--weights", "2,1") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    keys = {"mIoU", "mAcc", "aAcc", "IoU.a", "IoU.b"}
    assert all(found.keys() == keys for found in (*summary["models"].values(), summary["ensemble"]))
    assert np.array(summary["confusion"])[:, 2:].any()
    assert "left out of all means: c and d." in (tmp_path / "out" / "report.html").read_text()


def test_a_class_of_one_tile_has_no_interval(staged, exported, dataset, tmp_path):
    assert average(staged, [exported["swin"]], tmp_path) == 0
    holding = dict.fromkeys(dataset.schema.classes, 0)
    for tile in dataset.tiles("val"):
        for class_id in np.unique(dataset.read_label("val", tile)):
            if class_id < len(holding):
                holding[dataset.schema.classes[class_id]] += 1
    (found,) = json.loads((tmp_path / "out" / "summary.json").read_text())["splits"]["val"]["ensembles"]
    known = {key.removeprefix("IoU.") for key in found["intervals"] if key.startswith("IoU.")}
    assert known == {name for name, number in holding.items() if number >= 2}


def test_tiles_of_all_sizes(staged, dataset, tmp_path):
    """The archive is sorted by id although tiles of the same size are stored together."""

    def tiles(split):
        return [t.model_copy(update={"height": 48 + 150 * (i % 2)}) for i, t in enumerate(dataset.tiles(split))]

    probs = lambda dataset, split, tile, model: made_up_probs(dataset, "test", tile, model)  # noqa: E731
    ref = export(tmp_path / "p", dataset, "swin", splits=("test",), tiles=tiles, probs=probs)
    ensemble = Ensemble(
        str(tmp_path / "ensemble"),
        dataset,
        (Member(ProbsReader.open(ref, tmp_path), 1.0),),
        {"test": write_index(tmp_path / "tiles.jsonl", dataset.manifest.splits["test"], tiles("test"))},
        tmp_path,
    )
    results = [ensemble.average_shard(shard) for shard in ensemble.shards]
    assert write_archive(ensemble, ensemble.shards, "labels", tmp_path / "labels.tar") == 5
    with tarfile.open(tmp_path / "labels.tar") as tar:
        sizes = {info.name: Image.open(tar.extractfile(info)).size for info in tar}
    assert sizes == {f"{tile.id}.png": (tile.width, tile.height) for tile in tiles("test")}
    assert list(sizes) == sorted(sizes)
    combined = combine("test", ensemble.tiles["test"].table, len(results), results.__getitem__)
    assert list(combined.tile_ids) == [tile.id for tile in tiles("test")]
    by_id = {
        name: entropy for one in results for name, entropy in zip(one.ids, one.uncertainty[:, 1].tolist(), strict=True)
    }
    assert dict(zip(combined.tile_ids, combined.entropy.tolist(), strict=True)) == by_id
