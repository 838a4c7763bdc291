"""The patterns of names, and paths that cannot climb."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from landseg.cli.main import main
from landseg.contracts.errors import ConfigError
from landseg.contracts.names import MAX_TILE_ID_BYTES, DatasetId, ModelName, TileId, check_model_name, check_run_id

NO_NAMES = ("", " ", ".", "..", "../x", "a/b", "a\\b", "-a", "a\n", "a b", "é", "a" * 64)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_names_neither_a_run_nor_a_model(name: str) -> None:
    for check in (check_run_id, check_model_name):
        with pytest.raises(ConfigError, match="--flag: expected"):
            check("--flag", name)
    with pytest.raises(ValidationError):
        TypeAdapter(ModelName).validate_python(name)


def test_names_that_are_taken_and_names_that_are_not() -> None:
    check_run_id("--run-id", "2024-05_first.run")
    check_run_id("--run-id", "ensemble")
    check_model_name("--name", "swin_tiny-2")
    with pytest.raises(ConfigError, match="the average of the models"):
        check_model_name("--name", "ensemble")


@pytest.mark.parametrize("identity", ["", "0" * 15, "0" * 17, "0" * 15 + "g", "../../0123456789", "0" * 16 + "\n"])
def test_what_is_no_id_of_a_dataset(identity: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(DatasetId).validate_python(identity)


def test_tile_ids_are_measured_in_bytes() -> None:
    adapter = TypeAdapter(TileId)
    assert adapter.validate_python("é" * (MAX_TILE_ID_BYTES // 2))
    with pytest.raises(ValidationError, match="bytes long"):
        adapter.validate_python("é" * (MAX_TILE_ID_BYTES // 2) + "x")


@pytest.mark.parametrize("run_id", ["", "../../x", "a b"])
@pytest.mark.parametrize("verb", ["status", "prune", "train", "export-probs", "average-probs"])
def test_verbs_refuse_what_names_no_run(
    verb: str, run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {"train": ["--name=swin", "--config=swin_tiny", "--dataset=d"]}.get(verb, [])
    assert main([verb, f"--storage-uri={tmp_path}/store", f"--run-id={run_id}", *needed]) == 2
    assert "--run-id: expected letters" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["../../x", "A/B", "a b", "ensemble"])
@pytest.mark.parametrize("verb", ["train", "export-probs"])
def test_verbs_refuse_what_names_no_model(
    verb: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["--config=swin_tiny"] if verb == "train" else ["--model=m"]
    flags = [f"--storage-uri={tmp_path}/store", "--run-id=r", f"--name={name}", "--dataset=d"]
    assert main([verb, *flags, *needed]) == 2
    assert "--name: expected" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("uri", ["", " ", "s3://", "s3:///prefix", "s3:/bucket/landseg", "s3:bucket", "gs://bucket"])
@pytest.mark.parametrize("verb", ["stage-data", "status", "prune"])
def test_what_is_no_place_in_storage_is_never_a_local_folder(
    verb: str, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = {"stage-data": ["--source=raw"], "status": ["--run-id=r"]}.get(verb, [])
    assert main([verb, f"--storage-uri={uri}", *needed]) == 2
    assert "expected s3://bucket/key" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
