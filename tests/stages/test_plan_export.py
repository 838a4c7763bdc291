"""The shares of an export: what plan-export hands out is what export-probs takes."""

import json
import shutil
import subprocess
import sys

import manifest_examples
import pytest
from ensembles import open_dataset, stage

from landseg import storage
from landseg.cli.main import main
from landseg.contracts.executor import ExecutorInput
from landseg.probabilities.layout import plan_splits
from landseg.stages.shared.options import parse_share
from landseg.stages.shared.step_limits import VARIABLE


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


def test_every_worker_of_every_model(staged, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("b/a.pth", "m.pth"):
        storage.put_bytes(path, b"of a kind that export-probs looks at")
    exports = tmp_path / "exports"
    outputs = {"parameters": {"exports": {"outputFile": str(exports)}}}
    flags = ["--workers=2", "--models=b/a.pth, m.pth", "--executor-input", json.dumps({"outputs": outputs})]
    told = shares(staged, tmp_path, capsys, *flags)
    expected = [(model, worker) for model in ("b/a.pth", "m.pth") for worker in ("1/2", "2/2")]
    assert list(zip(told[::2], told[1::2], strict=True)) == expected
    found = json.loads(exports.read_text())
    assert [(one["model_uri"], one["worker"]) for one in found] == expected
    assert main(["plan-export", "--dataset", staged, "--storage-uri", str(tmp_path), "--models=a,b,a"]) == 2
    assert "--models: expected each model once, found a twice" in capsys.readouterr().err


def test_models_of_one_name_are_refused_before_they_are_exported(staged, tmp_path, capsys):
    names = ("swin", "resnest", "swin")
    uris = [
        storage.write_document(
            f"{tmp_path}/{number}.json", manifest_examples.model().model_copy(update={"name": name})
        ).uri
        for number, name in enumerate(names)
    ]
    assert len(shares(staged, tmp_path, capsys, f"--models={','.join(uris[:2])}")) == 4
    assert main(["plan-export", "--dataset", staged, "--storage-uri", str(tmp_path), "--models", ",".join(uris)]) == 2
    assert f"found {uris[0]} and {uris[2]}, both named swin" in capsys.readouterr().err


def test_more_workers_than_fit_into_an_argument_are_refused(staged, tmp_path, capsys):
    models = ",".join(f"m{number}.pth" for number in range(40))
    flags = ["--dataset", staged, "--storage-uri", str(tmp_path), "--workers=4", f"--models={models}"]
    assert main(["plan-export", *flags]) == 2
    assert "--workers: expected at most 3 for 40 models, found 4" in capsys.readouterr().err
    flags[-1] = f"--models={','.join(f'm{number}.pth' for number in range(200))}"
    assert main(["plan-export", *flags]) == 2
    assert "--models: expected at most 150, found 200" in capsys.readouterr().err


def test_a_long_root_leaves_room_for_fewer_workers(staged, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        storage.put_bytes(f"m{number}.pth", b"of a kind that export-probs looks at")
    root = tmp_path / "r" / ("x" * 200) / ("x" * 200) / ("x" * 200) / ("x" * 200) / ("x" * 200) / ("x" * 200)
    models = ",".join(f"m{number}.pth" for number in range(20))
    flags = ["--dataset", staged, "--storage-uri", str(root), f"--models={models}"]
    assert main(["plan-export", *flags, "--workers=5"]) == 2
    assert "--workers: expected at most 3 for 20 models, found 5" in capsys.readouterr().err
    assert main(["plan-export", *flags, "--workers=3"]) == 0


def test_a_share_of_more_hours_than_a_step_has_is_warned_of(monkeypatch, staged, tmp_path, capsys):
    monkeypatch.setattr("landseg.stages.plan_export._PIXELS_PER_S", 0.1)
    flags = ["plan-export", "--dataset", staged, "--storage-uri", str(tmp_path), "--workers=2"]
    monkeypatch.setenv(VARIABLE, f"export-probs.scratch_bytes=1000 export-probs.timeout_s={12 * 3600}")
    assert main(flags) == 0
    said = capsys.readouterr().err
    assert "32 GPU hours (three views, at an H100's speed), 16 for each of 2 workers" in said
    assert "ends the step after 12 h; expected at least 3 workers" in said
    monkeypatch.setenv(VARIABLE, f"export-probs.scratch_bytes=1000 export-probs.timeout_s={17 * 3600}")
    assert main(flags) == 0
    assert "GPU hours" not in capsys.readouterr().err
    for wrong in ("12h", "0"):
        monkeypatch.setenv(VARIABLE, f"export-probs.timeout_s={wrong}")
        assert main(flags) == 2
        assert f"{VARIABLE}: expected STEP.scratch_bytes=N" in capsys.readouterr().err


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


CHECKPOINT = """
import sys, torch
config = "model = dict(type='EncoderDecoder', backbone=dict(type='SwinTransformer', depths=(2, 2)))\\n"
torch.save({"meta": {"config": config, "CLASSES": ("a", "b")}, "state_dict": {"a": torch.zeros(3)}}, sys.argv[1])
torch.save({"meta": {"config": config.replace("Swin", "Mix"), "CLASSES": ()}, "state_dict": {}}, sys.argv[2])
"""
WITHOUT_TORCH = """
import sys
sys.modules.update(torch=None, mmcv=None)
from landseg.cli.main import main
sys.exit(main())
"""


def test_checkpoints_of_one_name_are_refused_before_they_are_exported(staged, s3, tmp_path):
    """In an image that has neither torch nor mmcv."""
    paths = [tmp_path / name for name in ("one.pth", "other.pth", "third.PTH")]
    subprocess.run([sys.executable, "-c", CHECKPOINT, paths[0], paths[1]], check=True)
    shutil.copy(paths[0], paths[2])
    for path in paths:
        storage.put_file(f"{s3.uri}/{path.name}", path)

    def plan(*models):
        flags = [f"--dataset={staged}", f"--storage-uri={s3.uri}", f"--models={','.join(map(str, models))}"]
        command = [sys.executable, "-c", WITHOUT_TORCH, "plan-export", *flags]
        return subprocess.run(command, capture_output=True, text=True)

    for root in (tmp_path, s3.uri):
        first, other, twin = (f"{root}/{path.name}" for path in paths)
        refused = plan(first, other, twin)
        assert refused.returncode == 2
        assert f"found {first} and {twin}, both named swin" in refused.stderr
    assert plan(first, other).returncode == 0
    absent = plan(f"{s3.uri}/absent.pth")
    assert (absent.returncode, "absent.pth: no such checkpoint" in absent.stderr) == (2, True)
