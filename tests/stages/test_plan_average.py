"""The shares of an average: what plan-average hands out is what average-probs takes."""

import json

import pytest
from ensembles import export, open_dataset, stage

from landseg.cli.main import main


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    root = tmp_path_factory.mktemp("staged")
    staged = stage(root, val=3, test=2)
    dataset = open_dataset(staged, root)
    return staged, [export(root / name, dataset, name) for name in ("swin", "resnest")]


def plan(given, tmp_path, *flags):
    staged, uris = given
    probs = [f"--probs={uri}" for uri in uris]
    return main(["plan-average", "--dataset", staged, *probs, "--storage-uri", str(tmp_path), "--run-id", "r", *flags])


def test_no_worker_is_started_for_nothing(given, tmp_path, capsys):
    for flags, expected in (([], ["1/1"]), (["--workers=2"], ["1/2", "2/2"])):
        assert plan(given, tmp_path, *flags) == 0
        assert capsys.readouterr().out.split() == expected
    assert plan(given, tmp_path, "--workers=50") == 0
    assert len(capsys.readouterr().out.split()) == 5


def test_kfp_gets_shares_and_the_manifests_in_the_order_given(given, tmp_path):
    path = tmp_path / "averages"
    outputs = {"parameters": {"averages": {"outputFile": str(path)}}}
    assert plan(given, tmp_path, "--workers=2", "--executor-input", json.dumps({"outputs": outputs})) == 0
    averages = json.loads(path.read_text())
    assert [one["worker"] for one in averages] == ["1/2", "2/2"]
    # Weights follow this order, not that of the names.
    assert {one["probs_uris"] for one in averages} == {",".join(given[1])}


def test_models_that_do_not_fit_are_refused_before_a_worker_starts(given, tmp_path, capsys):
    staged, uris = given
    assert plan((staged, [uris[0], uris[0]]), tmp_path) == 2
    assert "holds the same model" in capsys.readouterr().err


def test_more_workers_than_fit_into_an_argument_are_refused_with_the_number_that_fits(
    given, tmp_path, capsys, monkeypatch
):
    size = len(json.dumps([{"probs_uris": ",".join(given[1]), "worker": "1/4"}]))
    monkeypatch.setattr("landseg.stages.shared.options.MAX_ARGUMENT_BYTES", 3 * size)
    assert plan(given, tmp_path, "--workers=4") == 2
    assert "--workers: expected at most 3, found 4" in capsys.readouterr().err
    assert plan(given, tmp_path, "--workers=3") == 0
    monkeypatch.setattr("landseg.stages.shared.options.MAX_ARGUMENT_BYTES", size // 2)
    assert plan(given, tmp_path, "--workers=1") == 2
    assert "shorten --storage-uri: a worker's URIs take" in capsys.readouterr().err
