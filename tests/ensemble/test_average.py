"""average-probs: maps, scores, report and resumption on made-up probabilities."""

import csv
import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from ensembles import export, made_up_probs, made_up_views, open_dataset, published_objects, stage, write_index
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.labels import LabelsManifest
from landseg.contracts.probabilities import VIEWS
from landseg.contracts.references import Reference
from landseg.ensemble.averaging import Average, disagreement, entropy, subsets
from landseg.ensemble.maps import archives
from landseg.ensemble.maps.archives import write_archive
from landseg.ensemble.members import Member, affordable_threads, open_members
from landseg.ensemble.shard_averaging import Ensemble
from landseg.ensemble.split_results import combine
from landseg.probabilities.codec import DTYPES, dequantize, quantize
from landseg.probabilities.layout import most_shard_bytes
from landseg.probabilities.reader import ProbsReader
from landseg.scoring.boundary import boundary_areas, boundary_scores, near_outline
from landseg.scoring.calibration import calibration_error, reliability_counts
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.scores import METRICS, scores


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("staged"))


@pytest.fixture
def dataset(staged, tmp_path):
    return open_dataset(staged, tmp_path)


@pytest.fixture(scope="module")
def exported(staged, tmp_path_factory):
    """Three models' probabilities, by name."""
    folder = tmp_path_factory.mktemp("probs")
    dataset = open_dataset(staged, folder)
    return {model: export(folder / model, dataset, model) for model in ("swin", "resnest", "third")}


def average(staged, refs, root, *flags, run_id="r"):
    probs = [text for ref in refs for text in ("--probs", ref)]
    common = ["--storage-uri", str(root), "--run-id", run_id, "--output-dir", str(root / "out")]
    return main(["average-probs", "--dataset", staged, *probs, *common, *flags])


def published(root):
    return storage.read_document(LabelsManifest, str(root / "out" / "labels.json"))


def objects(root, run_id="r"):
    """Published objects by name, but for the results of shards and what is written before the work begins."""
    return named(root / "runs" / run_id)


def named(folder):
    found = {Path(name): data for name, data in published_objects(folder).items()}
    early = ("arguments.json", "identity.json")
    return {path.name: data for path, data in found.items() if "parts" not in path.parts and path.name not in early}


def label_maps(labels, split):
    found = {}
    for archive in labels.document.archives(split):
        data = storage.get_bytes(storage.join(storage.parent(labels.uri), archive.path), sha256=archive.sha256)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found |= {info.name: Image.open(io.BytesIO(tar.extractfile(info).read())) for info in tar}
    return found


def some_models(seed, num_models, num_classes=5, size=(9, 7)):
    rng = np.random.default_rng(seed)
    raised = np.exp(2 * rng.normal(size=(num_models, num_classes, *size)))
    return list((raised / raised.sum(axis=1, keepdims=True)).astype(np.float32))


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(sorted(DTYPES)), min_size=1, max_size=5),
    st.lists(st.floats(0.125, 8), min_size=5, max_size=5),
    st.booleans(),
)
def test_labels_are_the_argmax_of_the_weighted_sum(seed, names, weights, equal):
    dtypes = tuple(DTYPES[name] for name in names)
    weights = (1.0,) * len(names) if equal else tuple(weights[: len(names)])
    stored = [quantize(p, d) for p, d in zip(some_models(seed, len(names)), dtypes, strict=True)]
    wanted = subsets(len(names))
    found = Average(dtypes, weights, (1.0,) * len(names)).labels(stored, wanted)
    for subset, labels in zip(wanted, found, strict=True):
        exact = sum(weights[m] * (stored[m].astype(np.float64) * dtypes[m].unit) for m in subset)
        chosen = np.take_along_axis(exact, labels[None].astype(np.intp), 0)[0]
        np.testing.assert_allclose(chosen, exact.max(axis=0), rtol=1e-6)


def test_parity_with_the_plain_program_in_float32():
    models = some_models(1, 2, 9, (64, 64))
    labels = Average((DTYPES["float32"],) * 2, (1.0, 1.0), (1.0, 1.0)).labels(models, [(0, 1)])[0]
    np.testing.assert_array_equal(labels, (models[0] + models[1]).argmax(axis=0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_first_class(dtype):
    half = np.array([0.0, 0.5, 0.5], np.float32).reshape(3, 1, 1)
    other = np.array([0.5, 0.25, 0.25], np.float32).reshape(3, 1, 1)
    stored = [quantize(one, DTYPES[dtype]) for one in (half, other, half)]
    found = Average((DTYPES[dtype],) * 3, (1.0,) * 3, (1.0,) * 3).labels(stored, [(0,), (0, 2), (0, 1, 2)])
    assert [int(labels[0, 0]) for labels in found] == [1, 1, 1]


def test_weights_have_no_scale(dataset):
    stored = [quantize(p, DTYPES["companded"]) for p in some_models(2, 2)]
    dtypes = (DTYPES["companded"],) * 2
    tiny, huge = (1e-44, 3e-44), (1e39, 3e39)
    for a, b in (((1, 1), (7, 7)), ((1, 3), (2, 6)), ((1, 3), tiny), ((1, 3), huge), ((1, 1), (1e308, 1e308))):
        one, other = (Average(dtypes, w, (1.0, 1.0)).labels(stored, [(0, 1)])[0] for w in (a, b))
        np.testing.assert_array_equal(one, other)
        means = [Average(dtypes, w, (1.0, 1.0)).mean(stored) for w in (a, b)]
        np.testing.assert_allclose(means[0].sum(axis=0), 1, atol=0.02)
        np.testing.assert_allclose(*means, rtol=1e-6)


def test_subsets():
    assert subsets(1) == [(0,)]
    assert subsets(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    many = subsets(6)
    assert len(many) == 6 + 6 + 1
    assert many[0] == (0,) and many[-1] == tuple(range(6))


def test_entropy_and_disagreement_at_their_ends():
    sure = np.array([[1, 0], [0, 0.5]], np.float32).reshape(2, 1, 2)
    other = np.array([[0, 0], [1, 0.5]], np.float32).reshape(2, 1, 2)
    sure[0, 0, 1] = other[0, 0, 1] = 0.5
    np.testing.assert_allclose(entropy(sure), [[0, 1]], atol=1e-6)
    np.testing.assert_allclose(disagreement([sure, other]), [[1, 0]], atol=1e-6)
    np.testing.assert_array_equal(disagreement([sure]), [[0, 0]])


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


def test_order_shares_and_threads_change_no_bit(staged, exported, tmp_path):
    refs = list(exported.values())
    weights = ("--weights", "0.3,0.5,0.2")
    average(staged, refs, tmp_path / "a", *weights, "--num-workers", "1")
    average(staged, [refs[2], refs[0], refs[1]], tmp_path / "b", "--weights", "0.2,0.3,0.5", "--num-workers", "4")
    for share in (3, 1):
        assert average(staged, refs, tmp_path / "c", *weights, "--worker", f"{share}/3") == 0
        assert objects(tmp_path / "c").keys() == {"labels-test-000000.tar"}  # all of test was in the third share
    average(staged, refs, tmp_path / "c", *weights, "--worker", "2/3")
    assert objects(tmp_path / "a").keys() == {
        "manifest.json", "labels-val-000000.tar", "labels-test-000000.tar", "summary.json", "ranking.csv", "report.html"
    }  # fmt: skip
    assert objects(tmp_path / "a") == objects(tmp_path / "b") == objects(tmp_path / "c")


def test_workers_write_the_archives_whose_shards_they_finish(staged, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ARCHIVE_SHARDS", 2)
    refs = [exported["swin"], exported["resnest"]]
    average(staged, refs, tmp_path / "one")
    several = []
    for share in (2, 3, 1):
        several.append(len([name for name in objects(tmp_path / "several") if name.endswith(".tar")]))
        average(staged, refs, tmp_path / "several", "--worker", f"{share}/3", "--png-dir", str(tmp_path / "maps"))
    assert objects(tmp_path / "several") == objects(tmp_path / "one")
    assert several[0] == 0 < several[1] < several[2] < 8
    for split, num_tiles in (("val", 20), ("test", 5)):
        listed = published(tmp_path / "several").document.archives(split)
        assert len(listed) > 1 and sum(archive.num_tiles for archive in listed) == num_tiles
        assert len(label_maps(published(tmp_path / "several"), split)) == num_tiles
        assert len(list((tmp_path / "maps" / split).glob("*.png"))) == num_tiles


def test_what_another_worker_left_damaged_is_averaged_again_by_that_worker(staged, exported, tmp_path):
    refs = [exported["swin"]]
    assert average(staged, refs, tmp_path / "a", "--worker", "1/2") == 0
    (part, *_) = sorted((tmp_path / "a").rglob("parts/labels-val-*.tar"))
    part.write_bytes(b"half")
    assert average(staged, refs, tmp_path / "a", "--worker", "2/2") == 0
    assert "manifest.json" not in objects(tmp_path / "a")
    assert average(staged, refs, tmp_path / "a", "--worker", "1/2") == 0
    average(staged, refs, tmp_path / "b")
    assert objects(tmp_path / "a") == objects(tmp_path / "b")


def test_resumes_after_the_last_finished_shard(staged, exported, tmp_path):
    refs = [exported["swin"], exported["resnest"]]
    average(staged, refs, tmp_path)
    expected = objects(tmp_path)
    folder = Path(storage.parent(published(tmp_path).uri))
    parts = sorted((folder / "parts").glob("val-*.npz"))
    for path in [*folder.iterdir(), *(folder / "maps").iterdir()]:
        if path.name in expected:
            path.unlink()
    parts[0].unlink()  # killed between the label maps and the record
    parts[1].with_name(f"labels-{parts[1].stem}.tar").write_bytes(b"half")
    kept = parts[2].stat().st_mtime_ns
    damaged = bytearray(parts[3].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    parts[3].write_bytes(damaged)
    average(staged, refs, tmp_path)
    assert objects(tmp_path) == expected
    assert parts[2].stat().st_mtime_ns == kept


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


def test_threads_are_bounded_by_memory(staged, exported, dataset, tmp_path):
    members = open_members(list(exported.values()), None, dataset, tmp_path)
    assert affordable_threads(members, 8) == 8
    large = export(
        tmp_path / "large",
        dataset,
        "swin",
        splits=("test",),
        tiles=lambda split: [dataset.tiles(split)[0].model_copy(update={"height": 1500, "width": 1400, "label": None})],
        probs=lambda dataset, split, tile, model: np.full((9, tile.height, tile.width), 1 / 9, np.float32),
    )
    assert affordable_threads([replace(members[0], reader=ProbsReader.open(large, tmp_path))], 8) == 3


def test_an_archive_takes_its_parts_from_few_shards_at_a_time(exported, dataset, tmp_path, monkeypatch):
    ensemble = Ensemble(
        folder=str(tmp_path / "out"),
        dataset=dataset,
        members=tuple(open_members([exported["swin"]], None, dataset, tmp_path)),
        tiles={"val": dataset.index("val")},
        scratch=tmp_path,
    )
    shards = [shard for shard in ensemble.shards if shard[0] == "val"]
    for shard in shards:
        ensemble.average_shard(shard)
    monkeypatch.setattr(archives, "_PARTS_AHEAD", 1)
    get_file, on_disk = storage.get_file, []

    def watched(uri, target, **options):
        on_disk.append(len(list(tmp_path.glob("labels.tar.*"))))
        get_file(uri, target, **options)

    monkeypatch.setattr(storage, "get_file", watched)
    assert write_archive(ensemble, shards, "labels", tmp_path / "labels.tar") == 20
    assert len(on_disk) == len(shards) > 5
    assert max(on_disk) <= 1  # that which is being read, while the next is fetched
    assert not list(tmp_path.glob("labels.tar.*"))


def test_threads_are_bounded_by_the_room_for_shards(exported, dataset, tmp_path, monkeypatch):
    members = open_members(list(exported.values()), None, dataset, tmp_path)
    shard_bytes = most_shard_bytes(members[0].reader.spec, members[0].reader.manifest.largest_px())
    monkeypatch.setattr(storage, "scratch_room", lambda folder: 11 * len(members) * shard_bytes)
    assert affordable_threads(members, 8) == 8  # read in place
    remote = [replace(one, reader=replace(one.reader, uri=f"s3://b/{one.name}/manifest.json")) for one in members]
    assert affordable_threads(remote, 8) == 4
    monkeypatch.setattr(storage, "scratch_room", lambda folder: 1)
    assert affordable_threads(remote, 8) == 1


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
