"""status: what a storage holds, as text and JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from manifest_examples import BYTES, blob, labels

from landseg.cli.main import main
from landseg.contracts.documents import blobs
from landseg.contracts.errors import ObjectNotFoundError
from landseg.contracts.references import Arguments
from landseg.stages.shared.siblings import report_others
from landseg.stages.status import run_states


def write(path: Path, content: str, modified_s: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (modified_s, modified_s))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "r"
    write(run / "train" / "swin" / "aaa" / "checkpoints" / "iter_1.pth", "", 100)
    write(run / "train" / "swin" / "aaa" / "checkpoints" / "iter_2.pth", "", 200)
    write(run / "train" / "resnest" / "bbb" / "manifest.json", '{"kind": "landseg.model", "version": 99}', 50)
    write(run / "export-probs" / "swin" / "ccc" / "val.zarr" / "0", "", 300)
    write(run / "average-probs" / "ddd" / "parts" / "0", "", 400)
    write(run / "notes.txt", "somebody's own file", 500)
    return tmp_path


def test_what_is_under_way_and_what_is_damaged(storage: Path) -> None:
    states = run_states(str(storage), "r")
    assert [(state.stage, state.name, state.state, state.modified_s) for state in states] == [
        ("train", "resnest", "damaged", 50),
        ("train", "swin", "unfinished", 200),
        ("export-probs", "swin", "unfinished", 300),
        ("average-probs", "", "unfinished", 400),
    ]
    assert "version 99" in states[0].facts["problem"]


def test_it_is_printed_for_people_and_for_programs(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["status", "--storage-uri", f"{storage}/", "--run-id", "r"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == f"run r in {storage}"
    assert "export-probs swin       unfinished" in text
    assert main([*arguments, "--json"]) == 0
    assert [state["stage"] for state in json.loads(capsys.readouterr().out)][-1] == "average-probs"


def test_what_is_still_to_come_and_what_an_unfinished_stage_was_asked_for(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(storage / "runs" / "r" / "average-probs")
    dataset = str(storage / "datasets" / "d" / "manifest.json")
    asked = Arguments(values={"dataset_uri": dataset, "epochs": 3})
    write(storage / "runs" / "r" / "train" / "swin" / "aaa" / "arguments.json", asked.to_bytes().decode(), 90)
    write(storage / "runs" / "r" / "train" / "resnest" / "bbb" / "arguments.json", "{}", 40)
    states = {(state.stage, state.name): state for state in run_states(str(storage), "r")}
    assert states["train", "swin"].arguments == {"dataset_uri": dataset, "epochs": 3}
    assert states["train", "resnest"].arguments == {}
    assert states["stage-data", ""].state == "removed"  # the dataset that swin's training reads is not there
    assert main(["status", "--storage-uri", str(storage), "--run-id", "r"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "export-probs resnest    not begun",
        "average-probs           not begun",
    ]


def test_an_unknown_run_is_a_user_error(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ObjectNotFoundError):
        run_states(str(storage), "other")
    assert main(["status", "--storage-uri", str(storage), "--run-id", "other"]) == 2
    assert "check --run-id" in capsys.readouterr().err


def test_documents_are_no_permission_to_read_other_places(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = storage / "runs" / "r" / "train" / "swin" / "aaa"
    arguments = ["status", "--storage-uri", str(storage), "--run-id", "r"]
    climbing = f"{storage}/datasets/../../elsewhere/manifest.json"
    for uri in ("/etc/passwd", "s3://other/datasets/0123456789abcdef/manifest.json", climbing, "/proc/self/mem"):
        write(folder / "arguments.json", Arguments(values={"dataset_uri": uri}).to_bytes().decode(), 90)
        assert main(arguments) == 0
        shown, error = capsys.readouterr()
        assert "stage-data              elsewhere" in shown and not error


def test_a_damaged_dataset_is_a_line_and_not_the_end(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = storage / "datasets" / "0123456789abcdef" / "manifest.json"
    write(dataset, "{", 80)
    asked = Arguments(values={"dataset_uri": str(dataset)})
    write(storage / "runs" / "r" / "train" / "swin" / "aaa" / "arguments.json", asked.to_bytes().decode(), 90)
    assert main(["status", "--storage-uri", str(storage), "--run-id", "r"]) == 0
    shown = capsys.readouterr().out
    assert "stage-data              damaged" in shown and "train swin              unfinished" in shown


def test_what_results_of_one_name_differ_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "r" / "train" / "swin"
    asked = Arguments(values={"epochs": 3}).to_bytes().decode()
    identity = {"code": "a", "stage": "train", "seed": 0, "config": "lr = 0.01\nruns = 3\n", "train_splits": ["train"]}
    for number, change in enumerate([{}, {"config": "lr = 0.02\nruns = 3\n"}]):
        write(folder / f"k{number}" / "identity.json", json.dumps({**identity, **change}), 100 + number)
        write(folder / f"k{number}" / "arguments.json", asked, 100 + number)
    assert main(["status", "--storage-uri", str(tmp_path), "--run-id", "r"]) == 0
    text = capsys.readouterr().out
    assert "differs from k1 (there) in config -lr = 0.02; config +lr = 0.01\n" in text
    own = {key: value for key, value in identity.items() if key not in {"code", "stage"}}
    new = {**own, "seed": 7, "train_splits": ("train", "val")}
    report_others("a training of swin", f"{folder}/k9", new, "Do this")
    said = capsys.readouterr().err
    assert (
        f"the run has a training of swin already ({folder}/k1, unfinished), which is not resumed: seed 0 there" in said
    )
    assert "7 here; config -lr = 0.02; config +lr = 0.01; train_splits train there, train, val here. Do this" in said
    report_others("a training of swin", f"{folder}/k1", {**own, "config": "lr = 0.01\nruns = 3\n"}, "Do this")
    assert "k0, unfinished), which is not resumed: another version of landseg's code" in capsys.readouterr().err
    write(folder / "k0" / "checkpoints" / "iter_00000100.pth", "weights", 50)
    report_others("a training of swin", f"{folder}/k9", new, "Do this")  # k1 was refused when it began
    assert f"({folder}/k0, unfinished), which is not resumed" in capsys.readouterr().err
    report_others("a training of swin", f"{folder}/k9", new, "Do this", lambda other: "0.02" in other["config"])
    assert f"({folder}/k1, unfinished), which is not resumed" in capsys.readouterr().err
    (folder / "k0" / "identity.json").write_text("[")
    report_others("a training of swin", f"{folder}/k1", own, "Do this")  # nothing to compare with
    report_others("a training of new", f"{tmp_path}/runs/r/train/new/k", own, "Do this")
    assert capsys.readouterr().err == ""


def test_no_text_of_a_document_reaches_the_terminal_as_it_is(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(("\x1b]0;title\x07", "a\nlandseg status: error: forged")):
        folder = storage / "runs" / "r" / "export-probs" / "swin" / f"k{number}"
        values = {"tta": text, "dataset_uri": f"/elsewhere/0123456789abcdef/{text}/manifest.json"}
        write(folder / "arguments.json", Arguments(values=values).to_bytes().decode(), 90 + number)
    assert main(["status", "--storage-uri", str(storage), "--run-id", "r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("landseg") for line in lines)


def test_a_summary_of_another_shape_is_damage(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = storage / "runs" / "r" / "average-probs" / "ddd"
    manifest = labels()
    for path in ("summary.json", "ranking.csv", "report.html"):
        write(folder / path, '{"models": 5}', 400)
    own = blob("x", b'{"models": 5}')
    listed = {name: own.model_copy(update={"path": getattr(manifest, name).path}) for name in ("summary", "ranking")}
    report = own.model_copy(update={"path": manifest.report.path})
    written = manifest.model_copy(update={**listed, "report": report})
    for listed_blob in blobs(written):
        if not (folder / listed_blob.path).exists():
            write(folder / listed_blob.path, BYTES.decode("latin1"), 400)
            (folder / listed_blob.path).write_bytes(BYTES)
    write(folder / "manifest.json", written.to_bytes().decode(), 400)
    assert main(["status", "--storage-uri", str(storage), "--run-id", "r"]) == 0
    assert "field models: input should be an object" in capsys.readouterr().out
