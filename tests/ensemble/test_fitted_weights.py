import csv
import json

import numpy as np
import pytest
from ensembles import export, made_up_probs, open_dataset, stage

from landseg.cli.main import main
from landseg.contracts.dataset import SceneWindow
from landseg.ensemble.averaging import Average
from landseg.ensemble.fitted_weights import Fit, _grid, _neighbours, fit_weights, halves
from landseg.ensemble.members import open_members
from landseg.probabilities.codec import DTYPES, dequantize, quantize
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
    members = open_members(list(exported.values()), None, dataset)
    found = fit_weights(members, dataset, tmp_path, temperature=False, num_threads=2)
    assert found.models == ("good", "poor")
    assert found.weights[0] > 0.6
    assert sum(found.weights) == pytest.approx(1)
    assert found.miou > found.miou_equal
    assert found.gain_interval[0] > 0
    assert len(found.fitted_on) == found.reported_on == 8
    assert fit_weights(members, dataset, tmp_path, temperature=False, num_threads=1) == found


def test_temperature_undoes_overconfidence(staged, tmp_path):
    dataset = open_dataset(staged, tmp_path)
    refs = [export(tmp_path / "sure", dataset, "good", splits=("val",), probs=too_sure, dtype="float32")]
    found = fit_weights(open_members(refs, None, dataset), dataset, tmp_path, temperature=True, num_threads=2)
    # These probabilities were raised to the power 4; before, they were less sure than they might have been.
    assert 2 <= found.temperatures[0] <= 4
    assert found.weights == (1.0,)


def test_scores_leave_out_the_tiles_that_decided(staged, exported, tmp_path):
    assert average(staged, exported.values(), tmp_path, "--weights", "auto", "--temperature", "auto") == 0
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
    assert "were fitted to 8 val tiles" in (tmp_path / "out" / "report.html").read_text()
    # a rerun fits nothing again, and other shares find the same weights
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert average(staged, exported.values(), tmp_path, "--weights", "auto", "--temperature", "auto") == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before


def test_scenes_are_not_cut_in_half(staged, tmp_path):
    tiles = open_dataset(staged, tmp_path).tiles("val")
    windows = [SceneWindow(id=f"scene{i // 5}", y=0, x=i % 5, height=9, width=99) for i in range(len(tiles) - 2)]
    cut = [tile.model_copy(update={"scene": window}) for tile, window in zip(tiles, windows, strict=False)]
    decide, report = halves([*cut, *tiles[-2:]])
    assert decide | report == {tile.id for tile in tiles}
    assert not decide & report
    for scene in {window.id for window in windows}:
        members = {tile.id for tile in cut if tile.scene.id == scene}
        assert members <= decide or members <= report


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
        (("--weights", "best"), "'equal', 'auto' or numbers"),
    ],
)
def test_wrong_flags_are_refused(staged, exported, tmp_path, capsys, flags, expected):
    assert average(staged, exported.values(), tmp_path, *flags) == 2
    assert expected in capsys.readouterr().err


def test_there_must_be_labels_to_fit_to(staged, tmp_path, capsys):
    dataset = open_dataset(staged, tmp_path)
    ref = export(tmp_path / "p", dataset, "good", splits=("test",), probs=probs)
    assert average(staged, [ref], tmp_path, "--weights", "auto") == 2
    assert "labelled val split" in capsys.readouterr().err
