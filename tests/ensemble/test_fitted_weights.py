"""Weights and temperatures fitted to half of val."""

import csv
import json
import re

import numpy as np
import pytest
from ensembles import export, made_up_probs, open_dataset, published_objects, stage
from PIL import Image

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.documents import Blob
from landseg.contracts.model import ModelManifest
from landseg.contracts.tile import SceneWindow
from landseg.ensemble import fitting_samples
from landseg.ensemble.averaging import Average
from landseg.ensemble.fitted_weights import Fit, _grid, _neighbours, fit_weights, halves, too_coarse
from landseg.ensemble.members import open_members, open_shards
from landseg.probabilities.codec import DTYPES, dequantize, quantize
from landseg.stages.shared.context import record_arguments
from landseg.storage.records import read_record

SKILL = {"good": 3.0, "poor": 0.3}


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("staged"), val=16, test=2)


def probs(dataset, split, tile, model):
    return made_up_probs(dataset, split, tile, model, skill=SKILL[model])


def too_sure(dataset, split, tile, model):
    raised = probs(dataset, split, tile, model) ** 4
    return (raised / raised.sum(axis=0)).astype(np.float32)


@pytest.fixture(scope="module")
def exported(staged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probs")
    dataset = open_dataset(staged, folder)
    return {model: export(folder / model, dataset, model, probs=probs) for model in SKILL}


def average(staged, refs, root, *flags):
    common = ["--storage-uri", str(root), "--run-id", "r", "--output-dir", str(root / "out")]
    return main(["average-probs", "--dataset", staged, "--probs", ",".join(refs), *common, *flags])


def test_the_better_model_gets_the_larger_weight(staged, exported, tmp_path):
    dataset = open_dataset(staged, tmp_path)
    members = open_members(list(exported.values()), None, dataset, tmp_path)
    found = fit_weights(members, dataset, tmp_path, temperature=False, num_threads=2)
    assert found.models == ("good", "poor")
    assert found.weights[0] > 0.6
    assert sum(found.weights) == pytest.approx(1)
    assert found.miou > found.miou_equal
    assert found.gain_interval[0] > 0
    assert len(found.fitted_on) == found.reported_on == 8
    assert fit_weights(members, dataset, tmp_path, temperature=False, num_threads=1) == found


def test_each_shard_is_read_once_as_far_as_there_is_room_for_samples(staged, exported, tmp_path, monkeypatch):
    dataset = open_dataset(staged, tmp_path)
    members = open_members(list(exported.values()), None, dataset, tmp_path)
    opened = []

    def counted(members, split, index):
        opened.append(index)
        return open_shards(members, split, index)

    monkeypatch.setattr(fitting_samples, "open_shards", counted)
    found = fit_weights(members, dataset, tmp_path, temperature=True, num_threads=2)
    assert sorted(opened) == list(range(len(members[0].reader.index("val"))))
    assert not list(tmp_path.glob("samples-*"))
    once = len(opened)
    monkeypatch.setenv("LANDSEG_SCRATCH_BYTES", str(once * 10_000))
    assert fit_weights(members, dataset, tmp_path, temperature=True, num_threads=2) == found
    assert len(opened) - once > 2 * once


def test_the_plan_fits_for_all_workers(staged, exported, tmp_path, monkeypatch):
    refs, fits = list(exported.values()), []

    def counted(*args, **options):
        fits.append(options["temperature"])
        return fit_weights(*args, **options)

    monkeypatch.setattr("landseg.stages.shared.settled_average.fit_weights", counted)
    asked = ["--weights", "auto", "--temperature", "auto", "--layers", "entropy"]
    common = ["--dataset", staged, "--probs", ",".join(refs), "--storage-uri", str(tmp_path / "planned")]
    plan = ["plan-average", *common, "--run-id", "r", *asked]
    assert main([*plan, "--workers", "1"]) == 0
    assert not fits
    for _ in range(2):
        assert main([*plan, "--workers", "2"]) == 0
        assert fits == [True]
    for share in ("1/2", "2/2"):
        assert average(staged, refs, tmp_path / "planned", "--worker", share, *asked) == 0
    assert fits == [True]
    assert average(staged, refs, tmp_path / "alone", *asked) == 0
    planned, alone = (published_objects(tmp_path / name / "runs") for name in ("planned", "alone"))
    assert {name for name in planned.keys() | alone.keys() if planned.get(name) != alone.get(name)} <= {
        name for name in planned if name.endswith("/parts/costs.json")
    }
    assert main([*plan, "--workers", "2", "--weights", "1,2,3", "--temperature", "none"]) == 2


def test_temperature_undoes_overconfidence(staged, tmp_path):
    dataset = open_dataset(staged, tmp_path)
    refs = [export(tmp_path / "sure", dataset, "good", splits=("val",), probs=too_sure, dtype="float32")]
    members = open_members(refs, None, dataset, tmp_path)
    assert too_coarse(members) == []
    found = fit_weights(members, dataset, tmp_path, temperature=True, num_threads=2)
    # These probabilities were raised to the power 4; before, they were less sure than they might have been.
    assert 2 <= found.temperatures[0] <= 4
    assert found.weights == (1.0,)


def test_scores_leave_out_the_tiles_that_decided(staged, exported, tmp_path, capsys):
    assert average(staged, exported.values(), tmp_path, "--weights", "auto", "--temperature", "auto") == 0
    # `companded` keeps nothing below 0.004, and a temperature is fitted to how small such probabilities are
    assert "--temperature auto: good, poor keep no small probabilities" in capsys.readouterr().err
    folder = next((tmp_path / "runs").rglob("weights.json")).parent
    fitted = read_record(Fit, str(folder / "weights.json"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["weights"] == dict(zip(fitted.models, fitted.weights, strict=True))
    assert summary["temperatures"] == dict(zip(fitted.models, fitted.temperatures, strict=True))
    assert summary["fit"]["reported_on"] == 8
    rows = list(csv.DictReader((folder / "ranking.csv").open()))
    unscored = {row["tile"] for row in rows if row["split"] == "val" and row["mIoU.ensemble"] == ""}
    assert unscored == set(fitted.fitted_on)
    assert np.sum(summary["confusion"]) == 8 * 48 * 48
    page = (tmp_path / "out" / "report.html").read_text()
    assert "were fitted to 8 val tiles" in page
    assert ("Temperatures are rough" in page) == any(t != 1 for t in fitted.temperatures)
    # a rerun fits nothing again, and other shares find the same weights
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert average(staged, exported.values(), tmp_path, "--weights", "auto", "--temperature", "auto") == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before


def test_scenes_are_not_cut_in_half(staged, tmp_path):
    dataset = open_dataset(staged, tmp_path)
    tiles = dataset.tiles("val")
    windows = [SceneWindow(id=f"scene{i // 5}", y=0, x=i % 5, height=9, width=99) for i in range(len(tiles) - 2)]
    cut = [tile.model_copy(update={"scene": window}) for tile, window in zip(tiles, windows, strict=False)]
    decide, report = halves([*cut, *tiles[-2:]], dataset.schema)
    assert decide | report == {tile.id for tile in tiles}
    assert not decide & report
    for scene in {window.id for window in windows}:
        members = {tile.id for tile in cut if tile.scene.id == scene}
        assert members <= decide or members <= report


def stage_with_ignored_labels(root, is_ignored, num_val=8):
    """A dataset of which some val tiles have no labelled pixel; returns the reference and two models' probabilities."""
    assert main(["make-sample-data", str(root / "raw"), *f"--train 0 --val {num_val} --test 0 --size 48".split()]) == 0
    for number, path in enumerate(sorted((root / "raw" / "val" / "labels").iterdir())):
        if is_ignored(number):
            Image.fromarray(np.full((48, 48), 255, np.uint8)).save(path)
    ref = str(root / "dataset.json")
    common = ["--storage-uri", str(root), "--output-dir", str(root)]
    assert main(["stage-data", "--source", str(root / "raw"), *common]) == 0
    dataset = open_dataset(ref, root)
    return ref, [export(root / model, dataset, model, splits=("val",), probs=made_up_probs) for model in ("a", "b")]


@pytest.mark.parametrize("half", [0, 1])
def test_tiles_without_a_labelled_pixel_neither_decide_nor_report(tmp_path, half):
    ref, refs = stage_with_ignored_labels(tmp_path, lambda number: number % 2 == half)
    assert average(ref, refs, tmp_path, "--weights", "auto", "--temperature", "auto") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["fit"]["reported_on"] == summary["splits"]["val"]["num_scored_tiles"] == 2
    assert min(summary["weights"].values()) > 0
    assert "on 2 val tiles" in re.sub("<[^>]*>", "", (tmp_path / "out" / "report.html").read_text())


@pytest.mark.parametrize("num_labelled", [0, 1])
def test_nothing_is_fitted_to_fewer_than_two_labelled_tiles(tmp_path, capsys, num_labelled):
    ref, refs = stage_with_ignored_labels(tmp_path, lambda number: number != 3 or not num_labelled)
    assert average(ref, refs, tmp_path, "--weights", "auto") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "at least two val tiles (or scenes) with labelled pixels" in error
    assert f"found {'one' if num_labelled else 'none'}" in error and "--weights equal" in error
    assert average(ref, refs, tmp_path, "--weights", "equal") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    page = (tmp_path / "out" / "report.html").read_text()
    if num_labelled:
        assert summary["splits"]["val"]["num_scored_tiles"] == 1
        assert all(not one["intervals"] for one in summary["splits"]["val"]["ensembles"])
        assert summary["splits"]["val"]["gain"]["interval"] is None
    else:
        assert (summary["ensemble"], summary["scored_split"]) == ({}, None)
        assert "No pixel of this run is labelled" in page


def test_labels_that_the_sample_misses_are_not_fitted_to(staged, tmp_path, capsys, monkeypatch):
    """Every other pixel is looked at; here only those between are labelled."""
    dataset = open_dataset(staged, tmp_path)
    refs = [export(tmp_path / model, dataset, model, splits=("val",), probs=probs) for model in SKILL]
    monkeypatch.setattr("landseg.ensemble.fitting_samples._SAMPLES", 24)
    read = type(dataset).read_label

    def thinned(self, split, tile):
        truth = read(self, split, tile).copy()
        truth[::2] = self.schema.ignore_index
        return truth

    monkeypatch.setattr(type(dataset), "read_label", thinned)
    for flags in ((), ("--temperature", "auto")):
        assert average(staged, refs, tmp_path, "--weights", "auto", *flags) == 2
        assert "labelled pixels in the half of val that decides" in capsys.readouterr().err


def test_models_that_are_sure_and_right_keep_their_temperature(staged, tmp_path):
    dataset = open_dataset(staged, tmp_path)

    def right(dataset, split, tile, model):
        return np.eye(dataset.schema.num_classes, dtype=np.float32)[dataset.read_label(split, tile)].transpose(2, 0, 1)

    ref = export(tmp_path / "right", dataset, "right", splits=("val",), probs=right)
    members = open_members([ref], None, dataset, tmp_path)
    assert fit_weights(members, dataset, tmp_path, temperature=True, num_threads=1).temperatures == (1.0,)


def model_trained_on(folder, dataset, name, splits, parameters=None):
    """The manifest of a model that was trained on some splits, and what an export of it records."""
    schema = dataset.schema
    manifest = ModelManifest(
        name=name,
        checkpoint=Blob(path="model.pth", size_bytes=1, sha256="0" * 64),
        config="",
        class_schema=schema,
        mean=(0.0,) * len(schema.bands),
        std=(1.0,) * len(schema.bands),
        metrics={},
        parameters=parameters or {"train_splits": list(splits)},
        versions={},
        dataset_id=dataset.manifest.dataset_id,
        dataset_sha256=dataset.sha256,
        seconds=1.0,
    )
    loaded = storage.write_document(str(folder / "model" / "manifest.json"), manifest)
    record_arguments(str(folder), {"model_uri": loaded.uri})
    return loaded.sha256


def test_models_that_have_seen_val_are_named_and_not_compared(staged, tmp_path, capsys):
    dataset = open_dataset(staged, tmp_path)
    refs = []
    for model, splits in (("good", ("train", "val")), ("poor", ("train",))):
        sha256 = model_trained_on(tmp_path / model, dataset, model, splits)
        refs.append(export(tmp_path / model, dataset, model, splits=("val",), probs=probs, model_sha256=sha256))
    assert average(staged, refs, tmp_path, "--weights", "auto", "--temperature", "auto") == 0
    log = capsys.readouterr().err
    assert "good was trained on val" in log and "--seen-val fit" in log
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["fit"] is None and set(summary["weights"].values()) == {1.0}
    val = summary["splits"]["val"]
    assert val["trained_on_it"] == ["good"]
    assert "gain" not in val and "gain_of" not in val
    page = (tmp_path / "out" / "report.html").read_text()
    assert "single model" not in page and "Gain" not in page
    assert 'good <span class="note">(trained on val)</span>' in page
    assert 'ensemble <span class="note">(trained on val)</span>' in page
    assert 'poor <span class="note">(' not in page
    assert "mIoU of the ensemble (trained on val)" in page
    assert "but good was trained on val" in page
    assert main(["status", "--storage-uri", str(tmp_path), "--run-id", "r"]) == 0
    scored = [line for line in capsys.readouterr().out.splitlines() if line.endswith("trained on val")]
    assert [line.split()[0] for line in scored] == ["good", "ensemble"]
    assert average(staged, refs, tmp_path, "--weights", "auto", "--seen-val", "fit") == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["weights"]["good"] > 0.6


@pytest.mark.parametrize(("num_models", "step"), [(2, 1 / 20), (3, 1 / 10), (4, 1 / 5), (5, 1 / 4)])
def test_grid_of_weights(num_models, step):
    found, grid = _grid(num_models)
    assert found == step
    assert len(grid) <= 71
    assert len(set(grid)) == len(grid)
    assert all(sum(weights) == pytest.approx(1) and min(weights) >= 0 for weights in grid)
    assert (1 / num_models,) * num_models in grid
    assert set(_neighbours((1.0, 0.0), 0.1)) == {(0.9, 0.1), (1.0, 0.0)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_temperature_is_that_of_the_logits(dtype):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 8, 8))

    def softmax(values):
        raised = np.exp(values)
        return (raised / raised.sum(axis=0)).astype(np.float32)

    stored = quantize(softmax(logits), DTYPES[dtype])
    average = Average((DTYPES[dtype],) * 2, (1.0, 1.0), (2.0, 1.0))
    tempered, plain = average.prepare([stored, stored])
    np.testing.assert_allclose(tempered, softmax(logits / 2), atol=0.02)
    assert plain is stored
    expected = (tempered.astype(np.float64) + dequantize(stored, DTYPES[dtype])).argmax(axis=0)
    assert (average.labels([tempered, plain], [(0, 1)])[0] == expected).mean() > 0.98


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--weights", "1,1", "--temperature", "auto"), "--weights auto"),
        (("--weights", "best"), "expected equal, auto, or numbers of at least 0"),
    ],
)
def test_wrong_flags_are_refused(staged, exported, tmp_path, capsys, flags, expected):
    assert average(staged, exported.values(), tmp_path, *flags) == 2
    assert expected in capsys.readouterr().err


def test_there_must_be_labels_to_fit_to(staged, tmp_path, capsys):
    dataset = open_dataset(staged, tmp_path)
    ref = export(tmp_path / "p", dataset, "good", splits=("test",), probs=probs)
    assert average(staged, [ref], tmp_path, "--weights", "auto") == 2
    assert "--weights auto: expected probabilities of val, found none (export val too)" in capsys.readouterr().err
    other = stage(tmp_path / "other", train=1, val=0, test=2)
    ref = export(tmp_path / "q", open_dataset(other, tmp_path), "good", splits=("test",), probs=probs)
    assert average(other, [ref], tmp_path, "--weights", "auto") == 2
    said = capsys.readouterr().err
    assert (
        "expected a labelled val split in the dataset, found none (label more of val, or give --weights equal)" in said
    )


def test_manifests_of_models_say_anything_in_their_parameters(staged, tmp_path):
    dataset = open_dataset(staged, tmp_path)
    odd = {"train_splits": 5, "device": "gpu", "processes": "two", "precision": ["fp16"]}
    sha256 = model_trained_on(tmp_path / "odd", dataset, "good", (), odd)
    ref = export(tmp_path / "odd", dataset, "good", splits=("val",), probs=probs, model_sha256=sha256)
    assert average(staged, [ref], tmp_path) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["splits"]["val"]["trained_on_it"] == []
