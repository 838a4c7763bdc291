"""The shares of an export: what plan-export hands out is what export-probs takes."""

import json

import pytest
from ensembles import open_dataset, stage

from landseg.cli.main import main
from landseg.contracts.executor import ExecutorInput
from landseg.probabilities.layout import plan_splits
from landseg.stages.shared.options import parse_share


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("staged"), val=3, test=2)


def shares(staged, tmp_path, capsys, *flags):
    capsys.readouterr()
    assert main(["plan-export", "--dataset", staged, "--storage-uri", str(tmp_path), *flags]) == 0
    return capsys.readouterr().out.split()


def test_every_shard_is_in_one_share(staged, tmp_path, capsys):
    dataset = open_dataset(staged, tmp_path)
    plan = plan_splits({split: dataset.tiles(split) for split in ("test", "val")}, dataset.schema.num_classes)
    given = [parse_share(share) for share in shares(staged, tmp_path, capsys, "--workers=3")]
    taken = [plan[worker - 1 :: num_workers] for worker, num_workers in given]
    assert len(given) == 3
    assert sorted(shard.record for share in taken for shard in share) == sorted(shard.record for shard in plan)


def test_no_worker_is_started_for_nothing(staged, tmp_path, capsys):
    assert shares(staged, tmp_path, capsys) == ["1/1"]
    assert len(shares(staged, tmp_path, capsys, "--workers=50")) == 5
    assert shares(staged, tmp_path, capsys, "--workers=50", "--splits=test") == ["1/2", "2/2"]


def test_kfp_gets_a_list(staged, tmp_path):
    parameter = tmp_path / "outputs" / "shares"
    outputs = {"parameters": {"shares": {"outputFile": str(parameter)}}, "outputFile": str(tmp_path / "output.json")}
    text = json.dumps({"outputs": outputs})
    assert ExecutorInput.parse(text).outputs.parameter_files == {"shares": parameter}
    flags = ["--dataset", staged, "--storage-uri", str(tmp_path), "--workers=2", "--executor-input", text]
    assert main(["plan-export", *flags]) == 0
    assert json.loads(parameter.read_text()) == ["1/2", "2/2"]
    values = {"shares": ["1/2", "2/2"], "exports": []}
    assert json.loads((tmp_path / "output.json").read_text()) == {"parameterValues": values}


def test_every_worker_of_every_model(staged, tmp_path, capsys):
    exports = tmp_path / "exports"
    outputs = {"parameters": {"exports": {"outputFile": str(exports)}}}
    flags = ["--workers=2", "--models=s3://b/a.json, m.pth", "--executor-input", json.dumps({"outputs": outputs})]
    told = shares(staged, tmp_path, capsys, *flags)
    expected = [(model, worker) for model in ("s3://b/a.json", "m.pth") for worker in ("1/2", "2/2")]
    assert list(zip(told[::2], told[1::2], strict=True)) == expected
    found = json.loads(exports.read_text())
    assert [(one["model_uri"], one["worker"]) for one in found] == expected
    assert main(["plan-export", "--dataset", staged, "--storage-uri", str(tmp_path), "--models=a,b,a"]) == 2
    assert "--models: expected each model once, found a twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers=0"], "--workers: expected at least 1, found 0"),
        (["--splits=val,val"], "expected different ones of train, val, test"),
        (["--splits=tset"], "found 'tset'"),
    ],
)
def test_wrong_flags_are_one_line(staged, tmp_path, capsys, flags, said):
    assert main(["plan-export", "--dataset", staged, "--storage-uri", str(tmp_path), *flags]) == 2
    assert said in capsys.readouterr().err
