"""Several that write the same at once: the first one stays, in a folder and on an endpoint."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from s3_endpoint import S3

from landseg import storage
from landseg.contracts.documents import Blob, sha256_hex
from landseg.contracts.labels import LabelsManifest
from landseg.contracts.references import Cost, Reference
from landseg.storage.records import read_record, settle_record


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    s3: S3 = request.getfixturevalue("s3")
    return s3.uri


def test_an_object_is_written_unless_there_is_one(root: str, tmp_path: Path) -> None:
    uri, file = storage.join(root, "a", "b"), tmp_path / "file"
    file.write_bytes(b"second")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second") and not storage.create(uri, file)
    assert storage.get_bytes(uri) == b"first"
    assert storage.create(storage.join(root, "c"), file)
    assert storage.get_bytes(storage.join(root, "c")) == b"second"
    assert len(storage.list_objects(root)) == 2


def test_of_many_at_once_one_succeeds(tmp_path: Path) -> None:
    for number in range(20):
        uri, written = str(tmp_path / str(number)), []
        together = threading.Barrier(8)

        def write(
            content: bytes, uri: str = uri, written: list[bytes] = written, together: threading.Barrier = together
        ) -> None:
            together.wait()
            if storage.create(uri, content):
                written.append(content)

        threads = [threading.Thread(target=write, args=(bytes([i]),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [storage.get_bytes(uri)] == written
        assert len(storage.list_objects(str(tmp_path))) == number + 1  # nothing half-written is left


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert storage.create(str(tmp_path / "a"), b"first")
    assert not storage.create(str(tmp_path / "a"), b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_object_never_takes_the_place_of_another(root: str) -> None:
    first = storage.put_once(root, "report.html", b"first")
    assert storage.put_once(root, "report.html", b"first") == first
    second = storage.put_once(root, "report.html", b"other")
    assert second.path == f"report-{sha256_hex(b'other')[:12]}.html"
    assert storage.put_once(root, "report.html", b"other") == second
    for blob in (first, second):
        storage.check(storage.join(root, blob.path), size_bytes=blob.size_bytes, sha256=blob.sha256)


def manifest(report: Blob, example: LabelsManifest) -> LabelsManifest:
    return example.model_copy(update={"report": report, "splits": {}, "layers": {}, "scenes": {}, "summary": report})


def test_the_first_manifest_stays_while_what_it_lists_is_there(root: str) -> None:
    from manifest_examples import labels

    uri = storage.join(root, "manifest.json")
    example = labels()
    ranking = storage.put_once(root, "ranking.csv", b"ranking")
    example = example.model_copy(update={"ranking": ranking})
    first = manifest(storage.put_once(root, "report.html", b"first"), example)
    other = manifest(storage.put_once(root, "report.html", b"other"), example)
    published = storage.publish_manifest(uri, first)
    assert published.document == first
    assert storage.publish_manifest(uri, other) == published
    # An object that was lost and made again with other bytes is not what the first manifest lists.
    storage.delete(storage.join(root, "report.html"))
    again = manifest(storage.put_once(root, "report.html", b"third"), example)
    replaced = storage.publish_manifest(uri, again)
    assert replaced.document == again and replaced == storage.read_document(LabelsManifest, uri)
    storage.put_bytes(uri, b"{}")
    assert storage.publish_manifest(uri, again) == replaced


def test_a_record_is_settled_by_whoever_comes_first(root: str) -> None:
    uri = storage.join(root, "costs.json")
    first, second = (Cost(seconds=seconds, num_gpus=0) for seconds in (1.0, 2.0))
    assert settle_record(uri, first) == first
    assert settle_record(uri, second) == first == read_record(Cost, uri)
    storage.put_bytes(uri, b"damaged")
    assert settle_record(uri, second) == second == read_record(Cost, uri)


@pytest.mark.parametrize(("refusal", "status"), [("NotImplemented", 501), ("InvalidArgument", 400)])
def test_endpoints_that_refuse_conditions_are_written_without(
    refusal: str, status: int, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    from landseg.storage.s3 import requests as s3_requests

    asked: list[bool] = []
    request = s3_requests.ask

    def ask(uri: str, operation: str, **arguments: object) -> dict[str, object]:
        if operation == "put_object":
            asked.append("IfNoneMatch" in arguments)
        if "IfNoneMatch" in arguments:
            answer = {"Error": {"Code": refusal}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise s3_requests._refused(uri, cause := ClientError(answer, operation)) from cause  # type: ignore[arg-type]
        return request(uri, operation, **arguments)

    monkeypatch.setattr("landseg.storage.s3.uploads.ask", ask)
    uri = storage.join(s3.uri, "object")
    assert storage.create(uri, b"written") and not storage.create(uri, b"not written")
    assert asked == [True, False]
    assert storage.get_bytes(uri) == b"written"


def test_references_fit(root: str) -> None:
    """What a reference holds is the checksum of the manifest that stands."""
    uri = storage.join(root, "reference.json")
    one, two = (Reference(uri=f"s3://b/{name}", sha256="0" * 64, manifest_kind="k") for name in "ab")
    found = [storage.publish_manifest(uri, document).sha256 for document in (one, two)]
    assert set(found) == {sha256_hex(storage.get_bytes(uri))}
