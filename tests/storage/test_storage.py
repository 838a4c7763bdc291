"""Object storage: folders and a real S3 endpoint behave alike."""

from __future__ import annotations

import hashlib
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from s3_endpoint import S3

from landseg import storage
from landseg.contracts.errors import ContractError, DamagedObjectError, ObjectNotFoundError, StorageError
from landseg.contracts.references import Reference
from landseg.storage import s3
from landseg.storage.s3 import folders

BIG = 40 << 20  # three parts, the last one short


@pytest.fixture(params=["s3", "folder"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3").uri) if request.param == "s3" else str(tmp_path / "store")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big.bin"
    path.write_bytes(os.urandom(1 << 20) * 40 + b"end")
    return path


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 1000])
def test_bytes_come_back(root: str, data: bytes) -> None:
    uri = storage.join(root, "a", "ü b+c.bin")
    storage.put_bytes(uri, data)
    assert storage.get_bytes(uri) == data
    assert storage.get_bytes(uri, sha256=hashlib.sha256(data).hexdigest()) == data
    assert storage.stat(uri) == storage.ObjectInfo(uri, len(data))


@pytest.mark.parametrize("size", [0, 1, 16 << 20, (16 << 20) + 1])
def test_files_of_all_sizes_come_back(root: str, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(
        os.urandom(min(size, 1 << 20)) * (size >> 20 or 1) + b"x" * (size % (1 << 20) * (size >> 20 > 0))
    )
    assert source.stat().st_size == size
    uri = storage.join(root, "file")
    storage.put_file(uri, source)
    storage.get_file(uri, target, sha256=storage.file_sha256(source))
    assert storage.file_sha256(target) == storage.file_sha256(source)
    storage.check(uri, size_bytes=size, sha256=storage.file_sha256(source))


def test_a_large_file_goes_up_in_parts_and_comes_back(root: str, tmp_path: Path, big: Path) -> None:
    uri, sha256 = storage.join(root, "big"), storage.file_sha256(big)
    storage.put_file(uri, big)
    storage.get_file(uri, tmp_path / "back", sha256=sha256)
    storage.check(uri, size_bytes=big.stat().st_size, sha256=sha256)
    assert storage.get_bytes(uri, byte_range=(BIG - 5, 8)) == big.read_bytes()[-8:]


def test_a_file_that_goes_up_in_one_request_is_not_held_in_memory(root: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20) * 30)
    storage.try_writing(root)  # the client takes memory too
    tracemalloc.start()
    try:
        storage.put_file(storage.join(root, "file"), source)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 << 20


def test_ranges(root: str) -> None:
    uri = storage.join(root, "ranges")
    storage.put_bytes(uri, bytes(range(100)))
    assert storage.get_bytes(uri, byte_range=(10, 5)) == bytes(range(10, 15))
    assert storage.get_bytes(uri, byte_range=(0, 0)) == b""
    digest = hashlib.sha256(bytes(range(10, 15))).hexdigest()
    assert storage.get_bytes(uri, byte_range=(10, 5), sha256=digest) == bytes(range(10, 15))
    for byte_range in ((95, 6), (100, 1), (500, 5)):
        with pytest.raises(DamagedObjectError, match=r"expected \d bytes at offset \d+, found \d"):
            storage.get_bytes(uri, byte_range=byte_range)


def test_an_object_that_is_not_there(root: str, tmp_path: Path) -> None:
    uri = storage.join(root, "nothing")
    assert storage.stat(uri) is None
    storage.delete(uri)
    for read in (
        lambda: storage.get_bytes(uri),
        lambda: storage.get_bytes(uri, byte_range=(0, 5)),
        lambda: storage.get_file(uri, tmp_path / "t"),
        lambda: storage.check(uri, size_bytes=1, sha256="0" * 64),
    ):
        with pytest.raises(ObjectNotFoundError, match=r"nothing: no such (object|file)"):
            read()
    assert list(tmp_path.glob("**/*partial")) == []


def test_a_source_file_that_is_not_there_is_named(root: str, tmp_path: Path) -> None:
    for put in (storage.put_file, storage.put_if_absent):
        with pytest.raises(ObjectNotFoundError, match=r"missing\.tar: no such file"):
            put(storage.join(root, "x"), tmp_path / "missing.tar")


def test_damaged_bytes_are_refused_and_leave_no_file(root: str, tmp_path: Path) -> None:
    uri, other = storage.join(root, "damaged"), hashlib.sha256(b"other").hexdigest()
    storage.put_bytes(uri, b"12345")
    for read in (
        lambda: storage.get_bytes(uri, sha256=other),
        lambda: storage.get_bytes(uri, byte_range=(0, 5), sha256=other),
        lambda: storage.get_file(uri, tmp_path / "t", sha256=other),
        lambda: storage.check(uri, size_bytes=5, sha256=other),
        lambda: storage.check(uri, size_bytes=6, sha256=hashlib.sha256(b"12345").hexdigest()),
    ):
        with pytest.raises(DamagedObjectError, match=r"damaged: expected .* found"):
            read()
    assert not (tmp_path / "t").exists()


def test_an_object_has_the_etag_that_is_listed_of_it(s3: S3) -> None:
    storage.put_bytes(f"{s3.uri}/etag", b"content")
    (listed,) = storage.list_objects(s3.uri)
    found = storage.stat(f"{s3.uri}/etag")
    assert found is not None
    assert found.etag == listed.etag == hashlib.md5(b"content").hexdigest()


def test_etags_of_whole_and_of_multipart_objects(tmp_path: Path) -> None:
    def md5(data: bytes) -> hashlib._Hash:
        return hashlib.md5(data, usedforsecurity=False)

    content = bytes(range(256)) * (70 << 10)  # 17.5 MiB
    path = tmp_path / "file"
    path.write_bytes(content)
    eights = b"".join(md5(content[at : at + (8 << 20)]).digest() for at in range(0, len(content), 8 << 20))
    assert s3.etag_confirms(md5(content).hexdigest(), path)
    assert s3.etag_confirms(f"{md5(eights).hexdigest()}-3", path)
    assert not s3.etag_confirms(f"{md5(eights).hexdigest()}-2", path)
    assert not s3.etag_confirms("0" * 32, path)
    path.write_bytes(content[:-1] + b"?")
    assert not s3.etag_confirms(f"{md5(eights).hexdigest()}-3", path)


def test_listing_and_deleting(root: str) -> None:
    names = ["a/1", "a/2", "a/b/3", "ab/4"]
    for name in names:
        storage.put_bytes(storage.join(root, name), name.encode())
    assert storage.list_objects(storage.join(root, "a")) == [
        storage.ObjectInfo(storage.join(root, name), len(name)) for name in names[:3]
    ]
    assert storage.list_objects(storage.join(root, "nowhere")) == []
    storage.delete(storage.join(root, "a/1"))
    assert [info.uri for info in storage.list_objects(root + "/")] == [storage.join(root, name) for name in names[1:]]


def test_many_are_deleted_in_few_requests(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.storage.s3.folders._DELETED_AT_ONCE", 3)
    uris = [storage.join(root, f"many/{name}") for name in ("1", "2", "3", "4 &", "ü<", "6", "7")]
    storage.put_many((uri, b"x") for uri in uris)
    storage.delete_many([*uris[:5], storage.join(root, "many/absent")])
    assert [info.uri for info in storage.list_objects(root)] == uris[5:]

    def refused(uri: str, operation: str, **arguments: object) -> dict[str, object]:
        if operation != "delete_objects":
            return ask(uri, operation, **arguments)
        raise StorageError(uri, "is not implemented") from ClientError({"Error": {"Code": "NotImplemented"}}, operation)

    ask = folders.ask
    monkeypatch.setattr(folders, "ask", refused)
    storage.delete_many(uris[5:])
    assert storage.list_objects(root) == []


def test_many_objects(root: str, tmp_path: Path) -> None:
    made: list[int] = []

    def objects() -> Iterator[tuple[str, bytes | Path]]:
        for number in range(40):
            made.append(number)
            yield storage.join(root, f"{number:03}"), str(number).encode()

        yield storage.join(root, "file"), tmp_path / "file"

    (tmp_path / "file").write_bytes(b"from a file")
    storage.put_many(objects())
    uris = [storage.join(root, f"{number:03}") for number in made]
    assert [info.uri for info in storage.list_objects(root)] == [*uris, storage.join(root, "file")]
    assert dict(storage.parallel(lambda uri: (uri, storage.get_bytes(uri)), uris)) == {
        uri: str(number).encode() for number, uri in enumerate(uris)
    }
    assert storage.get_bytes(storage.join(root, "file")) == b"from a file"


def test_content_addressed_objects_are_written_once_unless_the_size_is_wrong(root: str) -> None:
    uri = storage.join(root, "addressed")
    assert storage.put_if_absent(uri, b"abc")
    assert not storage.put_if_absent(uri, b"abc")
    storage.put_bytes(uri, b"ab")
    assert storage.put_if_absent(uri, b"abc")
    assert storage.get_bytes(uri) == b"abc"


def test_parallel_takes_items_only_as_workers_come_free() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield len(taken)

    results = storage.parallel(lambda item: item * 2, endless(), workers=2)
    assert {next(results) for _ in range(6)} <= {item * 2 for item in range(20)}
    results.close()  # type: ignore[attr-defined]
    assert len(taken) < 20


def test_parallel_stops_at_the_first_error() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    with pytest.raises(ValueError, match="three"):
        list(storage.parallel(work, range(1000), workers=2))
    assert len(begun) < 100


def test_a_document_that_no_reader_accepts_is_not_written(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.contracts.documents.MAX_DOCUMENT_BYTES", 300)
    reference = Reference(uri="s3://x/y", sha256="0" * 64, manifest_kind="landseg.dataset")
    large = reference.model_copy(update={"facts": {"x": "y" * 300}})
    uri = storage.join(root, "manifest.json")
    for write in (storage.write_document, storage.publish_manifest):
        with pytest.raises(ContractError, match=r"manifest\.json: expected at most 300 bytes of JSON"):
            write(uri, large)
        assert storage.stat(uri) is None
    assert storage.write_document(uri, reference).sha256


def test_documents(root: str, tmp_path: Path) -> None:
    uri = storage.join(root, "manifest.json")
    inner = Reference(uri="s3://x/y", sha256="0" * 64, manifest_kind="landseg.dataset", facts={"tiles": 3})
    written = storage.write_document(uri, inner)
    pointer = tmp_path / "pointer.json"
    pointer.write_bytes(Reference(uri=uri, sha256=written.sha256, manifest_kind=inner.kind).to_bytes())
    loaded = storage.read_document(Reference, str(pointer))
    assert (loaded.uri, loaded.sha256, loaded.document) == (uri, written.sha256, inner)
    pointer.write_bytes(Reference(uri=uri, sha256="1" * 64, manifest_kind=inner.kind).to_bytes())
    with pytest.raises(DamagedObjectError, match=r"manifest\.json: expected bytes with sha256 1111"):
        storage.read_document(Reference, str(pointer))
    storage.put_bytes(uri, pointer.read_bytes().replace(uri.encode(), b"/etc/hostname"))
    if uri.startswith("s3://"):  # whoever writes there does not say which files of this machine are read
        with pytest.raises(ContractError, match=r"expected a reference to s3://bucket/key.* found one to a path"):
            storage.read_document(Reference, uri)
    storage.put_bytes(uri, b"<html>")
    with pytest.raises(ContractError, match="expected JSON"):
        storage.read_document(Reference, uri)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://host/x", "found the scheme 'http'"),
        ("file:///etc/passwd", "found the scheme 'file'"),
        ("S3://bucket/x", "found the scheme 'S3'"),
        ("s3://", "bucket name ''"),
        ("s3:///key", "bucket name ''"),
        ("s3://-b/key", "bucket name '-b'"),
        ("s3://user@host/key", "found a name or a port in it"),
        ("s3://bucket", "found a bucket or a folder"),
        ("s3://bucket/a/", "found a bucket or a folder"),
        ("s3://bucket/../x", "without '.', '..' and empty parts"),
        ("s3://bucket/a/./x", "without '.', '..' and empty parts"),
        ("s3://bucket/a//x", "without '.', '..' and empty parts"),
        ("s3://bucket/" + "ü" * 513, "at most 1024 bytes"),
        ("s3://bucket/a\nb", "without control characters"),
        ("/tmp/a\0b", "without control characters"),
        ("s3://bucket/\ud800", "without control characters"),
        ("", "without control characters"),
    ],
)
def test_bad_uris_are_refused_by_every_function(uri: str, says: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for function in (
        storage.get_bytes,
        storage.stat,
        storage.delete,
        lambda bad: storage.put_bytes(bad, b""),
        lambda bad: storage.put_file(bad, source),
        lambda bad: storage.get_file(bad, tmp_path / "target"),
        lambda bad: storage.check(bad, size_bytes=0, sha256="0" * 64),
    ):
        with pytest.raises(StorageError) as caught:
            function(uri)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


def test_joining_climbs_to_shared_shards_only() -> None:
    assert storage.join("s3://bucket/a", "../shards/x") == "s3://bucket/shards/x"
    assert storage.join("/data/sets/1/", "../shards/x") == "/data/sets/shards/x"
    for climbing in ("../other", "../../shards/x", "../shards/../x", "a/../b", ".."):
        with pytest.raises(StorageError, match="something below it"):
            storage.join("s3://bucket/a/b", climbing)
    with pytest.raises(StorageError, match="no folder above"):
        storage.join("s3://bucket", "../shards/x")
    with pytest.raises(StorageError, match="no folder above"):
        storage.parent("s3://bucket")


def test_folders_report_what_the_file_system_says(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="is a directory"):
        storage.get_bytes(str(tmp_path))
    with pytest.raises(StorageError, match=r"not a directory|file exists"):
        storage.put_bytes(str(tmp_path / "file" / "below"), b"x")
    storage.put_bytes(str(tmp_path / "object"), b"x")
    with pytest.raises(StorageError, match=r"not a directory|file exists"):
        storage.get_file(str(tmp_path / "object"), tmp_path / "file" / "below")


def test_half_written_files_are_not_listed_and_are_cleaned_up(tmp_path: Path) -> None:
    stale, fresh = (tmp_path / f".{letter * 32}.partial" for letter in "ab")
    (tmp_path / "kept.partial").write_bytes(b"the user's own")
    for path in (stale, fresh):
        path.write_bytes(b"half")
    os.utime(stale, (0, 0))
    assert [info.uri for info in storage.list_objects(str(tmp_path))] == [str(tmp_path / "kept.partial")]
    assert storage.clean_abandoned(str(tmp_path)) == 1
    assert not stale.exists()
    assert fresh.exists()


def test_what_others_write_and_remove_meanwhile_is_neither_listed_nor_an_error(tmp_path: Path) -> None:
    stop = threading.Event()

    def write_and_remove() -> None:
        while not stop.is_set():
            storage.put_bytes(str(tmp_path / "object"), b"x")
            storage.delete(str(tmp_path / "object"))

    writers = [threading.Thread(target=write_and_remove) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3000):
            assert storage.clean_abandoned(str(tmp_path)) == 0
            assert len(storage.list_objects(str(tmp_path))) <= 1
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def test_a_folder_is_looked_through_once_a_day(tmp_path: Path) -> None:
    def left() -> Path:
        stale = tmp_path / f".{'a' * 32}.partial"
        stale.write_bytes(b"half")
        os.utime(stale, (0, 0))
        return stale

    stale = left()
    storage.clean_abandoned_daily(str(tmp_path))
    assert not stale.exists()
    left()
    storage.clean_abandoned_daily(str(tmp_path))
    assert [info.uri for info in storage.list_objects(str(tmp_path))] == []
    assert stale.exists()
    os.utime(tmp_path / ".landseg-cleaned", (0, 0))
    storage.clean_abandoned_daily(str(tmp_path))
    assert not stale.exists()
    storage.clean_abandoned_daily(str(tmp_path / "not there"))
    assert not (tmp_path / "not there").exists()


def test_a_reference_to_what_is_gone_tells_the_way_out(tmp_path: Path) -> None:
    gone = tmp_path / "datasets" / "manifest.json"
    reference = tmp_path / "reference.json"
    reference.write_bytes(Reference(uri=str(gone), sha256="0" * 64, manifest_kind="landseg.dataset").to_bytes())
    with pytest.raises(ObjectNotFoundError, match=rf"^{gone}: expected the manifest .* found nothing.*NO_CACHE=1\)$"):
        storage.read_document(Reference, str(reference))


def test_a_folder_in_memory_is_known_before_it_exists() -> None:
    assert storage.is_in_memory(Path("/dev/shm/not/there"))
    assert not storage.is_in_memory(Path("/proc"))
