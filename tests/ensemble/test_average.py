"""average-probs as a whole, on made-up probabilities: maps, layers, metrics and report."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from averages import average, label_maps, named, objects, published
from ensembles import export, made_up_probs, open_dataset
from PIL import Image

from landseg import storage
from landseg.cli.main import main
from landseg.ensemble.averaging import disagreement, entropy
from landseg.probabilities.codec import DTYPES, dequantize, quantize
from landseg.scoring.boundary import boundary_areas, boundary_scores, near_outline
from landseg.scoring.calibration import calibration_error, reliability_counts
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import scores


def test_the_whole_stage(staged, exported, dataset, tmp_path, capsys):
    refs = [exported["swin"], exported["resnest"]]
    assert average(staged, refs, tmp_path, "--png-dir", str(tmp_path / "png")) == 0
    labels = published(tmp_path)
    assert [member.model for member in labels.document.members] == ["resnest", "swin"]
    schema = dataset.schema
    confusion = np.zeros((3, schema.num_classes, schema.num_classes), np.int64)
    sure: list[list[np.ndarray]] = [[], [], []]
    right: list[list[np.ndarray]] = [[], [], []]
    outlines = np.zeros((3, 3, schema.num_classes), np.int64)
    for split in ("val", "test"):
        maps = label_maps(labels, split)
        assert list(maps) == [f"{tile.id}.png" for tile in dataset.tiles(split)]
        for tile in dataset.tiles(split):
            image = maps[f"{tile.id}.png"]
            assert image.mode == "P"
            assert image.getpalette()[: 3 * schema.num_classes] == [v for colour in schema.palette for v in colour]
            probs = [
                dequantize(
                    quantize(made_up_probs(dataset, split, tile, model), DTYPES["companded"]), DTYPES["companded"]
                )
                for model in ("resnest", "swin")
            ]
            expected = [p.argmax(axis=0) for p in (*probs, probs[0] + probs[1])]
            np.testing.assert_array_equal(np.asarray(image), expected[-1])
            np.testing.assert_array_equal(
                np.asarray(Image.open(tmp_path / "png" / split / f"{tile.id}.png")), expected[-1]
            )
            if split == "val":
                truth = dataset.read_label(split, tile)
                confusion += [
                    confusion_matrix(truth, one.astype(np.uint8), schema.num_classes, schema.ignore_index)
                    for one in expected
                ]
                near = near_outline(truth, schema.num_classes, 1)  # 2 % of the diagonal of 48 px
                for i, (one, prob) in enumerate(zip(expected, (*probs, (probs[0] + probs[1]) / 2), strict=True)):
                    sure[i].append(prob.max(axis=0)[truth < schema.num_classes])
                    right[i].append((one == truth)[truth < schema.num_classes])
                    label = one.astype(np.uint8)
                    pair = (label, near_outline(label, schema.num_classes, 1))
                    outlines[i] += boundary_areas((truth, near), pair, schema.num_classes)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    expected = [scores(one, schema.classes) for one in confusion]
    assert summary["models"] == {"resnest": expected[0], "swin": expected[1]}
    assert summary["ensemble"] == expected[2]
    assert summary["num_tiles"] == {"val": 20, "test": 5}
    assert summary["scored_split"] == "val"
    assert summary["confusion"] == confusion[2].tolist()
    for i, name in enumerate(("resnest", "swin", "ensemble")):
        counts = reliability_counts(np.concatenate(sure[i]), np.concatenate(right[i]))
        found = summary["splits"]["val"]["calibration"][name]
        assert found["ECE"] == pytest.approx(calibration_error(counts), abs=1e-6)
        assert sum(one["pixels"] for one in found["bins"]) == counts[0].sum()
        assert found["accuracy"] == pytest.approx(expected[i]["aAcc"])
        assert summary["splits"]["val"]["boundary"][name] == boundary_scores(outlines[i], schema.classes)
    ensembles = summary["splits"]["val"]["ensembles"]
    assert [one["models"] for one in ensembles] == [["resnest"], ["swin"], ["resnest", "swin"]]
    for one in ensembles:
        for key, (low, high) in one["intervals"].items():
            assert low <= one["scores"][key] <= high
    gain = summary["splits"]["val"]["gain"]
    assert gain["mIoU"] == summary["ensemble"]["mIoU"] - summary["models"][gain["over"]]["mIoU"]
    assert gain["interval"][0] <= gain["mIoU"] <= gain["interval"][1]
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(name in page for name in ("resnest", "swin", *schema.classes))
    rows = list(csv.DictReader((tmp_path / "runs").rglob("ranking.csv").__next__().open()))
    assert len(rows) == 25
    assert [float(row["entropy"]) for row in rows] == sorted((float(row["entropy"]) for row in rows), reverse=True)
    assert {row["mIoU.ensemble"] == "" for row in rows if row["split"] == "test"} == {True}
    told = capsys.readouterr().out.splitlines()
    mean_iou = f"{100 * json.loads((tmp_path / 'out/metrics.json').read_text())['ensemble.mIoU']:.2f}"
    assert next(line.split() for line in told if line.startswith("ensemble"))[1] == mean_iou
    assert told[-3:] == [f"maps: {tmp_path}/png", f"report: {tmp_path}/out/report.html", labels.uri]


def test_a_rerun_does_no_work_and_writes_its_outputs_again(staged, exported, tmp_path):
    refs = [exported["swin"], exported["resnest"]]
    average(staged, refs, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    outputs = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    assert average(staged, refs, tmp_path) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == outputs


def test_one_model_is_an_ensemble_too(staged, exported, tmp_path):
    assert average(staged, [exported["swin"]], tmp_path) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["ensemble"] == summary["models"]["swin"]
    assert "gain" not in summary["splits"]["val"]


def test_without_labels_there_are_no_scores(staged, dataset, tmp_path):
    refs = [export(tmp_path / model, dataset, model, splits=("test",)) for model in ("a", "b")]
    assert average(staged, refs, tmp_path) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["models"] == {"a": {}, "b": {}}
    assert (summary["ensemble"], summary["scored_split"], summary["confusion"]) == ({}, None, [])


def test_labels_are_written_as_the_dataset_writes_them(tmp_path):
    """With a label offset of 1, class 0 has the value 1."""
    root = tmp_path / "raw"
    assert main(["make-sample-data", str(root), "--train", "0", "--val", "3", "--test", "0", "--size", "48"]) == 0
    (root / "dataset.yaml").write_text(
        (root / "dataset.yaml").read_text().replace("label_offset: 0", "label_offset: 1")
    )
    for path in (root / "val" / "labels").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) + 1).save(path)
    assert (
        main(["stage-data", "--source", str(root), "--storage-uri", str(tmp_path), "--output-dir", str(tmp_path)]) == 0
    )
    dataset = open_dataset(str(tmp_path / "dataset.json"), tmp_path)
    ref = export(tmp_path / "p", dataset, "swin", splits=("val",), probs=lambda *a: made_up_probs(*a, skill=50))
    assert average(str(tmp_path / "dataset.json"), [ref], tmp_path) == 0
    maps = label_maps(published(tmp_path), "val")
    for name, image in maps.items():
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(root / "val" / "labels" / name)))
        assert image.getpalette()[3:6] == list(dataset.schema.palette[0])
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["ensemble"]["mIoU"] == 1.0


def test_layers(staged, exported, dataset, tmp_path):
    refs = [exported["swin"], exported["resnest"]]
    flags = ("--layers", "disagreement,entropy", "--png-dir", str(tmp_path / "png"))
    assert average(staged, refs, tmp_path, *flags) == 0
    layers = published(tmp_path).document.layers
    assert {layer: list(splits) for layer, splits in layers.items()} == {
        "entropy": ["val", "test"],
        "disagreement": ["val", "test"],
    }
    tile = dataset.tiles("test")[1]
    dtype = DTYPES["companded"]
    stored = [quantize(made_up_probs(dataset, "test", tile, model), dtype) for model in ("resnest", "swin")]
    probs = [dequantize(one, dtype) for one in stored]
    for layer, expected in (("disagreement", disagreement(probs)), ("entropy", entropy((probs[0] + probs[1]) / 2))):
        image = Image.open(tmp_path / "png" / f"test-{layer}" / f"{tile.id}.png")
        assert (image.mode, image.size) == ("L", (tile.width, tile.height))
        np.testing.assert_allclose(np.asarray(image) / 255, expected, atol=0.6 / 255)
    assert average(staged, refs, tmp_path, "--layers", "entropy,heat") == 2


def test_kfp_gets_metrics_and_confusion_matrix(staged, exported, tmp_path):
    names = {"labels": "Dataset", "metrics": "Metrics", "confusion_matrix": "ClassificationMetrics", "report": "HTML"}
    artifacts = {
        name: {"artifacts": [{"name": name, "uri": str(tmp_path / "kfp" / name), "metadata": {}}]} for name in names
    }
    wired = {
        f"probs_{i}": {"artifacts": [{"name": "probs", "uri": exported[model], "metadata": {}}]}
        for i, model in enumerate(("swin", "resnest"), 1)
    }
    wired["dataset"] = {"artifacts": [{"name": "dataset", "uri": staged, "metadata": {}}]}
    executor = {
        "inputs": {"artifacts": wired},
        "outputs": {"artifacts": artifacts, "outputFile": str(tmp_path / "kfp" / "output.json")},
    }
    common = ["--storage-uri", str(tmp_path), "--run-id", "r", "--executor-input", json.dumps(executor)]
    assert main(["average-probs", "--dataset", "", "--probs", "", "--weights", "", *common]) == 0
    found = json.loads((tmp_path / "kfp" / "output.json").read_text())["artifacts"]
    metrics = found["metrics"]["artifacts"][0]["metadata"]
    keys = ("mIoU", "mAcc", "aAcc", "ECE", "boundary_mIoU")
    assert metrics.keys() == {f"{m}.{k}" for m in ("swin", "resnest", "ensemble") for k in keys}
    matrix = found["confusion_matrix"]["artifacts"][0]["metadata"]["confusionMatrix"]
    assert len(matrix["annotationSpecs"]) == len(matrix["rows"]) == 9
    assert len(matrix["rows"][0]["row"]) == 9
    assert "<html" in (tmp_path / "kfp" / "report").read_text()


def test_works_on_s3(staged, exported, s3, tmp_path):
    refs = [exported["swin"], exported["resnest"]]
    common = ["--run-id", "r", "--output-dir", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch")]
    assert (
        main(["average-probs", "--dataset", staged, "--probs", ",".join(refs), "--storage-uri", s3.uri, *common]) == 0
    )
    average(staged, refs, tmp_path / "local")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert named(s3.folder) == objects(tmp_path / "local")


def test_the_report_adds_up_what_attempts_cost(staged, exported, tmp_path):
    for share in (2, 1):
        assert average(staged, [exported["swin"]], tmp_path, "--worker", f"{share}/2") == 0
    folder = Path(storage.parent(published(tmp_path).uri))
    seconds = sorted(json.loads(path.read_text())["seconds"] for path in (folder / "costs").iterdir())
    assert len(seconds) == 2 and seconds[0] > 0
    shown = dict(
        re.findall(r'data-metric="seconds\.([\w-]+)" data-value="([\d.]+)"', (folder / "report.html").read_text())
    )
    assert shown.keys() == {"stage-data", "average-probs"}  # the made-up models cost nothing
    assert seconds[0] < float(shown["average-probs"]) <= sum(seconds)
