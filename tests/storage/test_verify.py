from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from manifest_examples import BYTES, MANIFESTS, PATHS, dataset, write
from s3_endpoint import S3

from landseg import cli, storage
from landseg.documents import Document, Reference


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
    assert out == (
        f"{loaded.uri}: {loaded.document.kind}, {len(paths)} objects, {len(paths) * len(BYTES)} bytes, all intact\n"
    )
    for path in paths:
        for damaged in (BYTES[:-1], BYTES[:-1] + b"?"):
            storage.put_bytes(storage.join(folder, path), damaged)
            status, out, err = verify(loaded.uri, capsys=capsys)
            assert status == 2
            assert out.startswith(f"{storage.join(folder, path)}: expected ")
            assert err.endswith(
                f"1 of {len(paths)} objects are damaged or missing (run the stage that wrote them again)"
            )
        storage.put_bytes(storage.join(folder, path), BYTES)


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
        "(run the stage that wrote them again)"
    )
    report = json.loads(out)
    assert (report["uri"], report["kind"], report["num_objects"]) == (loaded.uri, "landseg.dataset", 3)
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
