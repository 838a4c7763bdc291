"""verify: damage in any object is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from manifest_examples import BYTES, CONTENT, MANIFESTS, PATHS, blob, dataset, model, write
from s3_endpoint import S3

from landseg import storage
from landseg.cli import main as cli
from landseg.contracts.documents import Document
from landseg.contracts.model import CheckpointInfo
from landseg.contracts.references import Reference


def verify(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(["verify", *arguments])
    out, err = capsys.readouterr()
    return status, out, err.splitlines()[-1] if err else ""


@pytest.mark.parametrize("example", MANIFESTS)
def test_every_object_of_every_kind_is_read(
    tmp_path: Path, example: Callable[[], Document], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "sets" / "one")
    loaded = write(example(), folder)
    paths = PATHS[loaded.document.kind]
    status, out, _ = verify(loaded.uri, capsys=capsys)
    assert status == 0
    total = sum(len(CONTENT.get(path, BYTES)) for path in paths)
    assert out == f"{loaded.uri}: {loaded.document.kind}, {len(paths)} objects, {total} bytes, all intact\n"
    for path in paths:
        content = CONTENT.get(path, BYTES)
        seen = 1 if path in CONTENT else len(paths)  # what a damaged list of objects holds is not known
        for damaged in (content[:-1], content[:-1] + b"?"):
            storage.put_bytes(storage.join(folder, path), damaged)
            status, out, err = verify(loaded.uri, capsys=capsys)
            assert status == 2
            assert out.startswith(f"{storage.join(folder, path)}: expected ")
            assert err.endswith(
                f"1 of {seen} objects are damaged or missing "
                "(remove the damaged objects, and run the stages that wrote them again)"
            )
        storage.put_bytes(storage.join(folder, path), content)


def test_what_is_wrong_is_listed_and_said_in_json(s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = write(dataset(), f"{s3.uri}/sets/one")
    reference = Reference(uri=loaded.uri, sha256=loaded.sha256, manifest_kind=loaded.document.kind)
    pointer = tmp_path / "dataset.json"
    pointer.write_bytes(reference.to_bytes())
    storage.delete(f"{s3.uri}/sets/one/tiles-val.jsonl")
    damaged = bytearray(BYTES)
    damaged[7] ^= 4
    storage.put_bytes(f"{s3.uri}/sets/shards/one.tar", bytes(damaged))
    status, out, err = verify(str(pointer), "--json", capsys=capsys)
    assert status == 2
    assert err == f"landseg verify: error: {loaded.uri}: 2 of 3 objects are damaged or missing " + (
        "(remove the damaged objects, and run the stages that wrote them again)"
    )
    report = json.loads(out)
    assert (report["uri"], report["num_objects"]) == (loaded.uri, 3)
    assert report["manifests"] == [{"uri": loaded.uri, "kind": "landseg.dataset", "sha256": loaded.sha256}]
    assert [item["uri"] for item in report["problems"]] == [
        f"{s3.uri}/sets/one/tiles-val.jsonl",
        f"{s3.uri}/sets/shards/one.tar",
    ]
    assert report["problems"][0]["problem"] == "no such object"
    assert report["problems"][1]["problem"].startswith("expected bytes with sha256")
    write(dataset(), f"{s3.uri}/sets/one")
    status, out, _ = verify(str(pointer), "--json", capsys=capsys)
    assert (status, json.loads(out)["problems"]) == (0, [])


def test_what_is_no_manifest_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, says in (
        (b"[]", "expected a document of kind 'landseg.dataset', "),
        (b'{"kind": "other"}', "found 'other'"),
        (b"\xff", "expected JSON"),
    ):
        (tmp_path / "x.json").write_bytes(content)
        status, _, err = verify(str(tmp_path / "x.json"), capsys=capsys)
        assert status == 2
        assert says in err
    loaded = write(dataset(), str(tmp_path / "sets" / "one"))
    wrong = Reference(uri=loaded.uri, sha256="0" * 64, manifest_kind=loaded.document.kind)
    (tmp_path / "x.json").write_bytes(wrong.to_bytes())
    status, _, err = verify(str(tmp_path / "x.json"), capsys=capsys)
    assert status == 2
    assert f"{loaded.uri}: expected bytes with sha256 0000" in err


def test_a_run_is_read_with_its_checkpoints_and_its_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path)
    dataset_uri = write(dataset(), f"{root}/datasets/0123456789abcdef").uri
    model_uri = write(model().model_copy(update={"dataset_id": "0123456789abcdef"}), f"{root}/runs/r/train/swin/a").uri
    checkpoint = CheckpointInfo(iteration=3, epoch=1, file=blob("iter_3.pth"))
    checkpoint_uri = f"{root}/runs/r/train/swin/a/checkpoints/iter_3.json"
    storage.put_bytes(f"{root}/runs/r/train/swin/a/checkpoints/iter_3.pth", BYTES)
    storage.write_document(checkpoint_uri, checkpoint)
    status, out, _ = verify(f"{root}/runs/r/", capsys=capsys)
    assert status == 0
    intact = [line.split(": ")[0] for line in out.splitlines() if line.endswith("all intact")]
    assert intact == [checkpoint_uri, model_uri, dataset_uri]
    storage.put_bytes(f"{root}/datasets/shards/one.tar", BYTES[1:])
    storage.delete(f"{root}/runs/r/train/swin/a/checkpoints/iter_3.pth")
    storage.put_bytes(f"{root}/runs/r/export-probs/swin/b/manifest.json", b"{")
    status, out, err = verify(f"{root}/runs/r", "--json", capsys=capsys)
    assert status == 2
    assert err.startswith(f"landseg verify: error: {root}/runs/r: 3 of 6 objects are damaged or missing")
    report = json.loads(out)
    assert [manifest["uri"] for manifest in report["manifests"]] == [checkpoint_uri, model_uri, dataset_uri]
    assert [item["uri"].removeprefix(root) for item in report["problems"]] == [
        "/datasets/shards/one.tar",
        "/runs/r/export-probs/swin/b/manifest.json",
        "/runs/r/train/swin/a/checkpoints/iter_3.pth",
    ]
    (tmp_path / "empty" / "x").mkdir(parents=True)
    storage.put_bytes(f"{root}/empty/x/notes.txt", b"")
    status, _, err = verify(f"{root}/empty", capsys=capsys)
    assert (status, "expected a manifest, or a folder with manifests below it" in err) == (2, True)
